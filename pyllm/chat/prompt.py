"""Where the person types: prompt-toolkit, with our keys."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import Application, get_app, run_in_terminal
from prompt_toolkit.filters import Condition, is_searching
from prompt_toolkit.history import History, InMemoryHistory
from prompt_toolkit.input.ansi_escape_sequences import ANSI_SEQUENCES
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import create_output
from prompt_toolkit.styles import Style

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.chat.completion import CommandCompleter

_BLOCK = '"""'
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse fg:ansibrightblack", "prompt": "bold"})
# Shift-Enter where the terminal tells it apart (xterm's and kitty's forms): what Alt-Enter is.
for _sequence in ("\x1b[27;2;13~", "\x1b[13;2u", "\x1b[27;3;13~", "\x1b[13;3u"):
    ANSI_SEQUENCES[_sequence] = (Keys.Escape, Keys.ControlM)


class Input:
    """ask() gives what the person typed: EOFError when they leave, KeyboardInterrupt for Ctrl-C."""

    def __init__(
        self,
        history: History,
        completer: CommandCompleter,
        status: Callable[[], str],
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self._status = status
        # Answers may be redirected: the prompt must not go with them.
        output = None if sys.stdout.isatty() else create_output(stdout=sys.stderr)
        self._session: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=Condition(lambda: get_app().current_buffer.text.startswith("/")),
            key_bindings=self._keys(),
            multiline=True,
            prompt_continuation="  ",
            bottom_toolbar=lambda: [("class:bottom-toolbar", self._status())],
            style=_STYLE,
            output=output,
            erase_when_done=False,
            enable_open_in_editor=False,
            reserve_space_for_menu=6,
        )
        self._plain: PromptSession[str] = PromptSession(history=InMemoryHistory(), output=output)

    def ask(self, default: str = "", started: Callable[[], None] | None = None) -> str:
        """The next message, without the quotes of a block. started: called once the prompt is there."""
        text = self._session.prompt([("class:prompt", "> ")], default=default, pre_run=self._after(started))
        return unquoted(text)

    def choose(self, question: str) -> str:
        """A word in answer to a question; "" for Enter, Ctrl-C and Ctrl-D."""
        try:
            return self._plain.prompt(question)
        except (EOFError, KeyboardInterrupt):
            return ""

    def refresh(self) -> None:
        """From any thread: the status has changed."""
        self._soon(lambda app: app.invalidate())

    def leave(self, error: BaseException) -> None:
        """From any thread: ask() raises `error` now."""
        self._soon(lambda app: app.exit(exception=error))

    def _soon(self, act: Callable[[Application[str]], None]) -> None:
        app = self._session.app
        loop = app.loop
        if loop is None:
            return  # between two prompts; the next one sees for itself
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: act(app) if app.is_running and not app.is_done else None)

    def _after(self, started: Callable[[], None] | None) -> Callable[[], None] | None:
        if started is None:
            return None
        begin = started

        def pre_run() -> None:
            def once(app: Any) -> None:
                app.after_render -= once
                begin()

            get_app().after_render += once

        return pre_run

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=~is_searching)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None  # takes the completion that is shown
            elif open_block(buffer.text):
                buffer.newline(copy_margin=False)
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=~is_searching)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("c-g", filter=~is_searching)
        def _(event: KeyPressEvent) -> None:
            from pyllm.chat.editor import edit

            buffer = event.current_buffer

            def run() -> None:
                try:
                    text = edit(buffer.text)
                except PyllmError as error:
                    self._tell(str(error))
                else:
                    buffer.text = text
                    buffer.cursor_position = len(text)

            run_in_terminal(run)

        return keys


def open_block(text: str) -> bool:
    """Whether a block of triple quotes has begun and not ended."""
    text = text.strip()
    return text.startswith(_BLOCK) and not (len(text) >= 2 * len(_BLOCK) and text.endswith(_BLOCK))


def unquoted(text: str) -> str:
    """The text within triple quotes, where it is within them."""
    stripped = text.strip()
    if stripped.startswith(_BLOCK) and not open_block(text):
        return stripped[len(_BLOCK) : -len(_BLOCK)].strip("\n")
    return text
