"""A conversation's file: killed at every byte, on a full disk, broken, foreign."""

from __future__ import annotations

import errno
import json
import os

import pytest

from pyllm.chat import store
from pyllm.chat.transcript import Transcript, TranscriptError, header, read, records, write_copy
from pyllm.chat.tree import Conversation
from pyllm.errors import PyllmError

STORY = [
    {"model": "tiny"},
    {"system": "Be brief."},
    {"turn": 1, "parent": 0, "role": "user", "text": "héllo\n日本"},
    {"turn": 2, "parent": 1, "role": "assistant", "model": "tiny"},
    {"add": 2, "text": "", "reasoning": "hm"},
    {"add": 2, "text": "an "},
    {"add": 2, "text": "answer"},
    {"end": 2, "finish": "stop"},
    {"turn": 3, "parent": 1, "role": "assistant", "model": "tiny"},
    {"add": 3, "text": "another"},
    {"end": 3, "finish": "stopped"},
    {"mark": 3},
    {"cut": 2, "summary": "they said hello"},
    {"head": 2},
]


class KilledError(BaseException):
    """The process ends here."""


def told(story):
    conversation = Conversation()
    for record in story:
        conversation.apply(record)
    return conversation


def write(path, story, whole=None, failed=lambda text: None, close=True):
    transcript = Transcript(path, "x", failed, whole)
    for record in story:
        transcript.append(record, sync="end" in record)
    if close:
        transcript.close()
    return transcript


@pytest.fixture
def uninterrupted(tmp_path, monkeypatch):
    monkeypatch.setattr("pyllm.chat.transcript.header", lambda id: {**header(id), "at": "then"})
    write(tmp_path / "whole.jsonl", STORY)
    return (tmp_path / "whole.jsonl").read_bytes()


def limit_writes(monkeypatch, room, error):
    """os.write has room for so many bytes, then raises `error`; in small pieces, as it may."""
    left = [room]
    real = os.write

    def limited(file, data):
        count = min(len(data), left[0], 7)
        if not count:
            raise error
        left[0] -= count
        return real(file, data[:count])

    monkeypatch.setattr("pyllm.chat.transcript.os.write", limited)


