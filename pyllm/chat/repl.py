"""The loop of a chat on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prompt_toolkit.history import InMemoryHistory

from pyllm.chat import store
from pyllm.chat.answering import StoppedError
from pyllm.chat.commands import find
from pyllm.chat.completion import CommandCompleter
from pyllm.chat.history import History
from pyllm.chat.interrupts import keys
from pyllm.chat.prompt import Input
from pyllm.chat.status import status
from pyllm.chat.talk import ask
from pyllm.engine_thread import EngineEndedError
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.state import Chat


def run(chat: Chat) -> None:
    """Until the person leaves."""
    kept = chat.transcript is not None
    typed = Input(
        History(store.folder() / "history", chat.tell) if kept else InMemoryHistory(),
        CommandCompleter(lambda: chat.models(chat), _conversations),
        lambda: status(chat),
        chat.tell,
    )
    chat.choose = typed.choose
    with keys(shown=False):
        _loop(chat, typed)


def _loop(chat: Chat, typed: Input) -> None:
    interrupted = False  # by the key pressed last
    while not chat.left:
        _watch(chat, typed)
        draft, chat.draft = chat.draft, ""
        try:
            text = typed.ask(draft, chat.loading.begin)
        except KeyboardInterrupt:
            if interrupted and not draft:
                return
            interrupted = True
            if draft:
                chat.parent = None
                chat.tell("the question was left as it is")
            else:
                chat.tell("Ctrl-C once more, or Ctrl-D leaves")
            continue
        except EOFError:
            return
        interrupted = False
        try:
            interrupted = _take(chat, text)
        except (StoppedError, KeyboardInterrupt):
            interrupted = True
            chat.tell("stopped")
        except EngineEndedError:
            raise
        except PyllmError as error:
            chat.tell(str(error))


def _take(chat: Chat, text: str) -> bool:
    """A command or a message; whether an answer to it was stopped."""
    if text.startswith("/"):
        name, _, argument = text.partition(" ")
        chat.parent = None  # what /edit began is given up
        find(name.strip()).run(chat, argument.strip())
        return False
    text = text.strip()
    if not text:
        return False
    try:
        one = ask(chat, text)
    except EngineEndedError:
        raise
    except PyllmError as error:
        raise PyllmError(f"{error}\nThis turn was not added to the conversation.") from error
    chat.warm.grown(chat)
    return one is not None and one.done is None and one.error is None


def _watch(chat: Chat, typed: Input) -> None:
    """A model that cannot be loaded ends the prompt; one that was loaded shows in the status."""

    def changed() -> None:
        if (error := chat.loading.error) is not None:
            typed.leave(error)
        elif chat.conversation.head:
            chat.read_ahead()
        typed.refresh()

    chat.loading.changed = changed
    if chat.loading.error is not None:
        raise chat.loading.error


def _conversations() -> list[tuple[str, str]]:
    return [(one.id, " ".join(one.first.split())[:60]) for one in store.saved()]
