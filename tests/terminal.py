"""A command on a pseudo-terminal, as a person sees it and types at it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time

import pytest

fcntl = pytest.importorskip("fcntl", reason="pseudo-terminals need POSIX")
pty = pytest.importorskip("pty")
termios = pytest.importorskip("termios")

CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A pyllm command on a pseudo-terminal of its own."""

    def __init__(self, command, env):
        self._terminal, child = pty.openpty()
        self._process = subprocess.Popen(
            command,
            stdin=child,
            stdout=child,
            stderr=child,
            env=env,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C becomes SIGINT
        )
        os.close(child)
        self._seen = ""

    def type(self, text):
        os.write(self._terminal, text.encode())

    def type_until(self, text, pattern):
        """Types `text` again every few seconds until `pattern` comes."""
        for _ in range(10):
            self.type(text)
            with contextlib.suppress(TimeoutError):
                return self.expect(pattern, seconds=3)
        return self.expect(pattern, seconds=3)

    def expect(self, pattern, seconds=30):
        """Reads until `pattern` has come; what came up to its end."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self._terminal], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"waited for {pattern!r}, saw {self._seen!r}")
            try:
                self._seen += os.read(self._terminal, 4096).decode().replace("\r\n", "\n")
            except OSError as error:  # the command has left
                raise AssertionError(f"ended before {pattern!r}: {self._seen!r}") from error
        before, self._seen = self._seen[: match.end()], self._seen[match.end() :]
        return before

    def wait(self):
        return self._process.wait(30)

    def end(self):
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._terminal)
