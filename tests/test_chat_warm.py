"""A conversation goes on with nothing to read: what is kept beside its transcript, when, and how much of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from terminal import CTRL_D

from pyllm.chat import store, warm
from pyllm.chat.loading import Loading
from pyllm.chat.state import Chat
from pyllm.chat.tree import Conversation
from pyllm.chat.warm import Warm
from pyllm.errors import PyllmError
from pyllm.sampling import SamplingParams
from pyllm.shapes import write_model

TEXT = " ".join(f"{i} things" for i in range(60))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "chats"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.gguf", quant="Q8_0", std=0.08, seed=3, context=2048)


def ask(*arguments: str, stdin: str = "") -> tuple[dict[str, Any], str]:
    """One answer of a process of its own: its document, and standard error."""
    command = [sys.executable, "-m", "pyllm", "chat", *arguments, "--json", "--max-tokens", "4", "--seed", "1"]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_next_process_reads_only_what_is_new(home: Path, model: Path, tmp_path: Path) -> None:
    first, _ = ask(str(model), "-m", TEXT)
    (transcript,), (kept,) = home.glob("*.jsonl"), home.glob("*.kv")
    assert kept.stem == transcript.stem
    before = transcript.read_bytes(), kept.read_bytes()

    def again(*arguments: str) -> tuple[dict[str, Any], str]:
        transcript.write_bytes(before[0])
        return ask("-c", "-m", "and?", *arguments)

    warmed, err = again()
    prompt, cached = (warmed["usage"][name] for name in ("prompt_tokens", "cached_tokens"))
    assert err == ""
    assert prompt - cached < 64 < first["usage"]["prompt_tokens"] - 16
    # Everything else is read, and gives the same answer, whatever is wrong with what was kept.
    kept.write_bytes(before[1][:-1])
    read, err = again()
    assert (read["usage"]["cached_tokens"], read["text"], err) == (0, warmed["text"], "")
    kept.write_bytes(before[1])
    assert again("--kv-type", "q8_0")[0]["usage"]["cached_tokens"] == 0
    kept.write_bytes(before[1])
    other = write_model(tmp_path / "other.gguf", quant="Q8_0", std=0.08, seed=4, context=2048)
    assert again(str(other))[0]["usage"]["cached_tokens"] == 0
    kept.write_bytes(before[1])
    unsaved, _ = again("--no-save")
    assert (unsaved["usage"]["cached_tokens"], unsaved["text"]) == (cached, warmed["text"])
    assert kept.read_bytes() == before[1]


def test_why_tells_of_it(home: Path, model: Path) -> None:
    from chat_terminal import ChatTerminal

    def talk(*arguments: str) -> ChatTerminal:
        command = [sys.executable, "-m", "pyllm", "chat", "--max-tokens", "4", *arguments]
        return ChatTerminal(command, dict(os.environ))

    def leave(chat: ChatTerminal) -> None:
        chat.prompt()
        chat.type(CTRL_D)
        assert chat.wait() == 0
        chat.end()

    chat = talk(str(model))
    chat.say(TEXT, "59 things")
    leave(chat)
    chat = talk("-c")
    chat.say("and?", "> and")
    chat.say("/why", r"\d+ tokens were read in an earlier session: their keys and values were kept")
    assert int(chat.see(r"prompt: \d+ tokens, (\d+) reused")[1]) > 400
    chat.say("once more", "> once")
    chat.say("/clear", "a new conversation")
    leave(chat)
    (kept,) = home.glob("*.kv")
    kept.write_bytes(b"no")
    chat = talk("-c")
    chat.say("and?", "> and")
    chat.say("/why", "kept of the last session were not used: .*too short")
    leave(chat)
    assert kept.stat().st_size > 10_000  # and kept anew


# -- when and how much -----------------------------------------------------------------------------------------


class FakeEngine:
    """100 bytes a token; every word is one."""

    kv_bytes_per_token = 100

    def __init__(self) -> None:
        self.saved: list[int] = []  # tokens of each file that was begun
        self.save: Callable[[Path], None] = lambda path: None

    def prompt(self, messages: Any) -> Any:
        return SimpleNamespace(tokens=[5] * sum(len(one["content"].split()) for one in messages))

    def save_kv(self, tokens: list[int], path: Path, stop: Callable[[], None]) -> int:
        self.saved.append(len(tokens))
        stop()
        self.save(path)
        path.write_bytes(bytes(100 * len(tokens)))
        return len(tokens)

    def load_kv(self, path: Path) -> list[int]:
        return [5] * (path.stat().st_size // 100)

    def close(self) -> None:
        pass


def chat_of(engine: FakeEngine, told: list[str] | None = None) -> Chat:
    transcript = store.create(lambda text: None)
    loading: Any = Loading(lambda: engine)  # type: ignore[arg-type, return-value]
    loading.wait()
    return Chat(
        conversation=Conversation(),
        transcript=transcript,
        loading=loading,
        params=lambda name, chosen: SamplingParams(),
        prepare=lambda name: lambda: engine,  # type: ignore[arg-type, return-value]
        models=lambda chat: [],
        tell=(told if told is not None else []).append,
        warm=Warm(transcript.path),
    )


def say(chat: Chat, words: int) -> None:
    id, parent = chat.conversation.next_id(), chat.conversation.head
    chat.record({"turn": id, "parent": parent, "role": "user", "text": "w " * words})
    chat.record({"turn": id + 1, "parent": id, "role": "assistant"})
    chat.used += words


def wait(chat: Chat) -> None:
    if chat.warm._thread is not None:
        chat.warm._thread.join()


def test_writing_is_bounded_by_what_the_conversation_has(home: Path) -> None:
    engine = FakeEngine()
    chat = chat_of(engine)
    for _ in range(400):
        say(chat, 100)
        chat.warm.grown(chat)
        wait(chat)
    assert engine.saved[:4] == [600, 1200, 1800, 2700]
    assert sum(engine.saved) < 3.2 * 40_000
    chat.end()
    assert engine.saved[-1] == 40_000


def test_what_need_not_be_written_is_not(home: Path) -> None:
    engine = FakeEngine()
    chat = chat_of(engine)
    chat.end()  # nothing was said
    chat = chat_of(engine)
    say(chat, warm.LEAST - 1)
    chat.end()
    assert engine.saved == []
    say(chat, 100)
    chat.warm.leave(chat)
    chat.warm.leave(chat)
    assert engine.saved == [227]
    assert chat.transcript is not None
    other = Warm(chat.transcript.path)
    assert len(other.take(engine)) == 227  # type: ignore[arg-type]
    other.leave(chat)
    assert engine.saved == [227]
    say(chat, 50)
    chat.transcript = None  # --no-save
    other.leave(chat)
    assert engine.saved == [227]


def test_the_ones_used_longest_ago_make_room(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLLM_KV_LIMIT", "70kB")
    engine = FakeEngine()
    paths: dict[int, Path] = {}
    for age in (300, 100, 200):
        chat = chat_of(engine)
        say(chat, 200)
        chat.end()
        assert chat.warm.path is not None
        when = time.time() - age
        os.utime(chat.warm.path, (when, when))
        paths[age] = chat.warm.path
    orphan = home / "20200101-000000-abcd.kv"
    orphan.write_bytes(b"x")
    chat = chat_of(engine)
    say(chat, 450)
    chat.end()
    assert sorted(home.glob("*.kv")) == sorted([paths[100], chat.warm.path])
    chat = chat_of(engine)
    say(chat, 701)  # more than all may have
    chat.end()
    assert chat.warm.path not in home.glob("*.kv")
    assert len(list(home.glob("*.kv"))) == 2
    monkeypatch.setenv("PYLLM_KV_LIMIT", "0")
    assert Warm(paths[100].with_suffix(".jsonl")).take(engine) == []  # type: ignore[arg-type]


def test_a_full_disk_and_an_interrupt_are_harmless(home: Path) -> None:
    engine = FakeEngine()
    chat = chat_of(engine)
    say(chat, 700)
    for error in (OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), PyllmError("ended")):

        def fail(path: Path, error: BaseException = error) -> None:
            raise error

        engine.save = fail
        chat.warm.leave(chat)
        if isinstance(error, OSError):
            assert "cannot be kept: No space left" in chat.warm.told
    assert len(engine.saved) == 3
    home.chmod(0o777)
    chat.warm.leave(chat)
    assert "other users may write to it" in chat.warm.told
    assert len(engine.saved) == 3


def test_leaving_ends_what_is_written_behind_the_prompt(home: Path) -> None:
    engine = FakeEngine()
    chat = chat_of(engine)
    say(chat, 700)
    chat.warm._stop.set()
    chat.warm.grown(chat)
    wait(chat)
    assert engine.saved == [700]
    assert not list(home.glob("*.kv"))
    chat.end()
    assert engine.saved == [700, 700]
    assert list(home.glob("*.kv")) == [chat.warm.path]


def test_doctor_shows_verifies_and_clears(home: Path, model: Path) -> None:
    def doctor(*arguments: str) -> tuple[int, dict[str, Any], str]:
        command = [sys.executable, "-m", "pyllm", "doctor", "--json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, json.loads(done.stdout)["kv"], done.stderr

    ask(str(model), "-m", TEXT)
    (kept,) = home.glob("*.kv")
    code, about, _ = doctor()
    size = kept.stat().st_size
    assert (code, about["path"], about["total"]) == (0, str(home), size)
    assert [(one["name"], one["bytes"], one["problem"]) for one in about["files"]] == [(kept.name, size, "")]
    with kept.open("r+b") as file:
        file.seek(100)
        file.write(b"damaged")
    assert doctor()[0] == 0
    code, about, _ = doctor("--verify")
    assert code == 1
    assert "do not match their checksum" in about["files"][0]["problem"]
    code, about, err = doctor("--clear-kv")
    assert (code, about["files"], err.split(":")[1]) == (0, [], " keys and values of conversations")
    assert len(list(home.glob("*.jsonl"))) == 1
