"""Embeddings in Python and over HTTP. That the vectors are right: test_architectures.py."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Serving, serving, tiny_model

from pyllm.errors import PyllmError
from pyllm.llm import LLM

openai = pytest.importorskip("openai", reason="needs the openai client")

TEXTS = ["Hi there", "a rather longer text about nothing at all", "x"]
DIM = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: Any) -> Iterator[Serving]:
    path = tiny_model(tmp_path_factory.mktemp("model"))
    with serving(lambda: LLM(path, threads=1)) as running:
        yield running


@pytest.fixture(scope="module")
def llm(server: Serving) -> LLM:
    return server.service.models[0].llm


@pytest.fixture(scope="module")
def client(server: Serving) -> Any:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="unused", max_retries=0, timeout=120)


# -- Python ----------------------------------------------------------------------------------------------------


def test_one_vector_a_text(llm: LLM) -> None:
    together = llm.embed(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        assert (vector.shape, vector.dtype) == ((DIM,), np.float32)
        assert abs(np.linalg.norm(vector) - 1) < 1e-6
        (alone,) = llm.embed(text)
        np.testing.assert_array_equal(alone, vector)
        (of_tokens,) = llm.embed(llm.tokenizer.encode(text))
        np.testing.assert_array_equal(of_tokens, vector)
        (mean,) = llm.embed(text, pooling="mean")
        assert np.array_equal(mean, vector) == (len(llm.tokenizer.encode(text)) == 1)


@pytest.mark.parametrize(
    ("metadata", "pooling", "end"),
    [
        ({"pooling_type": 1}, "mean", []),
        ({"pooling_type": 3}, "last", []),
        ({"pooling_type": 0}, "last", []),
        ({"pooling_type": 3, "tokenizer.ggml.add_eos_token": True}, "last", [0]),
    ],
)
def test_what_the_model_was_made_for(
    tmp_path: Path, llm: LLM, metadata: dict[str, Any], pooling: Any, end: list[int]
) -> None:
    expected = llm.embed([[*llm.tokenizer.encode(text), *end] for text in TEXTS], pooling=pooling)
    with LLM(tiny_model(tmp_path, **metadata), threads=1, pack=False) as other:
        np.testing.assert_array_equal(other.embed(TEXTS), expected)


@pytest.mark.parametrize(
    ("value", "shown"), [(2, r"2 \(cls\)"), (9, r"9 \(unknown\)"), ([1, 3], r".*\(unknown\)"), ("a", r"'a' .*")]
)
def test_a_pooling_that_there_is_not(tmp_path: Path, value: Any, shown: str) -> None:
    with LLM(tiny_model(tmp_path, pooling_type=value), threads=1, pack=False) as llm:
        with pytest.raises(PyllmError, match=rf"^llama\.pooling_type: {shown} is no pooling .* last or mean"):
            llm.embed("a")
        assert len(llm.embed("a", pooling="mean")) == 1


@pytest.mark.parametrize(
    ("texts", "pooling", "says"),
    [
        ("", None, "the prompt is empty"),
        (["a", []], None, r"texts\[1\]: the text is empty"),
        (["a", [1] * 2049], None, r"texts\[1\]: prompt: 2049 tokens are more than the context of 2048"),
        ([[320]], None, "expected token ids from 0 to 319, got 320"),
        ("a", "median", "pooling: expected last or mean, got 'median'"),
    ],
)
def test_texts_that_cannot_be_embedded(llm: LLM, texts: Any, pooling: Any, says: str) -> None:
    with pytest.raises(PyllmError, match=says):
        llm.embed(texts, pooling=pooling)
    assert llm.stats()["running"] == 0


def test_no_texts(llm: LLM) -> None:
    assert llm.embed([]) == []


# -- HTTP ------------------------------------------------------------------------------------------------------


def post(server: Serving, **fields: Any) -> Any:
    reply = server.post("/v1/embeddings", fields)
    assert reply.status == 200, reply.body
    return reply.json


def vectors(document: Any) -> np.ndarray:
    return np.array([item["embedding"] for item in document["data"]], np.float32)


def test_openai_client(client: Any, llm: LLM) -> None:
    expected = llm.embed(TEXTS)
    made = client.embeddings.create(model="tiny", input=TEXTS)  # asks for base64 by itself
    assert [item.index for item in made.data] == [0, 1, 2]
    np.testing.assert_array_equal(np.array([item.embedding for item in made.data], np.float32), expected)
    count = sum(len(llm.tokenizer.encode(text)) for text in TEXTS)
    assert (made.usage.prompt_tokens, made.usage.total_tokens) == (count, count)
    assert (made.object, made.model, made.data[0].object) == ("list", "tiny", "embedding")


def test_forms_of_input(server: Serving, llm: LLM) -> None:
    tokens = [llm.tokenizer.encode(text) for text in TEXTS]
    expected = np.array(llm.embed(TEXTS))
    np.testing.assert_array_equal(vectors(post(server, input=TEXTS)), expected)
    np.testing.assert_array_equal(vectors(post(server, input=tokens)), expected)
    np.testing.assert_array_equal(vectors(post(server, input=TEXTS[1])), expected[1:2])
    np.testing.assert_array_equal(vectors(post(server, input=tokens[1])), expected[1:2])


def test_encodings_and_pooling(server: Serving, llm: LLM) -> None:
    (last,), (mean,) = llm.embed(TEXTS[1]), llm.embed(TEXTS[1], pooling="mean")
    (item,) = post(server, input=TEXTS[1], encoding_format="base64", pooling="mean")["data"]
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(item["embedding"]), "<f4"), mean)
    np.testing.assert_array_equal(vectors(post(server, input=TEXTS[1], encoding_format="float"))[0], last)


def test_dimensions(client: Any, llm: LLM) -> None:
    (whole,) = llm.embed(TEXTS[1])
    made = client.embeddings.create(model="tiny", input=TEXTS[1], dimensions=5)
    np.testing.assert_allclose(made.data[0].embedding, whole[:5] / np.linalg.norm(whole[:5]), rtol=1e-6)
    with pytest.raises(openai.BadRequestError) as failure:
        client.embeddings.create(model="tiny", input="a", dimensions=65)
    assert failure.value.param == "dimensions"
    assert "expected at most 64, the model's, got 65" in str(failure.value)


def test_more_texts_than_run_at_once(server: Serving, llm: LLM) -> None:
    texts = [f"text number {i}" for i in range(100)]
    np.testing.assert_array_equal(vectors(post(server, input=texts)), llm.embed(texts))
    assert server.service.admission.taken == 0


def test_the_option_is_for_models_that_do_not_say(tmp_path: Path, llm: LLM) -> None:
    path = tiny_model(tmp_path)
    with serving(lambda: LLM(path, threads=1, pack=False), pooling="mean") as other:
        (mean,) = llm.embed(TEXTS[1], pooling="mean")
        np.testing.assert_array_equal(vectors(post(other, input=TEXTS[1]))[0], mean)


@pytest.mark.parametrize(
    ("fields", "says", "param"),
    [
        ({}, "input: this field is required", "input"),
        ({"input": []}, "input: expected 1 to 2048 texts, got 0", "input"),
        ({"input": ["a"] * 2049}, "input: expected 1 to 2048 texts, got 2049", "input"),
        ({"input": ""}, "input: the prompt is empty", "input"),
        ({"input": ["a", ""]}, "input[1]: the prompt is empty", "input"),
        ({"input": ["a", 1]}, "input: expected texts, token ids, or lists", "input"),
        ({"input": [320]}, "got 320", "input"),
        ({"input": [-1]}, "expected int >= 0", "input[0]"),
        ({"input": ["a", "b" * 3000]}, "input[1]: 3000 tokens are more than the context of 2048", "input"),
        (
            {"input": "a", "encoding_format": "int8"},
            "encoding_format: invalid enum value 'int8'",
            "encoding_format",
        ),
        ({"input": "a", "pooling": "cls"}, "pooling: invalid enum value 'cls'", "pooling"),
        ({"input": "a", "dimensions": 0}, "dimensions: expected int >= 1", "dimensions"),
        ({"input": {"a": 1}}, "input: expected", "input"),
    ],
)
def test_wrong_requests(server: Serving, fields: dict[str, Any], says: str, param: str | None) -> None:
    reply = server.post("/v1/embeddings", fields)
    assert reply.status == 400
    assert says in reply.error["message"]
    assert reply.error["param"] == param


def test_the_log_and_the_metrics_count_them(server: Serving, llm: LLM) -> None:
    post(server, input="abcdefg")
    assert f"prompt {len(llm.tokenizer.encode('abcdefg'))}, answer 0" in server.lines[-1]
    assert 'path="/v1/embeddings"' in server.get("/metrics").body.decode()


def test_a_client_that_leaves_frees_its_place(server: Serving, llm: LLM) -> None:
    body = json.dumps({"input": ["word " * 400] * 64, "pooling": "mean"}).encode()
    head = f"POST /v1/embeddings HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(body)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + body)
        server.wait(lambda: llm.stats()["running"] > 0)
    server.wait(lambda: server.service.admission.taken == 0 and llm.stats()["running"] == 0)
    assert " 499 " in server.lines[-1]
    stats = llm.stats()
    assert stats["blocks_free"] + stats["blocks_cached"] == stats["blocks_total"]
