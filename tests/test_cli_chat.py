"""generate and chat with a model that answers by rule: what is sent and kept, what Ctrl-C and Ctrl-D do."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from terminal import CTRL_C, CTRL_D, Terminal

import pyllm

gguf = pytest.importorskip("gguf")
pytest.importorskip("pyllm._core")

FAKE = Path(__file__).parent / "fake_llm"
ROOT = Path(pyllm.__file__).parents[1]


def model(path, template="{{ messages }}"):
    """A GGUF file that says whether it has a chat template and nothing else."""
    writer = gguf.GGUFWriter(path, "llama")
    if template:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


@pytest.fixture
def env(tmp_path):
    return {
        **os.environ,
        "PYTHONPATH": f"{FAKE}{os.pathsep}{ROOT}",
        "PYLLM_HOME": str(tmp_path / "home"),
        "FAKE_LLM_LOG": str(tmp_path / "log"),
        "TERM": "dumb",
    }


@pytest.fixture
def terminal(env):
    opened = []

    def start(*arguments):
        opened.append(Terminal([sys.executable, "-m", "pyllm", *arguments], env))
        return opened[-1]

    yield start
    for one in opened:
        one.end()


@pytest.fixture
def run(tmp_path, env):
    def call(*arguments, stdin=""):
        command = [sys.executable, "-m", "pyllm", *arguments]
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        done = subprocess.run(command, input=data, capture_output=True, env=env, check=False, timeout=60)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    return call


@pytest.fixture
def tiny(tmp_path):
    return model(tmp_path / "tiny.gguf")


def test_generate_streams_text_and_tells_statistics(run, tiny, tmp_path):
    code, out, err = run("generate", tiny, "-p", "once upon", "--threads", "3", "--temperature", "0")
    assert (code, out) == (0, "ONCE UPON \n")
    assert err == (
        "pyllm: prompt 3 tokens, 12.0/s; answer 2 tokens, 8.0/s; load 0.50 s, first token 0.25 s; "
        "finish reason: stop\n"
    )
    first, *rest = (tmp_path / "log").read_text().splitlines()
    given = json.loads(first)
    assert (given["max_tokens"], given["temperature"], given["threads"], given["context"]) == (512, 0.0, 3, 0)
    assert rest == ["ended", "closed"]


def test_generate_json_is_one_document(run, tiny):
    code, out, err = run("generate", tiny, "-p", "once upon", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "text": "ONCE UPON ",
        "token_ids": [1, 1],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0},
        "timings": {
            "load_s": 0.5,
            "queue_s": 0.1,
            "first_token_s": 0.25,
            "decode_s": 1.5,
            "prompt_tokens_per_second": 12.0,
            "decode_tokens_per_second": 8.0,
        },
    }


def test_generate_reads_standard_input_only_without_p(run, tiny):
    assert run("generate", tiny, stdin="from a pipe\n")[1] == "FROM A PIPE \n"
    assert run("generate", tiny, "-p", "-", stdin="from a pipe")[1] == "FROM A PIPE \n"
    assert run("generate", tiny, "-p", "typed", stdin="from a pipe")[1] == "TYPED \n"
    assert run("generate", tiny, stdin=b"bad \xff byte")[1] == "BAD \ufffd BYTE \n"


def test_what_is_not_utf8_is_told(run, tiny):
    said = "pyllm: standard input is not UTF-8: byte 0xff at offset {} (from 0) was read as U+FFFD\n"
    err = run("generate", tiny, "--json", stdin="é \ufffd ".encode() + b"\xffx")[2]
    assert err == said.format(7)
    assert run("generate", tiny, "--json", stdin=b"a\xffb\xc3")[2].endswith("U+FFFD, like 1 more in it\n")
    assert "pyllm: -p is not UTF-8: byte 0xc3 at offset 1" in run("generate", tiny, "-p", b"a\xc3")[2]
    code, out, err = run("chat", tiny, stdin=b"hello\n\xc3\xa9\xff\n")
    assert (code, out) == (0, "HELLO \nÉ\ufffd \n")
    assert err == said.format(8)
    assert "pyllm: -m is not UTF-8" in run("chat", tiny, "-m", b"\xff")[2]


def test_generate_with_a_system_message_is_a_chat(run, tiny):
    out = run("generate", tiny, "-p", "history", "--system", "Be brief.")[1]
    assert [m["role"] for m in json.loads(out)] == ["system", "user"]


def test_generate_that_fails_half_way(run, tiny, tmp_path):
    code, out, err = run("generate", tiny, "-p", "fail")
    assert (code, out) == (1, "FAIL \n")
    assert err == "pyllm: logits: expected numbers, got NaN\n"
    assert (tmp_path / "log").read_text().splitlines()[-1] == "closed"


def test_chat_of_lines(run, tiny):
    code, out, err = run("chat", tiny, "--system", "Hi.", stdin="hello you\n\n  \nhistory\n")
    assert code == 0
    assert err == ""
    first, second = out.splitlines()
    assert first == "HELLO YOU "
    assert json.loads(second) == [
        {"role": "system", "content": "Hi."},
        {"role": "user", "content": "hello you"},
        {"role": "assistant", "content": "HELLO YOU "},
        {"role": "user", "content": "history"},
    ]


def test_chat_of_lines_stops_at_a_full_context(run, tiny):
    code, out, err = run("chat", tiny, stdin="hello\nfull\nhello\n")
    assert (code, out) == (1, "HELLO \n")
    assert err == "pyllm: the prompt has 99 tokens, the context 64\n"


def test_chat_answers_are_as_long_as_the_context(run, tiny, tmp_path):
    run("chat", tiny, stdin="hello\n")
    assert json.loads((tmp_path / "log").read_text().splitlines()[0])["max_tokens"] is None


def test_chat_without_a_template_warns(run, tmp_path):
    base = model(tmp_path / "base.gguf", template="")
    code, out, err = run("chat", base, stdin="hello\n")
    assert (code, out) == (0, "HELLO \n")
    assert "no chat template" in err


def test_chat_on_a_terminal(terminal, tiny):
    chat = terminal("chat", tiny)
    chat.expect("chatting with")
    chat.expect("> ")
    chat.type("hello\n")
    chat.expect("HELLO")
    chat.expect("> ")
    chat.type("full\n")
    chat.expect("the prompt has 99 tokens, the context 64\nThis turn was not added")
    chat.expect("> ")
    chat.type("history\n")
    told = json.loads(re.search(r"\[\{.*\}\]", chat.expect(r"\}\]\n"))[0])
    assert [m["content"] for m in told] == ["hello", "HELLO ", "history"]
    chat.expect("> ")
    chat.type(CTRL_D)
    assert chat.wait() == 0


def test_ctrl_c_stops_an_answer_and_keeps_what_came(terminal, tiny):
    chat = terminal("chat", tiny)
    chat.expect("> ")
    chat.type("long\n")
    chat.expect("w5 ")
    chat.type(CTRL_C)
    chat.expect("pyllm: stopped")
    chat.expect("> ")
    chat.type("history\n")
    told = json.loads(re.search(r"\[\{.*\}\]", chat.expect(r"\}\]\n"))[0])
    assert [m["role"] for m in told] == ["user", "assistant", "user"]
    assert told[1]["content"].startswith("w0 w1 w2 w3 w4 w5 ")
    chat.expect("> ")
    chat.type(CTRL_C)
    chat.expect("Ctrl-C once more, or Ctrl-D leaves")
    chat.expect("> ")
    chat.type(CTRL_C)
    assert chat.wait() == 0


def test_ctrl_c_after_a_stopped_answer_leaves(terminal, tiny):
    chat = terminal("chat", tiny)
    chat.expect("> ")
    chat.type("long\n")
    chat.expect("w5 ")
    chat.type(CTRL_C)
    chat.expect("pyllm: stopped")
    chat.expect("> ")
    chat.type(CTRL_C)
    assert chat.wait() == 0


def test_ctrl_c_ends_generate_with_130(terminal, tiny, tmp_path):
    generate = terminal("generate", tiny, "-p", "long")
    generate.expect("w5 ")
    generate.type(CTRL_C)
    assert generate.wait() == 130
    assert (tmp_path / "log").read_text().splitlines()[-2:] == ["ended", "closed"]


def test_generate_without_a_prompt_on_a_terminal_is_wrong_usage(terminal, tiny):
    generate = terminal("generate", tiny)
    generate.expect("no prompt: give -p TEXT")
    assert generate.wait() == 2


def test_terms_are_shown_and_refused_on_a_terminal(terminal):
    pull = terminal("pull", "gemma3-270m")
    pull.expect("Gemma is provided under and subject to the Gemma Terms of Use")
    pull.expect(r"accept these terms\? \[y/N\]")
    pull.type("\n")
    pull.expect("were not accepted: gemma3-270m was not pulled")
    assert pull.wait() == 1
