"""Going back, and answering again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyllm.chat.commands.registry import command, whole
from pyllm.chat.talk import answer_again
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat

_MANY = 16


@command("/undo", "take back the last question with its answer")
def undo(chat: Chat, argument: str) -> None:
    questions = chat.conversation.questions()
    if not questions:
        raise PyllmError("there is nothing to undo")
    last = questions[-1]
    chat.record({"head": last.parent}, sync=True)
    chat.used = 0
    first = last.text.strip().split("\n")[0][:60]
    chat.show(f"taken back: {first} ({_left(len(questions) - 1)}; /branches has it still)")


@command(
    "/edit [N]", "change your question N (absent: the last) and ask from there; the old one stays a branch"
)
def edit(chat: Chat, argument: str) -> None:
    count = len(chat.conversation.questions())
    turn = chat.conversation.question(whole(argument, "the number of a question", count))
    chat.parent = turn.parent
    chat.draft = turn.text


@command("/regen", "another answer to the last question")
def regen(chat: Chat, argument: str) -> None:
    answer_again(chat)


@command("/retry [K]", "K answers (absent: 3) to the last question in one batch, side by side; pick one")
def retry(chat: Chat, argument: str) -> None:
    count = whole(argument, "how many answers", 3)
    if not 2 <= count <= _MANY:
        raise PyllmError(f"expected 2 to {_MANY} answers, got {count}")
    if chat.sampling().temperature == 0:
        chat.tell("at temperature 0 all answers are the same: /set temperature 0.8 makes them differ")
    found = answer_again(chat, count)
    if not found:
        return
    tokens = sum(one.tokens for one in found)
    span = max(one.last for one in found) - min(one.first or one.last for one in found)
    if span > 0:
        chat.show(f"{tokens} tokens in {span:.1f} s, {tokens / span:.0f} tokens/s together")
    while True:
        choice = chat.choose(f"pick 1 to {len(found)}, Enter: 1> ").strip() or "1"
        if choice.isdecimal() and 1 <= int(choice) <= len(found):
            break
        chat.tell(f"expected a number from 1 to {len(found)}")
    picked = found[int(choice) - 1]
    chat.record({"head": picked.turn.id}, sync=True)
    chat.answers.append(picked)  # /tokens and /stats are about it now


def _left(count: int) -> str:
    return f"{count} question{'s' * (count != 1)} left"
