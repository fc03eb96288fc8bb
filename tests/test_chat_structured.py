"""Structured answers of a real engine in a terminal: valid by the schema, whatever the model wants."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("termios", reason="pseudo-terminals need POSIX")
from chat_terminal import ChatTerminal

from pyllm.shapes import write_model

SCHEMA = {
    "type": "object",
    "properties": {
        "colour": {"enum": ["red", "green"]},
        "sizes": {"type": "array", "items": {"enum": [1, 2]}, "minItems": 2, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["colour", "sizes", "sure"],
    "additionalProperties": False,
}


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[ChatTerminal]:
    model = write_model(tmp_path / "m.gguf", quant="Q8_0", std=0.08, seed=3)
    command = [sys.executable, "-m", "pyllm", "chat", str(model), "--seed", "1", "--max-tokens", "300"]
    opened = ChatTerminal(command, {**os.environ, "PYLLM_HOME": str(tmp_path / "home")})
    yield opened
    opened.end()


def answers(tmp_path: Path) -> list[str]:
    """The answers of the transcript."""
    (path,) = (tmp_path / "home" / "chats").glob("*.jsonl")
    records = [json.loads(line) for line in path.read_text().splitlines()]
    texts: dict[int, str] = {}
    for record in records:
        if "add" in record:
            texts[record["add"]] = texts.get(record["add"], "") + record["text"]
    return list(texts.values())


def check(answer: dict[str, Any]) -> None:
    assert list(answer) == ["colour", "sizes", "sure"]
    assert answer["colour"] in ("red", "green")
    assert 2 <= len(answer["sizes"]) <= 3
    assert set(answer["sizes"]) <= {1, 2}
    assert answer["sure"] in (True, False)


def test_json_schema_from_the_prompt_and_from_a_file(chat: ChatTerminal, tmp_path: Path) -> None:
    chat.say(f"/json {json.dumps(SCHEMA)}", "answers are JSON with colour, sizes, sure")
    chat.see("JSON$")  # in the status
    chat.say("what is it?", '"sure"')
    (tmp_path / "schema.json").write_text(json.dumps({"type": "array", "items": {"const": 7}, "minItems": 2}))
    chat.say(f"/json {tmp_path}/schema.json", "answers are JSON")
    chat.say("and now?", r"^\[\s*7")
    chat.say("/json off", "free text")
    chat.say("/json", "answers are free text")
    first, second, *_ = answers(tmp_path)
    check(json.loads(first))
    assert set(json.loads(second)) == {7}


def test_a_schema_that_is_none_changes_nothing(chat: ChatTerminal, tmp_path: Path) -> None:
    for schema, told in [
        ("{nonsense", "the schema is not JSON"),
        ('{"type": "nonsense"}', "nonsense"),
        ('{"properties": [1]}', "properties must be an object"),
        ("[1]", "No such file"),
    ]:
        chat.say(f"/json {schema}", f"pyllm: .*{told}")
    for wrong in ("[1]", "false", "7", '"x"'):
        (tmp_path / "wrong.json").write_text(wrong)
        chat.say(f"/json {tmp_path}/wrong.json", "pyllm: constraint: ")
        chat.screen.reset()
        chat.type("\r")
    chat.say("/json", "answers are free text")
    (tmp_path / "any.json").write_text("true")
    chat.say(f"/json {tmp_path}/any.json", "answers are JSON")
