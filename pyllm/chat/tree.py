"""A conversation is a tree of turns: an edited question or another answer is a sibling, nothing is deleted.

It changes only by applying records (plain JSON objects), so the transcript is the list of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyllm.errors import PyllmError

_SUMMARY = "What was said before, in short:\n"


@dataclass
class Turn:
    """One message. `parent` 0: the first of its branch. `finish` "": cut off by the end of the program."""

    id: int
    parent: int
    role: str  # "user" or "assistant"
    text: str = ""
    reasoning: str = ""
    finish: str = ""
    model: str = ""


@dataclass
class Conversation:
    """All turns, and where one stands among them.

    head: the turn that the next one follows; 0 before the first. marks: turns that /fork left as ends of
    branches. cuts: (turn, summary): where a path holds the turn, only what follows it is sent to the model.
    """

    turns: dict[int, Turn] = field(default_factory=dict)
    head: int = 0
    marks: set[int] = field(default_factory=set)
    cuts: list[tuple[int, str]] = field(default_factory=list)
    system: str | None = None
    model: str = ""

    # -- changes -----------------------------------------------------------------------------------------------

    def apply(self, record: Mapping[str, Any]) -> None:
        """One change. PyllmError when it is none of this conversation's."""
        kind = next((name for name in _CHANGES if name in record), None)
        if kind is None:
            raise PyllmError(f"expected one of {', '.join(_CHANGES)}, found {', '.join(record) or 'nothing'}")
        _CHANGES[kind](self, record)

    def next_id(self) -> int:
        return len(self.turns) + 1

    def _turn(self, record: Mapping[str, Any]) -> None:
        id, parent = _whole(record, "turn"), _whole(record, "parent")
        role = _text(record, "role")
        if id != self.next_id():
            raise PyllmError(f"turn: expected {self.next_id()}, found {id}")
        if role not in ("user", "assistant"):
            raise PyllmError(f"role: expected user or assistant, found {role!r:.40}")
        if (parent and self._known(parent).role == role) or (not parent and role != "user"):
            raise PyllmError(f"turn {id}: expected user and assistant in turns")
        model = _text(record, "model", "")
        finish = "sent" if role == "user" else ""
        self.turns[id] = Turn(id, parent, role, _text(record, "text", ""), finish=finish, model=model)
        self.head = id

    def _add(self, record: Mapping[str, Any]) -> None:
        turn = self._known(_whole(record, "add"))
        turn.text += _text(record, "text", "")
        turn.reasoning += _text(record, "reasoning", "")

    def _end(self, record: Mapping[str, Any]) -> None:
        self._known(_whole(record, "end")).finish = _text(record, "finish")

    def _head(self, record: Mapping[str, Any]) -> None:
        id = _whole(record, "head")
        self.head = id and self._known(id).id

    def _mark(self, record: Mapping[str, Any]) -> None:
        self.marks.add(self._known(_whole(record, "mark")).id)

    def _cut(self, record: Mapping[str, Any]) -> None:
        self.cuts.append((self._known(_whole(record, "cut")).id, _text(record, "summary", "")))

    def _system(self, record: Mapping[str, Any]) -> None:
        self.system = None if record["system"] is None else _text(record, "system")

    def _model(self, record: Mapping[str, Any]) -> None:
        self.model = _text(record, "model")

    def _known(self, id: int) -> Turn:
        if id not in self.turns:
            raise PyllmError(f"expected a turn from 1 to {len(self.turns)}, found {id}")
        return self.turns[id]

    # -- what is there -----------------------------------------------------------------------------------------

    def path(self, head: int | None = None) -> list[Turn]:
        """The turns from the first to `head`, absent: where one stands."""
        found = []
        at = self.head if head is None else head
        while at:
            found.append(self.turns[at])
            at = self.turns[at].parent
        return found[::-1]

    def questions(self) -> list[Turn]:
        """The user's turns on the path: question N is the N-th of them."""
        return [turn for turn in self.path() if turn.role == "user"]

    def question(self, number: int) -> Turn:
        """PyllmError when there is none of this number."""
        questions = self.questions()
        if not 1 <= number <= len(questions):
            raise PyllmError(
                f"expected a turn from 1 to {len(questions)}, got {number}"
                if questions
                else "nothing was said yet"
            )
        return questions[number - 1]

    def answer(self) -> Turn | None:
        """The last answer on the path."""
        return next((turn for turn in reversed(self.path()) if turn.role == "assistant"), None)

    def ends(self) -> list[int]:
        """The ends of all branches, the oldest first."""
        said = [turn for turn in self.turns.values() if turn.role == "user" or turn.text or turn.reasoning]
        parents = {turn.parent for turn in said}
        return [
            id for id in (turn.id for turn in said) if id not in parents or id in self.marks or id == self.head
        ]

    def cut(self, head: int | None = None) -> tuple[int, str] | None:
        """The last cut that lies on the path to `head`."""
        on_path = {turn.id for turn in self.path(head)}
        return next((cut for cut in reversed(self.cuts) if cut[0] in on_path), None)

    def sent(self, head: int | None = None) -> list[Turn]:
        """The turns to `head` that the model gets to read."""
        path, cut = self.path(head), self.cut(head)
        if cut is None:
            return path
        return path[next(i for i, turn in enumerate(path) if turn.id == cut[0]) + 1 :]

    def messages(self, head: int | None = None, question: str | None = None) -> list[dict[str, str]]:
        """What the model gets to read: all but what a cut leaves out, and `question` last."""
        cut = self.cut(head)
        parts = [self.system or "", _SUMMARY + cut[1] if cut and cut[1] else ""]
        system = "\n\n".join(part for part in parts if part)
        messages = [{"role": "system", "content": system}] if system or self.system is not None else []
        for turn in self.sent(head):
            message = {"role": turn.role, "content": turn.text}
            if turn.reasoning:
                message["reasoning_content"] = turn.reasoning
            messages.append(message)
        if question is not None:
            messages.append({"role": "user", "content": question})
        return messages


_CHANGES = {
    "turn": Conversation._turn,
    "add": Conversation._add,
    "end": Conversation._end,
    "head": Conversation._head,
    "mark": Conversation._mark,
    "cut": Conversation._cut,
    "system": Conversation._system,
    "model": Conversation._model,
}


def _text(record: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = record.get(name, default)
    if not isinstance(value, str):
        raise PyllmError(f"{name}: expected text, found {value!r:.40}")
    return value


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PyllmError(f"{name}: expected a number of a turn, found {value!r:.40}")
    return value
