"""The conversation that a chat begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyllm.chat.tree import Conversation

if TYPE_CHECKING:
    from pyllm.chat.transcript import Transcript


def begin(
    resume: str | None, again: bool, keep: bool, tell: Callable[[str], None]
) -> tuple[Conversation, Transcript | None]:
    """A new one; the one called `resume`; or (again) the last one. keep: False: without a file, the one that it
    came from stays as it is. PyllmError for one that is not there, cannot be read, or is open elsewhere."""
    from pyllm.chat import store

    if resume is None and not again:
        return Conversation(), store.create(tell) if keep else None
    conversation, transcript = store.resume(resume or store.newest(), tell)
    if not keep:
        transcript.close()
        return conversation, None
    return conversation, transcript
