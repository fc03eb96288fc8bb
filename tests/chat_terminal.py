"""`pyllm chat` on a terminal of the test's own: the screen as a person sees it, and the keys."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import select
import struct
import termios
import time

import pyte
from terminal import Terminal

ALT_ENTER, CTRL_G, CTRL_L, CTRL_R, TAB, UP = "\x1b\r", "\x07", "\x0c", "\x12", "\t", "\x1b[A"
PASTE = "\x1b[200~{}\x1b[201~"


class ChatTerminal(Terminal):
    """`lines`: what the screen shows. `raw`: every byte that came."""

    def __init__(self, command, env, columns=160, rows=40):
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.screen.write_process_input = self.type  # answers to where the cursor is
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        super().__init__(command, {**env, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""})
        self._size(columns, rows)

    def _size(self, columns, rows):
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns, rows):
        self._size(columns, rows)
        self.screen.resize(rows, columns)

    def read(self, seconds):
        """What comes within `seconds`; False when nothing did."""
        ready, _, _ = select.select([self._terminal], [], [], seconds)
        if not ready:
            return False
        data = os.read(self._terminal, 65536)
        self.raw += data
        # pyte takes private forms that it does not know for others
        self._stream.feed(re.sub(rb"\x1b\[\?2026[hl]|\x1b\]52;[^\x07]*\x07", b"", data))
        return True

    @property
    def lines(self):
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self):
        """Everything, what has left through the top too."""
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip() + "\n"

    def see(self, pattern, seconds=10):
        """Waits until the screen shows `pattern`; the match."""
        return self.until(lambda: re.search(pattern, "\n".join(self.lines), re.MULTILINE), pattern, seconds)

    def prompt(self):
        """Waits for an empty prompt at the end of the text."""
        self.until(self._prompted, "an empty prompt")

    def until(self, condition, what, seconds=10):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            left = deadline - time.monotonic()
            try:
                came = left > 0 and self.read(left)
            except OSError as error:
                raise AssertionError(f"ended before {what!r}:\n{self.text}") from error
            assert came, f"waited for {what!r}, saw:\n{self.text[-3000:]}"
        return found

    def _prompted(self):
        lines = [line for line in self.lines if line]
        if lines and "│" in lines[-1]:
            lines.pop()  # the status
        return bool(lines) and lines[-1] == ">"

    def say(self, text, pattern):
        """Types a line at the prompt; waits for what it brings and for the next prompt."""
        self.prompt()
        self.type(text + "\r")
        match = self.see(pattern)
        self.prompt()
        return match

    def settle(self, seconds=0.15):
        """Until nothing has come for a while."""
        with contextlib.suppress(OSError):
            while self.read(seconds):
                pass

    def wait(self):
        with contextlib.suppress(OSError):
            while self.read(20):
                pass
        return super().wait()

    def hang_up(self):
        """The window is closed."""
        os.close(self._terminal)
        self._terminal = os.open(os.devnull, os.O_RDWR)
