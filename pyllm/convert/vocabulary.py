"""tokenizer.json as GGUF metadata, proven on the way: the result must cut probing texts as the original does.

Nothing is guessed by name. What GGUF asks and tokenizer.json does not say in so many words (the pre-tokenizer's
name, whether a space comes first) is tried until both agree on every text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyllm.convert.safetensors import read_json
from pyllm.errors import PyllmError
from pyllm.pretokenizers import PRE_TOKENIZERS
from pyllm.tokenizer import Tokenizer
from pyllm.vocabulary import TokenType

PROBES = (  # normalized: GGUF tokenizers do not
    "Hello world",
    " Hello  World,\tit's I'LL we've DON'T  12 345 1234567 3.14 0x1F",
    "def f(x):\n    return x**2  # comment\n\n\n  \tif (a!=b){ c += 1; }\r\n\r\n",
    "camelCase HTMLParser snake_case https://example.org/a?b=c&d=%20 (hello)[world]{x} !!! ... --- ???",
    "Größe naïve café Привет, мир! こんにちは世界。你好，世界！ 안녕하세요 שלום עולם مرحبا 123१२३",  # noqa: RUF001
    "\N{GRINNING FACE}\N{FAMILY}\N{ZERO WIDTH JOINER} \N{SNOWMAN} 𝒳 x²+y³≠½ €100 £5 «quoted» “text”",  # noqa: RUF001
    "   leading and trailing   ",
    "\n",
    "a",
)
_FIRST = ("llama-bpe", "qwen2", "smollm", "gpt-2", "tekken", "gpt-4o", "deepseek-llm", "deepseek-v3")


class Draft(dict[str, Any]):
    """Metadata before it is in a file, as a Tokenizer reads it."""

    def numbers(self, key: str) -> list[Any] | None:
        return self.get(key)

    def string_bytes(self, key: str) -> list[bytes]:
        return [text.encode() for text in self.get(key, [])]


def vocabulary_metadata(folder: Path, rows: int) -> dict[str, Any]:
    """The tokenizer.* keys; rows: of the embedding matrix, unused tokens fill it up.

    PyllmError when there is no tokenizer.json, or no GGUF tokenizer cuts text as it does.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise PyllmError(f"{folder}: expected tokenizer.json")
    about, settings = read_json(path), _optional(folder / "tokenizer_config.json")
    draft = _tokens(path, about, rows)
    draft |= _roles(folder, settings, draft["tokenizer.ggml.tokens"])
    template = chat_template(folder, settings)
    _choose(path, draft)
    if template:
        draft["tokenizer.chat_template"] = template
    return draft


def _tokens(path: Path, about: dict[str, Any], rows: int) -> Draft:
    model = about.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(vocab, dict):
        raise PyllmError(f"{path}: model: expected a BPE vocabulary")
    pieces = bool(model.get("byte_fallback"))  # SentencePiece's kind
    added = {token["id"]: token for token in about.get("added_tokens", [])}
    by_id = {number: text for text, number in vocab.items()}
    by_id |= {number: token["content"] for number, token in added.items()}
    if not by_id or min(by_id) < 0 or max(by_id) >= rows:
        raise PyllmError(f"{path}: expected token ids below the {rows} rows of the embeddings")
    tokens, types = [], []
    unknown = model.get("unk_token")
    for i in range(rows):
        text, kind = by_id.get(i), TokenType.NORMAL
        if text is None:
            text, kind = f"[PAD{i}]", TokenType.UNUSED
        elif text == unknown and pieces:
            kind = TokenType.UNKNOWN
        elif i in added:
            kind = TokenType.CONTROL if added[i].get("special") else TokenType.USER_DEFINED
            if pieces and kind is TokenType.USER_DEFINED:
                text = text.replace("\u2581", " ")
        elif pieces and re.fullmatch("<0x[0-9A-F]{2}>", text):
            kind = TokenType.BYTE
        tokens.append(text)
        types.append(int(kind))
    draft = Draft({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model.get("merges", [])]
    draft["tokenizer.ggml.model"] = "llama" if pieces else "gpt2"
    if pieces:  # the earlier a merge, the higher the score of what it makes
        scores = [-1e6] * rows
        for rank in range(len(merges) - 1, -1, -1):
            made = vocab.get("".join(merges[rank]))
            if made is not None:
                scores[made] = float(-rank)
        draft["tokenizer.ggml.scores"] = scores
    else:
        draft["tokenizer.ggml.merges"] = [" ".join(merge) for merge in merges]
    return draft


def _roles(folder: Path, settings: dict[str, Any], tokens: list[str]) -> dict[str, Any]:
    """Ids of the tokens with a role: by text in tokenizer_config.json, else by number in config.json."""
    ids = {text: i for i, text in enumerate(tokens)}
    config = _optional(folder / "config.json")
    found = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        named = settings.get(f"{role}_token")
        text = named.get("content") if isinstance(named, dict) else named
        number: Any = ids.get(text) if isinstance(text, str) else None
        if number is None and role in ("bos", "eos"):
            listed = config.get(f"{role}_token_id")
            number = listed[0] if isinstance(listed, list) and listed else listed
        if isinstance(number, int) and 0 <= number < len(tokens):
            found[f"tokenizer.ggml.{key}_token_id"] = number
    return found


def chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    """From chat_template.jinja or tokenizer_config.json; of several the default one."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = next((t.get("template") for t in found if t.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _choose(path: Path, draft: Draft) -> None:
    """Sets the keys with which every probe is cut as the library does."""
    import tokenizers

    try:
        original = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class of its own for this
        raise PyllmError(f"{path}: {error}") from error
    expected = [original.encode(text, add_special_tokens=False).ids for text in PROBES]
    whole = original.encode("a").ids
    bare, bos = original.encode("a", add_special_tokens=False).ids, draft.get("tokenizer.ggml.bos_token_id")
    eos = draft.get("tokenizer.ggml.eos_token_id")
    draft["tokenizer.ggml.add_bos_token"] = len(whole) > len(bare) and whole[0] == bos
    draft["tokenizer.ggml.add_eos_token"] = len(whole) > len(bare) and whole[-1] == eos
    for choice in _choices(draft["tokenizer.ggml.model"]):
        candidate = Draft(draft | choice)
        tokenizer = Tokenizer.from_gguf(candidate)
        if all(
            tokenizer.encode(text, add_bos=False) == ids for text, ids in zip(PROBES, expected, strict=True)
        ):
            draft |= choice
            return
    raise PyllmError(f"{path}: no tokenizer that GGUF files can name cuts text as this one does")


def _choices(model: str) -> Iterator[dict[str, Any]]:
    if model == "llama":
        for space in (True, False):
            yield {"tokenizer.ggml.pre": "default", "tokenizer.ggml.add_space_prefix": space}
        return
    seen = []
    for name in (*_FIRST, *PRE_TOKENIZERS):
        if PRE_TOKENIZERS[name] not in seen and PRE_TOKENIZERS[name].bytes_as_characters:
            seen.append(PRE_TOKENIZERS[name])
            yield {"tokenizer.ggml.pre": name}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
