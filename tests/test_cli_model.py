"""The commands that load a model, with a tiny one of random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import pyllm

pytest.importorskip("gguf")
pytest.importorskip("pyllm._core")

from pyllm.shapes import write_model

ROOT = Path(pyllm.__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_model(path, dim=64, ffn=128, quant="Q8_0", std=0.3, context=64)


@pytest.fixture
def run(tmp_path):
    def call(*arguments, stdin=b"", env=None):
        done = subprocess.run(
            [sys.executable, "-m", "pyllm", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            env={**os.environ, "PYLLM_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **(env or {})},
            check=False,
            timeout=120,
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


def test_generate_twice_with_one_seed(run, model):
    options = ["-p", "Hello", "--max-tokens", "12", "--temperature", "2", "--seed", "7", "--ignore-eos"]
    code, out, err = run("generate", model, *options)
    assert (code, err.count("\n")) == (0, 2)
    assert err.endswith("pyllm: the answer was cut after 12 tokens: --max-tokens reached\n")
    code, document, err = run("generate", model, *options, "--json")
    assert (code, err) == (0, "")
    done = json.loads(document)
    assert set(done) == {"text", "token_ids", "finish_reason", "usage", "timings"}
    assert done["finish_reason"] == "length"
    assert len(done["token_ids"]) == done["usage"]["completion_tokens"] == 12
    assert set(done["timings"]) == {
        "load_s",
        "queue_s",
        "first_token_s",
        "decode_s",
        "prompt_tokens_per_second",
        "decode_tokens_per_second",
    }
    assert out.removesuffix("\n") == done["text"].removesuffix("\n")


def test_an_answer_that_the_context_cuts(run, model):
    code, _, err = run("generate", model, "-p", "Hello", "--ignore-eos")
    assert code == 0
    assert err.splitlines()[-1].endswith("tokens: the context is full")


def test_constrained_answers_that_are_cut(run, model):
    def ask(option, value, count, *more):
        return run("generate", model, "-p", "x", option, value, "--max-tokens", count, *more)

    code, out, err = ask("--json-schema", '{"const": "abcdefgh"}', 3)
    assert (code, '"abcdefgh"'.startswith(out.strip())) == (1, True)
    assert err.splitlines()[-1] == (
        "pyllm: the answer was cut after 3 tokens: --max-tokens reached; "
        "it is only the beginning of what --json-schema asks for"
    )
    code, out, err = ask("--regex", "(ab){30}", 1, "--json")
    assert (code, json.loads(out)["finish_reason"]) == (1, "length")
    assert "beginning of what --regex asks for" in err
    code, out, err = ask("--regex", "a*", 2, "--ignore-eos")  # whole wherever it is cut
    assert (code, set(out.strip())) == (0, {"a"}), err


def test_keys_that_the_schema_does_not_name():
    """What --help says of --json-schema."""
    from llguidance import LLTokenizer

    from pyllm.grammar import compiled

    def valid(schema, text):
        state = compiled(pyllm.Constraint.json(schema), LLTokenizer("byte"))
        return state.consume_tokens(list(text)) and state.is_accepting()

    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert valid(schema, b'{"a":1,"b":2,"b":3}')
    assert not valid({**schema, "additionalProperties": False}, b'{"a":1,"b":2}')


def test_constrained_answers(run, model, tmp_path):
    schema, grammar = tmp_path / "schema.json", tmp_path / "x.gbnf"
    schema.write_text('{"enum": [[1, true], [2, false]]}')
    grammar.write_text('root ::= "yes" | "no"\n')
    for options, expected in [
        (["--json-schema", schema], {"[1,true]", "[2,false]"}),
        (["--json-schema", schema.read_text()], {"[1,true]", "[2,false]"}),
        (["--regex", "(ab){3}"], {"ababab"}),
        (["--grammar", grammar], {"yes", "no"}),
    ]:
        code, out, err = run("generate", model, "-p", "x", "--max-tokens", "50", *options)
        assert (code, "".join(out.split()) in expected) == (0, True), (out, err)
    for options, code, said in [
        (["--regex", "a(b"], 2, "wrong at character 2: unclosed group"),
        (["--regex", "a", "--grammar", grammar], 2, "--regex and --grammar: expected only one of them"),
        (
            ["--json-schema", '{"type": "wat"}'],
            2,
            "pyllm: --json-schema: the schema cannot be followed: Invalid type: wat",
        ),
        (["--json-schema", "{"], 2, "--json-schema: the schema is not JSON"),
        (["--grammar", tmp_path / "none"], 2, "No such file"),
    ]:
        found, out, err = run("generate", model, "-p", "x", *options)
        assert (found, out) == (code, ""), err
        assert said in err
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-p", ""], "-p: the prompt is empty"),
        ([], "standard input: the prompt is empty"),
        (["-p", "x", "--kv-memory", "1kB"], "--kv-memory: expected at least 4.1 kB (one block of 16 tokens; "),
        (["-p", "x", "--threads", "100000"], "--threads: expected at most"),
        (["-p", "x", "--context", "65"], "--context: expected 1 to 64"),
        (["-p", "x", "--device", "gpu"], "--device: expected auto"),
    ],
)
def test_impossible_values_are_wrong_usage(run, model, options, said):
    code, out, err = run("generate", model, *options)
    assert (code, out) == (2, "")
    assert err.startswith(f"pyllm: {said}")
    assert err.count("\n") == 1


def test_messages_about_parameters_name_options():
    from pyllm.cli.options import by_options

    said = (
        "kv_bytes: expected at least 367200 (one block of 16 tokens; 1001 for the context of 64 tokens), got 9"
    )
    assert by_options(said) == (
        "--kv-memory: expected at least 368 kB (one block of 16 tokens; 1.01 kB for the context of 64 tokens), "
        "got 9 B"
    )
    assert by_options("kv_bytes: 3000 are more than the 2999 bytes of memory that are available") == (
        "--kv-memory: 3 kB are more than the 3 kB of memory that are available"
    )
    assert by_options("context_length: odd") == "context_length: odd"


def test_what_cannot_run_is_one_line(run, model):
    for options, said in [
        (["-p", "long " * 40], "more than the context of 64"),
        (["-p", "x", "--kv-memory", "900TB"], "--kv-memory: 900 TB are more than the "),
        (["-p", "x", "--gpu-layers", "5"], "--gpu-layers: 5 layers on a GPU, device cuda: "),
    ]:
        code, out, err = run("generate", model, *options)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("pyllm: ")
        assert said in err


def test_an_instruction_set_that_is_not_here(run, model):
    code, _, err = run("generate", model, "-p", "x", env={"PYLLM_ISA": "abacus"})
    assert code == 1
    assert "PYLLM_ISA=abacus" in err


def test_a_truncated_model(run, model, tmp_path):
    half = tmp_path / "half.gguf"
    half.write_bytes(model.read_bytes()[:-1000])
    code, out, err = run("generate", half, "-p", "x")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "half.gguf" in err


def test_embed(run, model):
    with pyllm.LLM(model, threads=1) as llm:
        last, mean = llm.embed(["Hello", "you"]), llm.embed(["Hello", "you"], "mean")
    code, out, err = run("embed", model, "Hello", "you", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"embeddings": [vector.tolist() for vector in last]}
    code, out, _ = run("embed", model, "--pooling", "mean", stdin=b"Hello\nyou\n")
    assert code == 0
    assert [[np.float32(value) for value in line.split(" ")] for line in out.splitlines()] == [
        vector.tolist() for vector in mean
    ]
    for texts, stdin, said in [
        (["Hello", ""], b"", "text 2 is empty"),
        ([], b"a\n\nb\n", "line 2 of standard input is empty"),
        ([], b"", "standard input is empty"),
        (["-"], b"\n", "standard input is empty"),
    ]:
        code, out, err = run(
            "embed", "/no/such/model.gguf", *texts, stdin=stdin
        )  # told before it is looked for
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"pyllm: {said}")


def test_tokenize(run, model):
    code, out, _ = run("tokenize", model, "-", "--json", stdin="Hé 👍".encode())
    shown = json.loads(out)
    assert code == 0
    assert set(shown) == {"ids", "pieces"}
    assert len(shown["ids"]) == len(shown["pieces"])
    err = run("tokenize", model, "-", stdin=b"a\x80")[2]
    assert err == ("pyllm: standard input is not UTF-8: byte 0x80 at offset 1 (from 0) was read as U+FFFD\n")
    lines = run("tokenize", model, "Hé 👍")[1].splitlines()
    assert [int(line.split("\t")[0]) for line in lines] == shown["ids"]
    assert [json.loads(line.split("\t")[1]) for line in lines] == shown["pieces"]


def test_chat_of_two_turns(run, model):
    options = ["--context", "64", "--max-tokens", "4", "--temperature", "0"]
    code, out, err = run("chat", model, *options, stdin=b"Hi\nHo\n")
    assert code == 0, err
    assert out.count("\n") >= 2
    assert "no chat template" not in err
    code, _, err = run("chat", model, *options, stdin=b"Hi\n" + b"very long " * 30 + b"\n")
    assert code == 1
    assert "more than the context of 64" in err
