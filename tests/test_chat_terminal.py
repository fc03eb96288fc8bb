"""`pyllm chat` as a person uses it: commands, keys, screens. The model answers by rule (fake_llm)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("termios", reason="pseudo-terminals need POSIX")
from chat_terminal import ALT_ENTER, CTRL_G, CTRL_R, PASTE, TAB, UP, ChatTerminal
from terminal import CTRL_C, CTRL_D

import pyllm

gguf = pytest.importorskip("gguf")
pytest.importorskip("pyllm._core")

FAKE = Path(__file__).parent / "fake_llm"
ROOT = Path(pyllm.__file__).parents[1]


def write_tiny(folder):
    writer = gguf.GGUFWriter(folder / "tiny.gguf", "llama")
    writer.add_chat_template("{{ messages }}")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(folder / "tiny.gguf")


def environment(home):
    return {
        **os.environ,
        "PYTHONPATH": f"{FAKE}{os.pathsep}{ROOT}",
        "PYLLM_HOME": str(home),
        "EDITOR": "false",
        "VISUAL": "",
        "DISPLAY": "",
        "WAYLAND_DISPLAY": "",
    }


def opened(env, arguments, columns=160, rows=40):
    return ChatTerminal([sys.executable, "-m", "pyllm", "chat", *arguments], env, columns, rows)


@pytest.fixture
def tiny(tmp_path):
    return write_tiny(tmp_path)


@pytest.fixture
def env(tmp_path):
    return environment(tmp_path / "home")


@pytest.fixture
def start(env, tiny):
    """Opens a chat of the test's own."""
    chats = []

    def call(*arguments, columns=160, rows=40, **more):
        chats.append(opened({**env, **more}, arguments or (tiny,), columns, rows))
        return chats[-1]

    yield call
    for one in chats:
        one.end()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One chat for many tests: starting takes longer than most of them."""
    folder = tmp_path_factory.mktemp("shared")
    chat = opened(environment(folder / "home"), [write_tiny(folder)])
    yield chat
    chat.end()


@pytest.fixture
def chat(shared):
    """The shared chat at an empty prompt of a new conversation, with settings as they were."""
    shared.settle(0.02)
    shared.screen.reset()
    shared.raw = b""
    shared.type("\x15/clear\r")  # after what may stand at the prompt
    shared.see("a new conversation")
    shared.say("/unset all", "own values")
    return shared


def transcript(tmp_path):
    (path,) = (tmp_path / "home" / "chats").glob("*.jsonl")
    return path


# -- talking ---------------------------------------------------------------------------------------------------


def test_markdown_is_rendered_and_copies_cleanly(chat):
    chat.say(
        r"say # Title\n\n- one\n- **two**\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 22 |\n\nend",
        "^end",
    )
    assert chat.text.split("\n\n", 1)[0].endswith("Title")
    for line in ("• one", "• two", "```python", "x = 1", "a  b", "1  22"):
        assert line in chat.lines
    assert b"\x1b[1" in chat.raw  # bold


def test_controls_of_a_model_never_reach_the_terminal(chat):
    chat.say(r"say \u001b[31mred\u001b[0m &#27;]0;title\u0007 \u202eevil", "evil")
    answer = chat.raw[chat.raw.rindex(b"red") - 40 :]
    assert b"\x1b[31m" not in answer
    assert "\\x1b[31mred" in chat.text
    assert "\\u202eevil" in chat.text


def test_languages_in_a_narrow_terminal(start):
    chat = start(columns=20, rows=60)
    chat.say(r"say 日本語のとても長い文章です。\n\n\u05e9\u05dc\u05d5\u05dd\n\n👍🏽 ok 🇫🇷\n\nend", "^end")
    lines = chat.lines
    assert "\u05e9\u05dc\u05d5\u05dd" in lines
    wide = "".join(line.replace(" ", "") for line in lines)
    assert "日本語のとても長い文章です。" in wide


def test_raw_answers_are_as_the_model_wrote_them(start, tiny):
    chat = start(tiny, "--raw")
    chat.say(r"say # Title **b**", "^# Title")
    assert "# Title **b**" in chat.lines


def test_resizing_while_an_answer_comes_loses_nothing(start):
    chat = start()
    chat.prompt()
    chat.type("long\r")
    chat.see(r"\bw30\b")
    chat.resize(50, 40)
    chat.see(r"\bw80\b")
    chat.resize(100, 40)
    chat.see(r"\bw120\b")
    chat.type(CTRL_C)
    chat.see("stopped")
    words = chat.text.split()
    assert set(words) >= {f"w{i}" for i in range(120)}


def test_an_answer_longer_than_the_screen_leaves_through_the_top_once(start):
    chat = start(rows=10)
    text = r"\n".join(f"- item {i}" for i in range(40))
    chat.say(f"say {text}", "item 39")
    found = [line for line in chat.text.split("\n") if line.startswith("• item")]
    assert found == [f"• item {i}" for i in range(40)]


def test_multi_line_messages(chat):
    chat.prompt()
    chat.type("one" + ALT_ENTER + "two\r")
    chat.see("ONE TWO")
    chat.prompt()
    chat.type('"""\rthree\r\rfour"""\r')
    chat.see("THREE FOUR")
    chat.prompt()
    chat.type(PASTE.format("five\nsix"))
    chat.see("  six")
    assert "FIVE" not in chat.text
    chat.type("\r")
    chat.see("FIVE SIX")
    chat.prompt()
    chat.type("seven\x1b[13;2ueight\r")  # Shift-Enter as kitty tells it
    chat.see("SEVEN EIGHT")


def test_history_is_searched_across_sessions(start, tiny, tmp_path):
    first = start()
    first.say("a question of yesterday", "A QUESTION")
    first.type(CTRL_D)
    assert first.wait() == 0
    second = start()
    second.prompt()
    second.type(CTRL_R + "yester")
    second.see("a question of yesterday")
    second.type("\r\r")
    second.see("A QUESTION OF YESTERDAY")
    second.prompt()
    second.type(UP)
    second.see("> a question of yesterday")
    assert (tmp_path / "home" / "chats" / "history").stat().st_mode & 0o77 == 0


def test_a_history_that_cannot_be_used_is_told_and_done_without(start, tmp_path):
    (tmp_path / "home" / "chats" / "history").mkdir(parents=True)
    chat = start()
    chat.say("hello", "HELLO")
    assert "what you type is not remembered" in chat.text


def test_a_broken_history_is_read_as_far_as_it_goes(start, tmp_path):
    folder = tmp_path / "home" / "chats"
    folder.mkdir(parents=True)
    (folder / "history").write_bytes(b"\xff\x00garbage\n+bad \xfe byte\n\x1b[2J\n+fine\n")
    chat = start()
    chat.prompt()
    chat.type(UP)
    chat.see("> fine")


def test_the_editor(start, tmp_path):
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nprintf "from the editor" > "$1"\n')
    editor.chmod(0o755)
    chat = start(EDITOR=str(editor))
    chat.prompt()
    chat.type("draft" + CTRL_G)
    chat.see("> from the editor")
    chat.type("\r")
    chat.see("FROM THE EDITOR")


@pytest.mark.parametrize(
    ("editor", "told"),
    [("false", "ended with code 1"), ("/not/there", "No such file"), ("'open", "No closing quotation")],
)
def test_an_editor_that_fails_changes_nothing(start, editor, told):
    chat = start(EDITOR=editor)
    chat.prompt()
    chat.type("draft" + CTRL_G)
    chat.see(told)
    chat.see("> draft")
    chat.type("\r")
    chat.see("DRAFT")


def test_completion(chat, tmp_path):
    (tmp_path / "notes.txt").write_text("text")
    chat.prompt()
    chat.type("/reg")
    chat.see("another answer to the last question")
    chat.type(TAB)
    chat.see("> /regen")
    chat.type(CTRL_C)
    chat.prompt()
    chat.type("/set tempe")
    chat.see("always the most probable")
    chat.type(TAB)
    chat.see("> /set temperature")
    chat.type(" 0.5\r")
    chat.see("temperature = 0.5")
    chat.prompt()
    chat.type(f"/file {tmp_path}/no")
    chat.see("notes.txt")


def test_the_prompt_comes_before_the_model(start):
    chat = start(FAKE_LLM_LOAD_S="1.5")
    chat.prompt()
    chat.see("loading tiny")
    chat.type("hello\r")
    chat.see("pyllm: loading tiny")
    chat.see("HELLO")


def test_leaving_while_the_model_loads(start):
    chat = start(FAKE_LLM_LOAD_S="30")
    chat.prompt()
    chat.type(CTRL_D)
    assert chat.wait() == 0


def test_a_model_that_does_not_load_ends_it(start):
    chat = start(FAKE_LLM_BROKEN="1")
    chat.see("blk.0.attn_q.weight: missing")
    assert chat.wait() == 1


def test_the_terminal_goes_away_in_an_answer(start, tmp_path):
    chat = start()
    chat.prompt()
    chat.type("long\r")
    chat.see(r"\bw5\b")
    chat.hang_up()
    assert chat._process.wait(20) == 129
    records = [json.loads(line) for line in transcript(tmp_path).read_text().splitlines()]
    assert {"end": 2, "finish": "broken"} in records
    assert "w0 w1 w2" in "".join(record.get("text", "") for record in records if "add" in record)


def test_a_failing_answer_keeps_what_came(chat):
    chat.say("fail", "logits: expected numbers, got NaN")
    assert "What came of the answer was kept" in chat.text
    chat.say("history", '"FAIL "')


# -- commands --------------------------------------------------------------------------------------------------


def test_help_exit_and_unknown_commands(start):
    chat = start()
    chat.say("/help", "/why ")
    assert "Ctrl-C stops an answer" in chat.text
    chat.say("/help retry", "side by side")
    chat.say("/exot", r"unknown command /exot: did you mean .*/exit")
    chat.say(" /etc is a folder", "/ETC IS A FOLDER")
    chat.prompt()
    chat.type("/exit\r")
    assert chat.wait() == 0


def test_system(chat):
    chat.say("/system", "there is no system message")
    chat.say("/system Be brief.", "was changed")
    chat.say("history", r'"system", "content": "Be brief."')
    chat.say("/system -", "was removed")
    chat.say("/system", "there is no system message")


def test_set_and_unset(chat):
    chat.say("/set", r"xtc_threshold +0\.1 +0 to 1 ")
    chat.say("/set temperature 101", "expected 0 to 100, got 101")
    chat.say("/set temperature warm", "temperature: expected 0 to 100, got 'warm'")
    chat.say("/set tempreature 1", "did you mean temperature")
    chat.say("/set temperature 0.25", r"temperature = 0\.25")
    chat.say("/set max-tokens 7", "max_tokens = 7")
    chat.say('/set stop ["a", "b"]', "stop = 'a', 'b'")
    chat.say("/set temperature", r"\* temperature +0\.25 +0 to 100 ")
    chat.say("/unset max_tokens", "max_tokens +none")
    chat.say("/unset all", "own values")


def test_every_sampling_option_is_there_and_its_range_is_right():
    import dataclasses

    from pyllm import SamplingParams
    from pyllm.chat.sampling_options import OPTIONS
    from pyllm.errors import PyllmError

    own = {
        "stop_token_ids",
        "n",
        "logprobs",
        "top_logprobs",
        "visible_tokens",
        "constraint",
    }  # chat's own business
    assert set(OPTIONS) == {field.name for field in dataclasses.fields(SamplingParams)} - own
    for name, option in OPTIONS.items():
        low, _, high = option.range.partition(" to ")
        if option.kind in (int, float) and high and "max" not in high:
            low, high = float(low.removeprefix("above ").rstrip(",")), float(high)
            SamplingParams(**{name: high})
            for wrong in (low - 1, high * 2):
                with pytest.raises(PyllmError, match=name):
                    SamplingParams(**{name: wrong})


def test_undo_regen_and_branches(start):
    chat = start()
    chat.say("count", "answer 1")
    chat.say("/regen", "answer 2")
    chat.say("/branches", r"\*  2 ")
    chat.say("/branches 1", "answer 1")
    chat.say("history", r'"content": "answer 1"')
    chat.say("/undo", "taken back: history")
    chat.say("/undo", "0 questions left")
    chat.say("/undo", "there is nothing to undo")
    chat.say("history", r'^\[\{"role": "user", "content": "history"\}\]')


def test_edit_asks_another_question_from_the_same_place(chat):
    chat.say("first", "FIRST")
    chat.say("second", "SECOND")
    chat.prompt()
    chat.type("/edit 1\r")
    chat.see("> first")
    chat.type(" changed\r")
    chat.see("FIRST CHANGED")
    chat.say("/branches", "leaves from the start|from the start")
    chat.say("history", r'"first changed"')
    assert "second" not in chat.see(r"^\[.*\n?.*first changed.*")[0]
    chat.say("/edit 9", "expected a turn from 1 to 2, got 9")


def test_retry_shows_candidates_and_one_is_picked(start):
    chat = start()
    chat.say("count", "answer 1")
    chat.prompt()
    chat.type("/retry 3\r")
    chat.see("── 1 ──.*│ ── 2 ──.*│ ── 3 ──")
    chat.see("answer 2 .*│ answer 3 .*│ answer 4")
    chat.see("pick 1 to 3")
    chat.type("7\r")
    chat.see("expected a number from 1 to 3")
    chat.type("2\r")
    chat.say("history", r'"content": "answer 3"')
    chat.say("/retry 99", "expected 2 to 16 answers, got 99")


def test_fork_leaves_a_branch(chat):
    chat.say("one", "ONE")
    chat.say("two", "TWO")
    chat.say("/fork 1", "after question 1")
    chat.say("three", "THREE")
    chat.say("/branches", r"1  2 questions, leaves after question 1: two → TWO")
    assert "*  2  2 questions, here" in chat.text


def test_file_and_read(chat, tmp_path):
    (tmp_path / "a.txt").write_text("alpha beta\n")
    chat.say(f"/file {tmp_path}/a.txt", r"attached: a.txt, 1 lines?, 2 tokens")
    chat.say("what?", "A.TXT: ")
    chat.say("/file", "nothing is attached")
    chat.say("/file /not/there", "No such file")
    chat.say(f"/file {tmp_path}", "it is a folder")
    (tmp_path / "b.bin").write_bytes(b"\0\1")
    chat.say(f"/file {tmp_path}/b.bin", "it looks binary")
    chat.prompt()
    chat.type(f"/read {tmp_path}/a.txt\r")
    chat.see("2 tokens")
    chat.see("Enter sends it")
    chat.type("\r")
    chat.see("ALPHA BETA")


def test_copy_hands_it_to_the_terminal(start):
    chat = start(PATH="")
    chat.say(r"say text\n\n```sh\nls -l\n```", "ls -l")
    chat.say("/copy code", "6 characters handed to the terminal")
    assert b"\x1b]52;c;bHMgLWwK\x07" in chat.raw
    chat.say("/copy all", "expected nothing or code")


def test_save_load_and_export(chat, tmp_path):
    chat.say("hello", "HELLO")
    chat.say("/save", "saved as it goes")
    chat.say(f"/save {tmp_path}/copy.jsonl", "saved: ")
    chat.say(f"/export {tmp_path}/c.md", "exported: ")
    chat.say(f"/export {tmp_path}/c.json", "exported: ")
    chat.say(f"/export {tmp_path}/c.doc", "ends in .md or .json")
    chat.prompt()
    chat.type(f"/export {tmp_path}/c.md\r")
    chat.see("y replaces it>")
    chat.type("\r")
    chat.see("not written")
    assert (
        tmp_path / "c.md"
    ).read_text() == "# Conversation with tiny\n\n## You\n\nhello\n\n## tiny\n\nHELLO\n"
    messages = json.loads((tmp_path / "c.json").read_text())["messages"]
    assert messages == [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "HELLO "}]
    chat.say("/clear", "a new conversation")
    chat.say("/system Be brief.", "was changed")
    chat.say(f"/load {tmp_path}/copy.jsonl", "> hello")
    chat.say("history", '"HELLO "')
    assert "system" not in chat.see(r"^\[\{.*")[0]  # the one before had a system message, this one has none
    (tmp_path / "bad.jsonl").write_text("{}\n")
    chat.say(f"/load {tmp_path}/bad.jsonl", "expected a conversation of pyllm chat")
    chat.say("/load", "1 questions|2 questions")


def test_tokens_stats_and_why(chat):
    chat.say("/tokens", "there is no answer of this session")
    chat.say("hello you", "HELLO YOU")
    chat.say("/tokens 1", r"^ +1  'HELLO ' 90\.5% +instead of")
    chat.say("/stats", r"answer +2 tokens, 8\.0 tokens/s, ended by stop")
    chat.say("/why", r"prompt: 3 tokens, 0 reused, 3 computed")
    chat.say("and now", "AND NOW")
    chat.say("/why", "reading the prompt")


def test_think(start):
    chat = start(FAKE_LLM_TEMPLATE="<think></think>")
    chat.say("think", r"^so it is\s*\n\s*\nYes\.")
    chat.say("/think hide", "hidden")
    chat.say("/clear", "a new conversation")
    chat.say("think", r"^> think\nYes\.")
    chat.say("/think maybe", "expected show, hide, off")


def test_think_off_asks_the_model_not_to(start, tmp_path):
    chat = start(FAKE_LLM_LOG=str(tmp_path / "log"))
    chat.say("hello", "HELLO")
    chat.say("/think off", "asked not to be made; this model makes none")
    chat.say("again", "AGAIN")
    asked = [json.loads(line) for line in (tmp_path / "log").read_text().split("\n") if line.startswith("{")]
    assert [one["arguments"] for one in asked] == [{}, {"enable_thinking": False}]


def test_json_takes_a_schema(chat, tmp_path):
    chat.say('/json {"type": "object", "properties": {"name": {}}}', "answers are JSON with name")
    chat.say("/json", '"properties"')
    chat.say("/json {nonsense", "JSON")
    chat.say(f"/json {tmp_path}/none.json", "No such file")
    chat.say("/json off", "free text")


def test_model_switches_and_keeps_the_conversation(start, tmp_path):
    chat = start()
    other = tmp_path / "other.gguf"
    other.write_bytes((tmp_path / "tiny.gguf").read_bytes())
    chat.say("hello", "HELLO")
    chat.say("/model /not/there.gguf", "not/there.gguf")
    chat.say("still here", "STILL HERE")
    chat.say(f"/model {other}", "now other, a context of 4096 tokens")
    chat.say("history", r'"HELLO "')
    chat.see("other │")


# -- the context -----------------------------------------------------------------------------------------------


def test_a_full_context_is_a_choice(start):
    chat = start(FAKE_LLM_CONTEXT="64")
    for i in range(2):
        chat.say(f"q{i} " + "w " * 12, f"Q{i}")
    chat.prompt()
    chat.type("q4 " + "w " * 12 + "\r")
    chat.see("the context is full: with this message the prompt has")
    chat.see("d, s or Enter>")
    chat.type("\r")
    chat.see("> q4 w")  # to be shortened
    chat.type("\r")
    chat.see("d, s or Enter>")
    chat.type("d\r")
    chat.see("^Q4")
    chat.say("/undo", "taken back: q4")
    chat.prompt()
    chat.type("history\r")
    told = chat.see(r"^\[\{.*")[0]
    assert "q0" not in told


def test_a_summary_takes_the_place_of_the_oldest_turns(start):
    chat = start(FAKE_LLM_CONTEXT="200")
    for i in range(4):
        chat.say(f"q{i} " + "w " * 20, f"Q{i}")
    chat.prompt()
    chat.type("more " + "w " * 20 + "\r")
    chat.see("d, s or Enter>")
    chat.type("s\r")
    chat.see("SUMMARISE OUR CONVERSATION")
    chat.see("^MORE")


def test_a_context_that_is_getting_full_is_told_once(start):
    chat = start(FAKE_LLM_CONTEXT="40")
    chat.say("w " * 14, "W W")
    chat.say("say x", "^x")
    assert chat.text.count("% full: ") <= 1


# -- kept conversations ----------------------------------------------------------------------------------------


def test_continue_and_resume(start, tiny, tmp_path):
    first = start()
    first.say("hello", "HELLO")
    first.type(CTRL_D)
    assert first.wait() == 0
    path = transcript(tmp_path)
    again = start("-c")
    again.say("history", '"HELLO "')
    other = start("--resume", path.stem)
    other.see("is open in another pyllm chat")
    assert other.wait() == 1
    again.type(CTRL_D)
    again.wait()
    short = start("--resume", path.stem[:-2])
    short.say("history", '"history"')
    assert transcript(tmp_path) == path


def test_a_conversation_with_another_model_is_told(start, tiny, tmp_path):
    first = start()
    first.say("hello", "HELLO")
    first.type(CTRL_D)
    first.wait()
    other = tmp_path / "other.gguf"
    Path(tiny).rename(other)
    gone = start("-c")
    gone.see("give MODEL to go on with another")
    assert gone.wait() == 1
    chat = start(str(other), "-c")
    chat.see("this conversation was with")
    chat.say("history", '"HELLO "')


def test_a_killed_chat_loses_nothing_that_was_shown(start, tmp_path):
    chat = start()
    chat.prompt()
    chat.type("long\r")
    chat.see(r"\bw40\b")
    chat._process.send_signal(signal.SIGKILL)
    chat._process.wait()
    chat.settle()
    again = start("-c")
    again.prompt()
    again.type("history\r")
    again.see(r"\bw40\b")


def test_no_save_keeps_nothing(start, tiny, tmp_path):
    chat = start(tiny, "--no-save")
    chat.say("hello", "HELLO")
    chat.type(CTRL_D)
    chat.wait()
    assert list((tmp_path / "home" / "chats").glob("*.jsonl")) == []


# -- without a prompt ------------------------------------------------------------------------------------------


def run(env, *arguments, stdin=""):
    command = [sys.executable, "-m", "pyllm", "chat", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, env=env, check=False, timeout=60, text=True
    )
    return done.returncode, done.stdout, done.stderr


def test_one_shot(env, tiny):
    assert run(env, tiny, "-m", "what is") == (0, "WHAT IS \n", "")
    assert run(env, tiny, "-m", "what is", stdin="this file\n") == (0, "WHAT IS THIS FILE \n", "")
    assert run(env, tiny, "-m", "full") == (1, "", "pyllm: the prompt has 99 tokens, the context 64\n")
    assert run(env, tiny, "-m", "x", "--temperature", "-1")[0] == 2
    code, out, _ = run(env, "-c", "-m", "history")
    assert code == 0
    assert [m["role"] for m in json.loads(out)] == ["user"]  # the last that said anything before was "full"


def test_one_shot_json(env, tiny):
    code, out, err = run(env, tiny, "-m", "hello you", "--json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["text"], told["finish_reason"]) == ("HELLO YOU ", "stop")
    assert told["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 0}
    code, out, _ = run(env, tiny, "--json", stdin="a\nb\n")
    assert [answer["text"] for answer in json.loads(out)["answers"]] == ["A ", "B "]


def test_the_list_of_conversations(env, tiny, tmp_path):
    run(env, tiny, "-m", "hello you")
    code, out, _ = run(env, "--list")
    assert code == 0
    assert "hello you" in out
    transcript(tmp_path).write_bytes(b"\xff\n")
    assert "unreadable" in run(env, "--list")[1]
    code, _, err = run(env, "-c", "-m", "x")
    assert code == 1
    assert "the first line cannot be read" in err


def test_wrong_usage(env, tiny):
    assert run(env, tiny, "-c", "--resume", "x")[0] == 2
    assert "expected an id" in run(env, tiny, "--resume", "../x")[2]
    assert "there is no conversation to continue" in run(env, tiny, "-c")[2]
    assert "found none" in run(env, tiny, "--resume", "x")[2]
