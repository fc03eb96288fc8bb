"""Text to token ids and back, from what a GGUF file says about its vocabulary.

Text for byte-level vocabularies (GPT-2's kind: Llama 3, Qwen, SmolLM ...) is cut into words by the
`tokenizers` library and the expressions of pretokenizers.py. `_core.PieceTokenizer` merges the words, and for
SentencePiece's kind (Llama 2, Gemma) the whole text: there the scores are the merge order, equal ones
included. The library could merge too, but takes several times as long to open a vocabulary.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from pyllm.errors import PyllmError
from pyllm.pretokenizers import pre_tokenizer
from pyllm.vocabulary import Metadata, TokenType, Vocabulary, merges, read_vocabulary, scores

_SPECIAL = (TokenType.CONTROL, TokenType.UNKNOWN)
_SPACE = "\u2581"  # stands for a space in SentencePiece's tokens
_KEPT = 16384  # texts of tokens: some hundred bytes each


class Model(Protocol):
    """Merges plain text, in which no special token is looked for, into tokens."""

    def encode(self, text: str, after_special: bool) -> list[int]: ...

    def piece(self, token: bytes) -> bytes:
        """What a normal token stands for."""
        ...

    def user_piece(self, token: bytes) -> bytes:
        """What a user-defined token stands for."""
        ...


class SpecialTokens(Protocol):
    """Cuts (text, trusted) segments into ids of special tokens and the texts between them."""

    def split(self, segments: Sequence[tuple[str, bool]]) -> list[int | str]: ...


class Tokenizer:
    """A model's vocabulary. Immutable: any number of threads may use one."""

    def __init__(self, vocabulary: Vocabulary, model: Model, add_bos: bool) -> None:
        self.vocabulary = vocabulary
        self.bos = vocabulary.bos
        self.eos = vocabulary.eos
        self.eot = vocabulary.eot
        self.eom = vocabulary.eom
        self.unknown = vocabulary.unknown
        self.pad = vocabulary.pad
        self.stop_ids = vocabulary.stop_ids
        self.add_bos = add_bos and self.bos is not None
        self.whole: dict[int, str] = {}  # texts met so far that do not depend on what stands around them
        self._model = model
        self._special = self.special_tokens()

    @classmethod
    def from_gguf(cls, source: str | os.PathLike[str] | Metadata) -> Tokenizer:
        """Build from a GGUF file, given by its path or as an open `_core.GgufFile`.

        Raises PyllmError when the metadata is missing, does not fit together, or names a pre-tokenizer that
        pyllm does not know.
        """
        if isinstance(source, str | os.PathLike):
            from pyllm._core import GgufFile

            file: Metadata = GgufFile(os.fspath(source))
        else:
            file = source
        vocabulary = read_vocabulary(file)
        if vocabulary.model == "llama":
            return cls(vocabulary, _Pieces(vocabulary, file), _or(vocabulary.add_bos, True))
        pre = pre_tokenizer(vocabulary.pre)
        model = _ByteLevel(vocabulary, file) if pre.bytes_as_characters else _Pieces(vocabulary, file)
        # Gemma 4 cannot do without its first token, whatever its files say.
        add_bos = True if vocabulary.pre == "gemma4" else _or(vocabulary.add_bos, pre.add_bos)
        return cls(vocabulary, model, add_bos)

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary.tokens)

    def encode(
        self,
        text: str | bytes,
        add_bos: bool | None = None,
        parse_special: bool = False,
        continued: bool = False,
    ) -> list[int]:
        """Token ids of `text`.

        add_bos: None does what the model's metadata says. parse_special: text such as `<|im_end|>` becomes the
        control token that it names; leave it False for what users write. User-defined tokens always match.
        continued: the text goes on another one, so that no space is put before its first word.
        Bytes that are not UTF-8 and lone surrogates count as U+FFFD.
        """
        if isinstance(text, bytes | bytearray):
            text = bytes(text).decode("utf-8", "replace")
        ids = self.encode_segments([(text, parse_special)], continued=continued)
        if add_bos and self.bos is None:
            raise PyllmError("add_bos: this model has no token that begins a text")
        if self.bos is not None and (self.add_bos if add_bos is None else add_bos):
            ids.insert(0, self.bos)
        return ids

    def encode_between(self, before: str | Sequence[int], after: str) -> list[int]:
        """A prompt that a model trained to fill in the middle continues with what lies between the two.

        PyllmError where the vocabulary has no tokens for it. Source: arXiv:2207.14255, prefix first.
        """
        if self.vocabulary.fim is None:
            raise PyllmError(
                "this model cannot fill in the middle: its vocabulary lacks tokens for prefix, suffix, middle"
            )
        prefix, suffix, middle = self.vocabulary.fim
        start = self.encode(before, add_bos=False) if isinstance(before, str) else list(before)
        bos = [self.bos] if self.add_bos and self.bos is not None else []
        return [*bos, prefix, *start, suffix, *self.encode(after, add_bos=False), middle]

    def encode_segments(
        self,
        segments: Iterable[tuple[str, bool]],
        special: SpecialTokens | None = None,
        continued: bool = False,
    ) -> list[int]:
        """Token ids of (text, trusted) segments as one text: words run on across their borders, but only text
        that is trusted from its first to its last character becomes a control token."""
        parts = (special or self._special).split([(repair(text), trusted) for text, trusted in segments])
        ids: list[int] = []
        after_special = not continued
        for part in parts:
            if isinstance(part, int):
                ids.append(part)
                after_special = True
            else:
                ids += self._model.encode(part, after_special)
                after_special = False
        return ids

    def control_tokens(self, reserved: str = "") -> set[int]:
        """Tokens that only trusted text becomes. User-defined tokens whose text occurs in `reserved`, a chat
        template's source, count too: some files declare their turn markers so."""
        v = self.vocabulary
        found = set(v.of_types(*_SPECIAL))
        for i in v.of_types(TokenType.USER_DEFINED):
            text = v.tokens[i].decode("utf-8", "replace")
            if len(text) > 1 and not text.isspace() and text in reserved:
                found.add(i)
        return found

    def special_tokens(self, reserved: str = "") -> SpecialTokens:
        """Finds special tokens in text. reserved: see control_tokens."""
        from pyllm._core import SpecialTokens as Finder

        v = self.vocabulary
        controls = self.control_tokens(reserved)
        rows = []
        for i in v.of_types(*_SPECIAL, TokenType.USER_DEFINED):
            try:
                text = v.tokens[i].decode()
            except UnicodeDecodeError:
                continue  # no text can name it
            rows.append((text, i, i in controls, i in v.strip_left, i in v.strip_right))
        found: SpecialTokens = Finder(rows)
        return found

    def piece_bytes(self, token: int) -> bytes:
        """What a token stands for; of byte tokens, and of pieces of characters, this may be no valid UTF-8."""
        if not 0 <= token < self.vocab_size:
            raise PyllmError(f"token id {token}: the vocabulary has {self.vocab_size} tokens")
        stored = self.vocabulary.tokens[token]
        kind = self.vocabulary.types[token]
        if kind in _SPECIAL:
            return stored
        if kind == TokenType.USER_DEFINED:
            return self._model.user_piece(stored)
        if kind == TokenType.BYTE:
            return _byte_of(stored) or stored
        return self._model.piece(stored)

    def piece(self, token: int) -> str:
        """What a token stands for, U+FFFD where it is only a part of a character."""
        return self.piece_bytes(token).decode("utf-8", "replace")

    def is_special(self, token: int) -> bool:
        """True for control and unknown tokens: those that `skip_special` leaves out."""
        return self.vocabulary.types[token] in _SPECIAL

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of `ids` as a whole text: the space that `encode` puts before the first word of some models
        is taken away again. Bytes that form no character become U+FFFD."""
        detokenizer = self.detokenizer(skip_special=skip_special, start=True)
        return "".join([detokenizer.push(token) for token in ids]) + detokenizer.flush()

    def detokenizer(
        self, skip_special: bool = True, start: bool = False, visible: Iterable[int] = ()
    ) -> Detokenizer:
        """For text that arrives token by token. start: the ids begin a text, see `decode`; leave it False for
        generated tokens, whose leading space belongs to the text. visible: control tokens that are text all the
        same."""
        return Detokenizer(self, skip_special, start and self.vocabulary.add_space_prefix, visible)


class Detokenizer:
    """Turns tokens into text one by one: never half a character, and never one lost."""

    def __init__(
        self, tokenizer: Tokenizer, skip_special: bool, strip_space: bool, visible: Iterable[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._visible = frozenset(visible)
        self._strip_space = strip_space
        self._decoder: Any = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = tokenizer.whole
        self._between = not strip_space  # characters: what comes now means what it always means

    def push(self, token: int) -> str:
        """The text that this token completes; empty while a character still lacks bytes."""
        if self._between and (known := self._whole.get(token)) is not None:
            return known
        between = self._between
        text = self._push(token)
        self._between = not self._decoder.buffer and not self._strip_space
        if between and self._between and len(self._whole) < _KEPT and not self._tokenizer.is_special(token):
            self._whole[token] = text
        return text

    def _push(self, token: int) -> str:
        piece = self._tokenizer.piece_bytes(token)
        if self._tokenizer.is_special(token):
            if self._skip_special and token not in self._visible:
                return ""
            if token != self._tokenizer.bos:
                self._strip_space = False
        elif self._strip_space:
            self._strip_space = False
            piece = piece.removeprefix(b" ")
        text: str = self._decoder.decode(piece)
        return text

    def flush(self) -> str:
        """The end of the text: bytes that wait for the rest of a character become U+FFFD."""
        text: str = self._decoder.decode(b"", final=True)
        return text


class _Pieces:
    """SentencePiece's kind of vocabulary."""

    def __init__(self, vocabulary: Vocabulary, file: Metadata) -> None:
        from pyllm._core import PieceTokenizer

        tokens = vocabulary.tokens
        byte_tokens = [vocabulary.ids.get(b"<0x%02X>" % byte, -1) for byte in range(256)]
        unknown = -1 if vocabulary.unknown is None else vocabulary.unknown
        if vocabulary.model == "llama":
            # User-defined tokens are found before any merging, unless they hold spaces in disguise.
            plain = (TokenType.NORMAL, TokenType.UNUSED, TokenType.UNDEFINED)
            usable = bytearray(vocabulary.types.translate(bytes(kind in plain for kind in range(256))))
            for i in vocabulary.of_types(TokenType.USER_DEFINED):
                usable[i] = _SPACE.encode() in tokens[i]
            self._pieces: Any = PieceTokenizer.from_scores(
                tokens, scores(file, len(tokens)), bytes(usable), byte_tokens, unknown
            )
        else:
            every = bytes([1]) * len(tokens)
            self._pieces = PieceTokenizer.from_merges(tokens, merges(file), every, byte_tokens, -1)
        self._prefix = vocabulary.add_space_prefix

    def encode(self, text: str, after_special: bool) -> list[int]:
        if self._prefix and after_special:
            text = " " + text
        ids: list[int] = self._pieces.encode(text.replace(" ", _SPACE))
        return ids

    def piece(self, token: bytes) -> bytes:
        return token.replace(_SPACE.encode(), b" ")

    user_piece = piece


