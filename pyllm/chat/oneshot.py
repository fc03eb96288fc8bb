"""Without a prompt: one question, or a turn a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pyllm.chat.answering import StoppedError
from pyllm.chat.talk import ask

if TYPE_CHECKING:
    from pyllm.chat.state import Answered, Chat


def run(chat: Chat, turns: Iterable[str], as_json: bool) -> bool:
    """Asks them one after the other. False when Ctrl-C stopped an answer; PyllmError when one failed."""
    if chat.loading.wait() and (note := chat.engine.note):
        chat.tell(note)
    found = []
    for text in turns:
        try:
            one = ask(chat, text)
        except StoppedError:
            return False
        if one is not None:
            found.append(one)
            if one.error is not None:
                raise one.error
        if one is None or one.done is None:
            if as_json and found:
                _show(chat, found)
            return False
    if as_json:
        _show(chat, found)
    return True


def _show(chat: Chat, found: list[Answered]) -> None:
    documents = [_document(one) for one in found]
    shown: dict[str, Any] = {"model": chat.model}
    if chat.transcript is not None:
        shown["conversation"] = chat.transcript.id
    shown.update(documents[0] if len(documents) == 1 else {"answers": documents})
    json.dump(shown, sys.stdout, indent=2, ensure_ascii=False)
    print(flush=True)


def _document(one: Answered) -> dict[str, Any]:
    done = one.done
    return {
        "text": one.turn.text,
        **({"reasoning": one.turn.reasoning} if one.turn.reasoning else {}),
        "finish_reason": done.finish if done else "stopped",
        "usage": asdict(done.usage) if done else None,
        "timings": asdict(done.timings) if done and done.timings else None,
    }
