"""What is written of an answer: the same bytes whenever the row runs, nothing of times, chance or the cache."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pyllm.batch.row import Row, RowError, answer_id, key_of

_encode = msgspec.json.Encoder().encode


def answer_line(job: str, row: Row, document: dict[str, Any]) -> bytes:
    """The row of an answer; document: what the endpoint said. It is changed."""
    id = answer_id(job, row.record)
    body = steady(document, f"{job}{row.record.key}_{row.number}")
    if row.form == "openai":
        response = {"status_code": 200, "request_id": id, "body": body}
        return _encode({"id": id, "custom_id": row.custom_id, "response": response, "error": None})
    return _encode({**_head(id, row), **plain(body)})


def error_line(job: str, row: Row, error: RowError) -> bytes:
    """The row of a request that has no answer."""
    id = answer_id(job, row.record)
    told = {"code": error.code, "message": str(error), "row": row.number}
    if row.form == "plain":
        return _encode({**_head(id, row), "error": told})
    response = None
    if error.document is not None:
        response = {"status_code": error.status, "request_id": id, "body": error.document}
    return _encode({"id": id, "custom_id": row.custom_id, "response": response, "error": told})


def _head(id: str, row: Row) -> dict[str, Any]:
    name = {} if row.custom_id is None else {"custom_id": row.custom_id}
    return {"id": id, "row": row.number, **name}


def steady(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The document without what differs from run to run. name: what its ids are made of."""
    document.pop("timings", None)
    for created in ("created", "created_at"):
        if created in document:
            document[created] = 0
    usage = document.get("usage") or {}
    usage.pop("prompt_tokens_details", None)  # which tokens were cached depends on what ran before
    usage.pop("input_tokens_details", None)
    if "id" in document:
        document["id"] = _renamed(document["id"], name)
    items = [call for choice in document.get("choices", ()) for call in _calls(choice)]
    for number, item in enumerate(items + document.get("output", [])):
        for key in ("id", "call_id"):
            if isinstance(item.get(key), str):
                item[key] = _renamed(item[key], f"{name}_{number}")
    return document


def _renamed(id: str, name: str) -> str:
    """An id that was drawn by chance, made of `name`: its kind stays, and the length where there is no kind."""
    kind = re.match(r"[a-z]+[-_]", id)
    return f"{kind[0]}{name}" if kind else key_of(name.encode(), digits=len(id))


def _calls(choice: dict[str, Any]) -> list[dict[str, Any]]:
    return (choice.get("message") or {}).get("tool_calls") or []


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """An endpoint's answer in few words: {"text", "finish_reason", "usage"}, {"embedding", "usage"}; several
    answers or vectors are a list."""
    usage = {"usage": document.get("usage")}
    if "choices" in document:
        choices = [_choice(choice) for choice in document["choices"]]
        return {**(choices[0] if len(choices) == 1 else {"answers": choices}), **usage}
    vectors = [item["embedding"] for item in document["data"]]
    return {**({"embedding": vectors[0]} if len(vectors) == 1 else {"embeddings": vectors}), **usage}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    written = {"text": choice["text"]} if message is None else {"text": message.get("content") or ""}
    for name in ("reasoning_content", "tool_calls"):
        if message and message.get(name):
            written[name] = message[name]
    if choice.get("logprobs"):
        written["logprobs"] = choice["logprobs"]
    return {**written, "finish_reason": choice["finish_reason"]}


def tokens_of(document: dict[str, Any]) -> tuple[int, int]:
    """(tokens of the prompt, of the answer)"""
    usage = document.get("usage") or {}
    prompt = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    return prompt, usage.get("completion_tokens", usage.get("output_tokens", 0))
