"""The vocabulary of a GGUF file: its tokens, what kind each is, and which ones have a role.

Source: the GGUF specification's `tokenizer.ggml.*` keys. Which texts end a turn is common knowledge that no key
holds; the lists below follow the models in circulation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

from pyllm.errors import PyllmError


class Metadata(Protocol):
    """What is read from a file: `_core.GgufFile` is one."""

    def __contains__(self, key: str) -> bool: ...

    def get(self, key: str) -> Any: ...

    def numbers(self, key: str) -> list[Any] | None: ...

    def string_bytes(self, key: str) -> list[bytes]: ...


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and their roles. Ids of roles are None where the model has no such token."""

    model: str  # tokenizer.ggml.model: gpt2, llama or gemma4
    pre: str  # tokenizer.ggml.pre
    tokens: Sequence[bytes]  # [token] as stored, before any byte mapping
    ids: Mapping[bytes, int]
    types: bytes  # [token] TokenType
    renamed: frozenset[int]  # control tokens by their well-known text, which the file calls something else
    bos: int | None
    eos: int | None
    eot: int | None
    eom: int | None
    unknown: int | None
    pad: int | None
    fim: tuple[int, int, int] | None  # fill in the middle: before the prefix, the suffix, the middle
    stop_ids: frozenset[int]  # any of these ends a generation
    add_bos: bool | None  # None: the file does not say
    add_eos: bool
    add_space_prefix: bool
    strip_right: frozenset[int]  # special tokens that swallow the white space behind them
    strip_left: frozenset[int]

    def of_types(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of these types, in order."""
        # By the regular expression engine: a loop over 262,144 tokens would be felt at every start.
        return [match.start() for match in re.finditer(b"[" + re.escape(bytes(types)) + b"]", self.types)]


_BAR = "\uff5c"  # DeepSeek's full-width bar
_END_OF_TURN = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>",
    "_<EOT>", "[EOT]", f"<{_BAR}end▁of▁sentence{_BAR}>", "<end_of_utterance>",
)  # fmt: skip
_END_OF_MESSAGE = ("<|eom_id|>",)
_STOPS = (
    *_END_OF_TURN, *_END_OF_MESSAGE, "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "</s>", "[EOS]",
    "<eos>", "<turn|>", "<|tool_response>", "[e~[",
)  # fmt: skip
# Fill-in-the-middle tokens. The first three only ever guide a prompt; the others also end a generation.
_FIM_GUIDES = (
    ("fim_pre", "prefix", ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", f"<{_BAR}fim▁begin{_BAR}>",
                           "<PRE>", "▁<PRE>", "<|code_prefix|>", "<|prefix|>")),
    ("fim_suf", "suffix", ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", f"<{_BAR}fim▁hole{_BAR}>",
                           "<SUF>", "▁<SUF>", "<|code_suffix|>", "<|suffix|>")),
    ("fim_mid", "middle", ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", f"<{_BAR}fim▁end{_BAR}>",
                           "<MID>", "▁<MID>", "<|code_middle|>", "<|middle|>")),
)  # fmt: skip
_FIM_STOPS = (
    ("fim_pad", None, ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]")),
    ("fim_rep", None, ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>")),
    ("fim_sep", None, ("<|file_sep|>",)),
)
_MODELS = ("gpt2", "llama", "gemma4")


def read_vocabulary(file: Metadata) -> Vocabulary:
    """Read and check `tokenizer.ggml.*`. Raises PyllmError naming the key, what was expected and found."""
    model = _text(file, "model")
    if model is None:
        raise PyllmError("tokenizer.ggml.model: missing; the file holds no vocabulary")
    if model not in _MODELS:
        raise PyllmError(f"tokenizer.ggml.model: unknown kind {model!r}; known: {', '.join(_MODELS)}")
    tokens = _strings(file, "tokens")
    if not tokens:
        raise PyllmError("tokenizer.ggml.tokens: expected at least one token, found none")
    if b"" in tokens:
        tokens = [token or b"[EMPTY_%d]" % i for i, token in enumerate(tokens)]
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        first = next(i for i, token in enumerate(tokens) if ids[token] != i)
        raise PyllmError(
            f"tokenizer.ggml.tokens: {tokens[first].decode('utf-8', 'replace')[:60]!r} is listed twice, "
            f"as {first} and {ids[tokens[first]]}"
        )
    types = _types(file, len(tokens))
    roles = _Roles(file, tokens, ids, types)
    spm = model == "llama"
    bos, eos, unknown = (roles.id(key) for key in ("bos", "eos", "unknown"))
    if spm:  # SentencePiece's fixed places, for files that do not say
        bos, eos, unknown = (
            fixed if value is None and fixed < len(tokens) else value
            for value, fixed in ((bos, 1), (eos, 2), (unknown, 0))
        )
    eot = roles.named("eot", None, _END_OF_TURN)
    eom = roles.named("eom", None, _END_OF_MESSAGE)
    prefix, suffix, middle = (roles.named(*role) for role in _FIM_GUIDES)
    found = [eos, eot, eom, *(roles.named(*role) for role in _FIM_STOPS), *roles.all_of(_STOPS)]
    stops = {i for i in found if i is not None}
    ordinary = _ordinary(ids, stops)
    for i in ordinary:
        if tokens[i] == b"</s>":
            types[i] = TokenType.NORMAL
    return Vocabulary(
        model=model,
        pre="gemma4" if model == "gemma4" else _text(file, "pre") or "default",
        tokens=tokens,
        ids=ids,
        types=bytes(types),
        renamed=frozenset(roles.renamed),
        bos=bos,
        eos=eos,
        eot=eot,
        eom=eom,
        unknown=unknown,
        pad=roles.id("padding"),
        fim=None if prefix is None or suffix is None or middle is None else (prefix, suffix, middle),
        stop_ids=frozenset(stops - ordinary),
        add_bos=_flag(file, "add_bos_token"),
        add_eos=bool(_flag(file, "add_eos_token")),
        add_space_prefix=_or(_flag(file, "add_space_prefix"), spm),
        strip_right=_strip_right(file, tokens, types),
        strip_left=_strip_left(file, ids),
    )


class _Roles:
    """Finds the tokens that have a role: by their key, or by their well-known texts."""

    def __init__(
        self, file: Metadata, tokens: Sequence[bytes], ids: Mapping[bytes, int], types: bytearray
    ) -> None:
        self._file, self._tokens, self._ids, self._types = file, tokens, ids, types
        self.renamed: set[int] = set()

    def id(self, key: str) -> int | None:
        key = f"tokenizer.ggml.{key}_token_id"
        value = self._file.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise PyllmError(f"{key}: expected a token id, found {value!r:.80}")
        if not 0 <= value < len(self._tokens):
            raise PyllmError(
                f"{key}: expected a token id below {len(self._tokens)}, the vocabulary's size, found {value}"
            )
        return value

    def named(self, key: str, old_key: str | None, texts: Sequence[str]) -> int | None:
        """The token of a role. One that is found by its text is a control token, whatever the file calls it."""
        found = self.id(key)
        if old_key is not None:
            old = self.id(old_key)
            found = old if old is not None else found
        return found if found is not None else next(iter(self.all_of(texts, limit=1)), None)

    def all_of(self, texts: Sequence[str], limit: int | None = None) -> list[int]:
        found = [i for text in texts if (i := self._ids.get(text.encode())) is not None][:limit]
        for i in found:
            if self._types[i] != TokenType.CONTROL:
                self.renamed.add(i)
            self._types[i] = TokenType.CONTROL
        return found


def _ordinary(ids: Mapping[bytes, int], stops: set[int]) -> set[int]:
    """Stops that another one shows to be none: <|end|> ends a part of a message, not the turn, in models that
    also have <|return|> and <|call|>; </s> is only a name beside <|tool_response>."""

    def has(text: bytes) -> bool:
        return ids.get(text) in stops

    found: set[bytes] = set()
    harmony = has(b"<|return|>") and has(b"<|call|>")
    solar = has(b"<|flush|>") and (has(b"<|call|>") or has(b"<|calls|>"))
    if harmony or solar:
        found.add(b"<|end|>")
    if has(b"<|tool_response>"):
        found.add(b"</s>")
    return {ids[text] for text in found if has(text)}


def _types(file: Metadata, count: int) -> bytearray:
    found = _numbers(file, "token_type", count)
    if found is None:
        return bytearray([TokenType.NORMAL]) * count
    known = range(max(TokenType) + 1)
    try:
        return bytearray(bytes(found).translate(bytes(kind if kind in known else 0 for kind in range(256))))
    except (ValueError, TypeError):  # kinds that no byte holds
        return bytearray([kind if kind in known else 0 for kind in found])


def _strip_right(file: Metadata, tokens: Sequence[bytes], types: bytearray) -> frozenset[int]:
    # Phi-3's special tokens swallow what follows; the file has no key for it, so its name has to tell.
    name = str(file.get("general.name") or "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return frozenset()
    special = {TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN}
    plain = {b"<unk>", b"<s>", b"<|endoftext|>"}
    return frozenset(
        i for i, t in enumerate(types) if (t in special or tokens[i] == b"</s>") and tokens[i] not in plain
    )


def _strip_left(file: Metadata, ids: Mapping[bytes, int]) -> frozenset[int]:
    jina = str(file.get("tokenizer.ggml.pre") or "") in ("jina-v2-de", "jina-v2-es", "jina-v2-code")
    return frozenset({ids[b"<mask>"]}) if jina and b"<mask>" in ids else frozenset()


def _strings(file: Metadata, key: str) -> list[bytes]:
    key = f"tokenizer.ggml.{key}"
    if key not in file:
        raise PyllmError(f"{key}: missing")
    return file.string_bytes(key)


def _numbers(file: Metadata, key: str, count: int) -> list[Any] | None:
    found = file.numbers(f"tokenizer.ggml.{key}")
    if found is not None and len(found) != count:
        raise PyllmError(f"tokenizer.ggml.{key}: expected {count} numbers, one per token, found {len(found)}")
    return found


def scores(file: Metadata, count: int) -> list[float]:
    """`tokenizer.ggml.scores`, one per token."""
    found = _numbers(file, "scores", count)
    if found is None:
        raise PyllmError("tokenizer.ggml.scores: missing; tokens of this kind cannot be merged without")
    return found


def merges(file: Metadata) -> list[bytes]:
    """`tokenizer.ggml.merges`: "left right" lines, first to last."""
    return _strings(file, "merges")


def _text(file: Metadata, key: str) -> str | None:
    value = file.get(f"tokenizer.ggml.{key}")
    if value is not None and not isinstance(value, str):
        raise PyllmError(f"tokenizer.ggml.{key}: expected text, found {value!r:.80}")
    return value


def _flag(file: Metadata, key: str) -> bool | None:
    value = file.get(f"tokenizer.ggml.{key}")
    if value is not None and not isinstance(value, bool):
        raise PyllmError(f"tokenizer.ggml.{key}: expected true or false, found {value!r:.80}")
    return value


def _or(value: bool | None, default: bool) -> bool:
    return default if value is None else value
