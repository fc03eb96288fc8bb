"""The conversation that a chat begins with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyllm.chat.tree import Conversation

if TYPE_CHECKING:
    from pathlib import Path

    from pyllm.chat.transcript import Transcript


def begin(
    resume: str | None, again: bool, keep: bool, tell: Callable[[str], None]
) -> tuple[Conversation, Transcript | None, Path | None]:
    """A new one; the one called `resume`; or (again) the last one; its file, to be continued, and where that
    is. keep: False: no file is continued, the one that it came from stays as it is. PyllmError for one that is
    not there, cannot be read, or is open elsewhere."""
    from pyllm.chat import store

    if resume is None and not again:
        new = store.create(tell) if keep else None
        return Conversation(), new, new.path if new else None
    conversation, transcript = store.resume(resume or store.newest(), tell)
    if not keep:
        transcript.close()
        return conversation, None, transcript.path
    return conversation, transcript, transcript.path
