"""`pyllm batch` as a person uses it, over a tiny random model: forms, signals, kills, what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from killed_batch import command, compare, write_rows
from serving import tiny_model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def model(tmp_path_factory: Any) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))


def run(model: Path, *arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    options = ["--model", str(model), "--threads", "1"]
    return subprocess.run(
        [sys.executable, "-m", "pyllm", "batch", *map(str, arguments), *options],
        input=stdin,
        capture_output=True,
        timeout=120,
    )


def rows_of(data: bytes) -> list[Any]:
    return [json.loads(line) for line in data.splitlines()]


def refused(done: subprocess.CompletedProcess[bytes], code: int, told: str) -> None:
    assert done.returncode == code, done.stderr
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_answers_are_those_of_the_library_whatever_runs_beside(model: Path, tmp_path: Path) -> None:
    from pyllm.llm import LLM
    from pyllm.sampling import SamplingParams

    write_rows(tmp_path / "in.jsonl", 60)
    done = run(model, tmp_path / "in.jsonl", "-o", tmp_path / "out", "--ordered", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["failed"], summary["skipped"], summary["finished"]) == (60, 3, 0, True)
    rows = rows_of((tmp_path / "out").read_bytes())
    assert len(rows) == 60
    answered = [row.get("usage") or (row.get("response") or {}).get("body", {}).get("usage") for row in rows]
    assert sum(usage["completion_tokens"] for usage in answered if usage) == summary["completion_tokens"]
    again = run(
        model, "-o", tmp_path / "again", "--max-sequences", 2, stdin=(tmp_path / "in.jsonl").read_bytes()
    )
    assert again.returncode == 0, again.stderr
    assert sorted((tmp_path / "again").read_bytes().splitlines()) == sorted(
        (tmp_path / "out").read_bytes().splitlines()
    )
    with LLM(model, threads=1) as llm:
        asked = [json.loads(line) for line in (tmp_path / "in.jsonl").read_text().splitlines()]
        for given, row in zip(asked[:24], rows, strict=False):
            body = given.get("body", given)
            if body.get("temperature") != 0 or row.get("error"):
                continue
            params = SamplingParams(max_tokens=body["max_tokens"], temperature=0.0)
            if "messages" in body:
                expected = llm.chat(body["messages"], params)
                got = row["response"]["body"]["choices"][0]
                assert (got["message"]["content"] or "").strip() == expected.text.strip()
            elif "prompt" in row:
                assert row["text"] == llm.generate(body["prompt"], params)[0].text


def test_killed_at_any_moment(model: Path, tmp_path: Path) -> None:
    assert compare(model, tmp_path, kills=5, rows=120, seed=int(time.time())) >= 1


def started(model: Path, tmp_path: Path, *options: str) -> subprocess.Popen[bytes]:
    """A job that has written some rows and has many to go."""
    write_rows(tmp_path / "in.jsonl", 3000)
    output = tmp_path / "out"
    process = subprocess.Popen(
        command(model, tmp_path / "in.jsonl", output, *options), stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (output.exists() and output.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_it_in_order(model: Path, tmp_path: Path, number: int, code: int) -> None:
    process = started(model, tmp_path, "--json")
    process.send_signal(number)
    output, told = process.communicate(timeout=60)
    assert process.returncode == code, told
    assert b"the same command goes on from there" in told
    assert b"Traceback" not in told
    summary = json.loads(output)
    rows = (tmp_path / "out").read_bytes()
    assert rows.endswith(b"\n")
    assert len(rows.splitlines()) == summary["rows"] < 3000
    assert not summary["finished"]


def test_tables_lines_and_templates(model: Path, tmp_path: Path) -> None:
    table = tmp_path / "in.csv"
    table.write_text('name,text\nBob,"a\nb"\nEve,c\n')
    done = run(model, table, "--template", "{{ name }}: {{ text }}", "--max-tokens", 3, "--ordered")
    assert done.returncode == 0, done.stderr
    assert [(row["row"], row["usage"]["completion_tokens"]) for row in rows_of(done.stdout)] == [(1, 3), (2, 3)]
    (tmp_path / "t").write_text("{{ name }}")
    done = run(
        model, table, "--template", f"@{tmp_path / 't'}", "--system", "Hi", "--max-tokens", 3, "--ordered"
    )
    first = rows_of(done.stdout)[0]
    assert first["usage"]["prompt_tokens"] > 4
    done = run(model, "--lines", "--max-tokens", 2, "--ordered", stdin=b"one\n\ntwo\n\xff\n")
    assert [(row["row"], "error" in row) for row in rows_of(done.stdout)] == [(1, False), (3, False), (4, True)]


def test_embeddings_and_rows_that_are_too_long(model: Path, tmp_path: Path) -> None:
    rows = [
        {"input": "one two"},
        {"input": ["a", "b"]},
        {"prompt": "one " * 3000},
        {"prompt": "x", "stream": True},
    ]
    rows += [{"prompt": "x", "temperature": -3}, {"messages": [{"role": "user"}], "nothing": 1}, {"prompt": ""}]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = run(model, "--ordered", "--errors", tmp_path / "bad", stdin=data)
    assert done.returncode == 0, done.stderr
    single, several = rows_of(done.stdout)[:2]
    assert len(single["embedding"]) == 64
    assert len(several["embeddings"]) == 2
    errors = {row["row"]: row["error"] for row in rows_of((tmp_path / "bad").read_bytes())}
    assert errors[3]["code"] == "context_length_exceeded"
    assert errors[4]["message"].startswith("stream: ")
    assert errors[5]["message"].startswith("temperature: ")
    assert 7 in errors


def test_what_cannot_start(model: Path, tmp_path: Path) -> None:
    empty, rows, out = tmp_path / "empty", tmp_path / "rows", tmp_path / "out"
    empty.write_bytes(b"\n \n")
    rows.write_text('{"prompt": "x", "max_tokens": 2}\n')
    refused(run(model, empty, "-o", out), 1, "is empty: expected at least one row")
    assert not out.exists()
    refused(run(model, stdin=b""), 1, "standard input: is empty")
    refused(run(model, tmp_path / "absent"), 1, "No such file")
    refused(run(model, rows, "-o", rows), 2, "is the input")
    refused(run(model, rows, "-o", out, "--errors", out), 2, "is the output")
    refused(run(model, rows, "--json"), 2, "-o FILE")
    refused(run(model, rows, "-o", out, "--resume"), 2, "is not there")
    refused(run(model, rows, "--template", "{{"), 1, "--template")
    refused(run(model, rows, "--lines", "--template", "x"), 2, "give one of them")
    refused(run(model, rows, "--schema", rows.with_suffix(".x")), 2, "No such file")
    refused(run(model, rows, "--top-p", "7"), 2, "top_p")
    assert run(model, rows, "-o", out).returncode == 0
    before = out.read_bytes()
    refused(run(model, rows, "-o", out, "--temperature", "0"), 1, "with other options")
    rows.write_text('{"prompt": "y", "max_tokens": 2}\n')
    refused(run(model, rows, "-o", out), 1, "belongs to other input")
    assert out.read_bytes() == before
    assert run(model, rows, "-o", out, "--overwrite").returncode == 0
    assert out.read_bytes() != before


def test_a_reader_that_leaves(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "in.jsonl", 500)
    with open("/dev/full", "wb") as nowhere:
        full = subprocess.run(
            [sys.executable, "-m", "pyllm", "batch", str(tmp_path / "in.jsonl"), "--model", str(model)],
            stdout=nowhere,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert full.returncode == 1
    assert b"No space left" in full.stderr
    assert b"Traceback" not in full.stderr


def test_a_schema_for_all_rows(model: Path, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    (tmp_path / "schema").write_text(json.dumps(schema))
    rows = [
        {"prompt": "x"},
        {"messages": [{"role": "user", "content": "x"}]},
        {"prompt": "y", "temperature": 1.5},
    ]
    rows.append({"custom_id": "r", "url": "/v1/responses", "body": {"input": "x"}})
    rows.append({"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": 3}}})
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    done = run(model, "--ordered", "--schema", tmp_path / "schema", "--max-tokens", 200, stdin=data)
    assert done.returncode == 0, done.stderr
    *plain, response, wrong = rows_of(done.stdout)
    texts = [row["text"] for row in plain]
    texts.append(response["response"]["body"]["output"][0]["content"][0]["text"])
    assert all(json.loads(text)["a"] in (1, 2) for text in texts), texts
    assert wrong["error"]["message"].startswith("response_format")
