"""Filling in the middle: `suffix` of /v1/completions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from serving import Serving, serving, tiny_model

from pyllm.errors import PyllmError
from pyllm.llm import LLM
from pyllm.shapes.vocabulary import byte_vocabulary
from pyllm.tokenizer import Tokenizer

openai = pytest.importorskip("openai", reason="needs the openai client")

PREFIX, SUFFIX, MIDDLE = 301, 302, 303
CALM: dict[str, Any] = {"temperature": 0.0, "max_tokens": 8, "extra_body": {"ignore_eos": True}}


def by_keys() -> dict[str, Any]:
    """Tokens that the file's keys name."""
    keys = {"fim_pre": PREFIX, "fim_suf": SUFFIX, "fim_mid": MIDDLE}
    return {f"tokenizer.ggml.{name}_token_id": id for name, id in keys.items()}


def by_text(prefix: str, suffix: str, middle: str) -> dict[str, Any]:
    """Tokens that have a well-known text."""
    tokens = byte_vocabulary(320)["tokenizer.ggml.tokens"]
    tokens[PREFIX], tokens[SUFFIX], tokens[MIDDLE] = prefix, suffix, middle
    merges = [line for line in byte_vocabulary(320)["tokenizer.ggml.merges"] if line.replace(" ", "") in tokens]
    return {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}


TEXTS = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
]


@pytest.fixture(
    scope="module",
    params=[by_keys(), *(by_text(*texts) for texts in TEXTS)],
    ids=["keys", "qwen", "starcoder", "codellama"],
)
def server(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Serving]:
    path = tiny_model(tmp_path_factory.mktemp("model"), **request.param)
    with serving(lambda: LLM(path, threads=1, pack=False)) as running:
        yield running


def test_the_prompt_is_both_sides(server: Serving) -> None:
    client = openai.OpenAI(base_url=f"{server.base}/v1", api_key="unused", max_retries=0)
    tokenizer = server.service.models[0].llm.tokenizer
    before, after = "def f(x):\n", "\n    return y"
    tokens = [PREFIX, *tokenizer.encode(before), SUFFIX, *tokenizer.encode(after), MIDDLE]
    expected = client.completions.create(model="tiny", prompt=tokens, **CALM)
    made = client.completions.create(model="tiny", prompt=before, suffix=after, **CALM)
    assert made.choices[0].text == expected.choices[0].text
    assert made.usage.prompt_tokens == len(tokens)
    of_tokens = client.completions.create(model="tiny", prompt=tokenizer.encode(before), suffix=after, **CALM)
    assert of_tokens.choices[0].text == expected.choices[0].text
    parts = client.completions.create(model="tiny", prompt=before, suffix=after, stream=True, **CALM)
    assert "".join(part.choices[0].text for part in parts) == expected.choices[0].text


@pytest.mark.parametrize("texts", TEXTS)
def test_what_users_write_guides_nothing(tmp_path: Any, texts: tuple[str, str, str]) -> None:
    tokenizer = Tokenizer.from_gguf(tiny_model(tmp_path, **by_text(*texts)))
    tokens = tokenizer.encode_between("a" + texts[2], texts[0] + "b")
    assert [tokens.count(id) for id in (PREFIX, SUFFIX, MIDDLE)] == [1, 1, 1]


def test_an_empty_suffix_asks_for_nothing_and_echo_does_not_go_with_one(server: Serving) -> None:
    plain = server.post("/v1/completions", {"prompt": "abc", "suffix": ""})
    assert plain.json["usage"]["prompt_tokens"] == 3
    reply = server.post("/v1/completions", {"prompt": "abc", "suffix": "d", "echo": True})
    assert (reply.status, reply.error["param"]) == (400, "echo")


def test_the_text_begins_as_the_model_wants_it(tmp_path: Any) -> None:
    path = tiny_model(tmp_path, **by_keys(), **{"tokenizer.ggml.add_bos_token": True})
    with LLM(path, threads=1, pack=False) as llm:
        assert llm.tokenizer.encode_between("", "") == [0, PREFIX, SUFFIX, MIDDLE]


def test_models_that_cannot(tmp_path: Any) -> None:
    path = tiny_model(tmp_path)
    with (
        LLM(path, threads=1, pack=False) as llm,
        pytest.raises(PyllmError, match=r"^this model cannot fill in the middle: its vocabulary lacks tokens"),
    ):
        llm.tokenizer.encode_between("a", "b")