def test_killed_at_every_byte(tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr("pyllm.chat.transcript.os.fsync", lambda file: None)  # a disk's time, a thousand times
    for room in range(len(uninterrupted)):
        path = tmp_path / f"{room}.jsonl"
        with pytest.MonkeyPatch.context() as patch:
            limit_writes(patch, room, KilledError())
            with pytest.raises(KilledError):
                write(path, STORY, close=False)
        data = path.read_bytes()
        assert data == uninterrupted[:room]
        if not data.count(b"\n"):
            with pytest.raises(TranscriptError, match="no whole line"):
                read(path)
            continue
        conversation, _, whole = read(path)
        done = data.count(b"\n") - 1
        assert conversation == told(STORY[:done])
        write(path, STORY[done:], whole)
        assert path.read_bytes() == uninterrupted


def test_a_full_disk_is_told_once_and_made_up_for(tmp_path, uninterrupted):
    for room in range(0, uninterrupted[:-1].rindex(b"\n"), 11):
        path = tmp_path / f"{room}.jsonl"
        messages = []
        transcript = Transcript(path, "x", messages.append)
        with pytest.MonkeyPatch.context() as patch:
            limit_writes(patch, room, OSError(errno.ENOSPC, "No space left on device"))
            for record in STORY[:-1]:
                transcript.append(record)
        assert len(messages) == 1
        assert "No space left on device: the conversation is not being saved" in messages[0]
        transcript.append(STORY[-1])  # there is room again
        transcript.close()
        assert path.read_bytes() == uninterrupted


def test_nothing_said_leaves_no_file(tmp_path):
    transcript = write(tmp_path / "a.jsonl", STORY[:2])
    assert not (tmp_path / "a.jsonl").exists()
    assert not transcript.begun


def test_a_copy_is_the_same_conversation(tmp_path):
    conversation = told(STORY)
    write_copy(tmp_path / "copy.jsonl", "x", conversation)
    assert read(tmp_path / "copy.jsonl")[0] == conversation
    assert told(records(conversation)) == conversation


def test_a_file_is_for_its_user_alone(tmp_path):
    write(tmp_path / "chats" / "a.jsonl", STORY)
    assert (tmp_path / "chats" / "a.jsonl").stat().st_mode & 0o077 == 0
    assert (tmp_path / "chats").stat().st_mode & 0o077 == 0


def line(record):
    return json.dumps(record).encode() + b"\n"


FIRST = line(header("x"))
TURN = line(STORY[2])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "found no whole line"),
        (b"no line", "found no whole line"),
        (b"text\n", "the first line cannot be read: it is not JSON"),
        (b"\xff\xfe\n", "the first line cannot be read"),
        (b"[1]\n", "it is not a JSON object"),
        (b'{"custom_id": "1"}\n', "its first line says nothing of it"),
        (line({"pyllm": "chat", "version": 2}), "expected version 1, found 2"),
        (b"[" * 100_000 + b"\n", "it is not JSON"),
        (FIRST + b"\0\0\0\n" + TURN, "line 2 cannot be read: it is not JSON. The file was not changed"),
        (FIRST + line({"future": 1}), "line 2 cannot be read: expected one of turn, add"),
        (FIRST + line({"turn": 2, "parent": 0, "role": "user"}), "turn: expected 1, found 2"),
        (FIRST + line({"turn": 1, "parent": 7, "role": "user"}), "expected a turn from 1 to 0, found 7"),
        (FIRST + line({"turn": 1, "parent": 0, "role": "root"}), "role: expected user or assistant"),
        (FIRST + TURN + line({"turn": 2, "parent": 1, "role": "user"}), "expected user and assistant in turns"),
        (
            FIRST + line({"turn": True, "parent": 0, "role": "user"}),
            "turn: expected a number of a turn, found True",
        ),
        (FIRST + TURN + line({"add": 1, "text": 5}), "text: expected text, found 5"),
        (FIRST + TURN + line({"head": 9}), "line 3 cannot be read: expected a turn from 1 to 1, found 9"),
        (FIRST + line({"cut": 1}), "expected a turn from 1 to 0, found 1"),
        (FIRST + line({"system": []}), "system: expected text"),
    ],
)
def test_broken_and_foreign_files_are_named_and_left_alone(tmp_path, data, told):
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(TranscriptError) as error:
        read(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_bytes() == data


def test_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYLLM_HOME", str(tmp_path))
    transcript = store.create(pytest.fail)
    for record in STORY:
        transcript.append(record)
    with pytest.raises(PyllmError, match="is open in another pyllm chat"):
        store.resume(transcript.id, pytest.fail)
    transcript.close()
    assert store.newest() == transcript.id
    conversation, again = store.resume(transcript.id[:-1], pytest.fail)
    assert conversation == told(STORY)
    again.close()
    assert [(one.id, one.turns, one.first) for one in store.saved()] == [(transcript.id, 1, "héllo\n日本")]
    assert [path.suffix for path in (tmp_path / "chats").iterdir()] == [".jsonl"]
    for wrong in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(PyllmError, match="expected an id"):
            store.resume(wrong, pytest.fail)


# -- the tree --------------------------------------------------------------------------------------------------


def test_what_is_sent():
    conversation = told(STORY)
    assert [turn.id for turn in conversation.path()] == [1, 2]
    assert conversation.ends() == [2, 3]
    summary = "Be brief.\n\nWhat was said before, in short:\nthey said hello"
    assert conversation.messages(question="next") == [
        {"role": "system", "content": summary},
        {"role": "user", "content": "next"},
    ]
    conversation.apply({"head": 3})  # the cut does not lie on this branch
    assert conversation.messages() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "héllo\n日本"},
        {"role": "assistant", "content": "another"},
    ]
