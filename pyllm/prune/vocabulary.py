"""Tokens: only those stay that a domain's text is made of, and what any other text can be spelt with.

A domain's text is cut into the same tokens as before. Merging always takes the best pair there is, so what
matters is that every merge it took is still there: with a token stay all tokens on the way to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
from gguf.constants import GGUFValueType

from pyllm._core import GgufFile
from pyllm.errors import PyllmError
from pyllm.prune.draft import Draft, Indices
from pyllm.prune.ffn import STEP
from pyllm.template import ChatTemplate, template_text
from pyllm.tokenizer import Tokenizer
from pyllm.vocabulary import TokenType, Vocabulary, merges, scores

_PREFIX = "tokenizer.ggml."
# Places that a vocabulary's makers left free.
_RESERVED = re.compile(rb"^<?\W*(?:reserved_special_token|unused|reserved|extra_id)_?\d+\W*>?$")
_SAMPLE = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Hi"},
]

Rank = Callable[
    [str, str], "float | None"
]  # of merging two pieces: the least goes first; None: they do not merge


def tokens_for(file: GgufFile, text: str) -> Indices:
    """Ids, ascending, that `text` needs, in a number that suits the kernels.

    With them stay: control and user-defined tokens, those with a role, single bytes, and what a chat takes.
    """
    tokenizer = Tokenizer.from_gguf(file)
    vocabulary = tokenizer.vocabulary
    kept = _always(file, vocabulary)
    kept.update(tokenizer.encode(text, add_bos=False))
    kept.update(_chat_tokens(file, tokenizer))
    names = [_text(token) for token in vocabulary.tokens]
    ids = {name: i for i, name in enumerate(names)}
    rank = _rank(file, vocabulary, ids)

    def with_its_way(i: int) -> set[int]:
        return {i, *(ids[name] for name in _on_the_way(names[i], rank) if name in ids)}

    kept.update(*map(with_its_way, kept))
    room = -(-len(kept) // STEP) * STEP
    for i in vocabulary.of_types(TokenType.NORMAL):  # in a byte-pair vocabulary the most frequent come first
        if len(kept) == room:
            break
        if len(more := kept | with_its_way(i)) <= room:
            kept = more
    return np.array(sorted(kept), np.int64)


def keep_tokens(draft: Draft, kept: Indices) -> None:
    """Leaves the tokens of these ids, numbered anew. PyllmError when the file does not fit together."""
    values, before = draft.values, draft.shape.vocab
    tokens = values[f"{_PREFIX}tokens"].value
    if len(tokens) != before:
        raise PyllmError(
            f"token_embd.weight: expected a row for each of {len(tokens)} tokens, the file has {before}"
        )
    if len(kept) == before:
        raise PyllmError("--vocab: the text uses every token; nothing can go")
    place = {int(old): new for new, old in enumerate(kept)}
    stay = {tokens[i] for i in kept}
    for key, value in list(values.items()):
        if not key.startswith(_PREFIX):
            continue
        if key.endswith("_token_id"):
            if value.value not in place:
                raise PyllmError(f"{key}: token {value.value!r:.80} would be gone")
            values[key] = replace(value, value=place[value.value])
        elif key == f"{_PREFIX}merges":
            lines = [line for line in value.value if all(part in stay for part in _parts(line))]
            if not lines:
                raise PyllmError("--vocab: expected a text for which tokens are merged; no merge would be left")
            values[key] = replace(value, value=lines)
        elif value.type is GGUFValueType.ARRAY and len(value.value) == before:
            values[key] = replace(value, value=[value.value[i] for i in kept])
    if values.pop("tokenizer.huggingface.json", None):
        draft.notes.append("tokenizer.huggingface.json describes all tokens: left out")
    if draft.shape.key("vocab_size") in values:
        draft.set("vocab_size", len(kept))
    for stem in ("token_embd", "output"):
        if draft.has(f"{stem}.weight"):
            draft.keep_rows(stem, kept)
    draft.shape = replace(draft.shape, vocab=len(kept))


def _always(file: GgufFile, vocabulary: Vocabulary) -> set[int]:
    """Tokens that stay whatever the text is."""
    v = vocabulary
    template = template_text(file).encode("utf-8", "surrogateescape")
    special = v.of_types(TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
    kept = {i for i in special if not _RESERVED.match(v.tokens[i]) or v.tokens[i] in template}
    kept |= set(v.of_types(TokenType.BYTE)) | v.stop_ids | set(v.fim or ())
    kept |= {i for i in (v.bos, v.eos, v.eot, v.eom, v.unknown, v.pad) if i is not None}
    for role in _role_keys(file):
        value = file.get(role)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(v.tokens):
            raise PyllmError(f"{role}: expected a token id below {len(v.tokens)}, the file has {value!r:.80}")
        kept.add(value)
    single = (i for i in range(len(v.tokens)) if len(_text(v.tokens[i])) == 1)
    # GPT-2's bytes are characters below U+0200; of other vocabularies' characters the bytes are tokens too.
    limit = 0x200 if v.model == "gpt2" else 0x80
    return kept | {i for i in single if ord(_text(v.tokens[i])) < limit or v.tokens[i] == "\u2581".encode()}


def _role_keys(file: GgufFile) -> list[str]:
    return [key for key in file.keys() if key.startswith(_PREFIX) and key.endswith("_token_id")]  # noqa: SIM118


def _chat_tokens(file: GgufFile, tokenizer: Tokenizer) -> set[int]:
    template = ChatTemplate.from_gguf(file, tokenizer)
    found: set[int] = set()
    for messages in (_SAMPLE, _SAMPLE[1:]):
        try:
            found.update(template.encode(messages))
        except PyllmError:
            continue  # a template without system messages, or one that does not work anyway
    return found


def _rank(file: GgufFile, vocabulary: Vocabulary, ids: dict[str, int]) -> Rank:
    if vocabulary.model == "llama":
        score = scores(file, len(ids))
        return lambda a, b: -score[ids[a + b]] if a + b in ids else None
    ranks: dict[tuple[str, str], int] = {}
    for place, line in enumerate(merges(file)):
        first, second = map(_text, _parts(line)[:2])
        ranks.setdefault((first, second), place)
    return lambda a, b: ranks.get((a, b))


def _parts(line: bytes) -> tuple[bytes, bytes, bytes]:
    """A merge's two parts, and what they make."""
    cut = line.find(b" ", 1)
    first, second = line[:cut], line[cut + 1 :]
    return first, second, first + second


def _on_the_way(token: str, rank: Rank) -> set[str]:
    """The pieces that are merged until there is `token`, it included."""
    pieces, found = list(token), set(token)
    while len(pieces) > 1:
        pairs = ((rank(a, b), i) for i, (a, b) in enumerate(pairwise(pieces)))
        possible = [(r, i) for r, i in pairs if r is not None]
        if not possible:
            break
        _, i = min(possible)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        found.add(pieces[i])
    return found


def _text(token: bytes) -> str:
    return token.decode("utf-8", "surrogateescape")