class _ByteLevel:
    """GPT-2's kind: every byte has a printable character, and words are merged one by one."""

    def __init__(self, vocabulary: Vocabulary, file: Metadata) -> None:
        from tokenizers import Regex, pre_tokenizers

        from pyllm._core import PieceTokenizer

        self._bytes = _byte_table()
        pre = pre_tokenizer(vocabulary.pre)
        self._whole = pre.ignore_merges
        splits: list[Any] = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in pre.patterns]
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._words = pre_tokenizers.Sequence([*splits, byte_level])
        # Control tokens must not come out of text, as a word of its own or through a merge. Some vocabularies
        # lack bytes: those are left out, and what is around them does not merge.
        usable = vocabulary.types.translate(bytes(kind not in _SPECIAL for kind in range(256)))
        no_bytes = [-1] * 256
        self._pieces = PieceTokenizer.from_merges(vocabulary.tokens, merges(file), usable, no_bytes, -1)

    def encode(self, text: str, after_special: bool) -> list[int]:
        try:
            words = self._words.pre_tokenize_str(text)
        except BaseException as error:  # the library's panics derive from BaseException alone
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            raise PyllmError(
                f"this text cannot be cut into words ({str(error)[:200]}); it is {len(text)} long"
            ) from None
        return self._pieces.encode_words(words, self._whole)

    def piece(self, token: bytes) -> bytes:
        try:
            return token.decode().translate(self._bytes).encode("latin-1")
        except UnicodeError:
            return token  # not written in byte characters: it can only mean itself

    def user_piece(self, token: bytes) -> bytes:
        return token


def repair(text: str) -> str:
    """Text that can be encoded: pairs of surrogates become the character they stand for, lone ones U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _byte_characters() -> list[str]:
    """[byte] the character that stands for it: itself where that prints, else one from U+0100 on."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def _byte_table() -> str:
    """For str.translate: [character] the byte that it stands for; what stands for none becomes no byte."""
    characters = _byte_characters()
    table = [_SPACE] * (max(map(ord, characters)) + 1)
    for byte, character in enumerate(characters):
        table[ord(character)] = chr(byte)
    return "".join(table)


def _byte_of(token: bytes) -> bytes | None:
    """The byte that `<0x0A>` names."""
    if len(token) == 6 and token.startswith(b"<0x") and token.endswith(b">"):
        try:
            return bytes.fromhex(token[3:5].decode())
        except ValueError:
            return None
    return None


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value
