"""One line a request on standard error, for people or as JSON. Never a prompt, an answer or a key."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

import msgspec

if TYPE_CHECKING:
    from pyllm.server.exchange import Exchange


class Log:
    """`form`: human, json, or none."""

    def __init__(self, form: str = "human", stream: TextIO | None = None) -> None:
        self._form = form
        self._stream = stream or sys.stderr

    def request(self, exchange: Exchange) -> None:
        """The line of a finished request."""
        if self._form == "none":
            return
        seconds = time.perf_counter() - exchange.started
        if self._form == "json":
            self._write(
                {
                    "id": exchange.id,
                    "client": exchange.client,
                    "method": exchange.method,
                    "path": exchange.path,
                    "status": exchange.status,
                    "seconds": round(seconds, 4),
                    "model": exchange.model or None,
                    "stream": exchange.streamed,
                    "prompt_tokens": exchange.prompt_tokens,
                    "cached_tokens": exchange.cached_tokens,
                    "completion_tokens": exchange.completion_tokens,
                    "queue_s": _rounded(exchange.queue_s),
                    "first_token_s": _rounded(exchange.first_token_s),
                    "note": exchange.note or None,
                }
            )
            return
        parts = [
            f"{exchange.method} {_plain(exchange.path)} {exchange.status} {seconds:.3f} s",
            f"{exchange.client} {exchange.id}",
        ]
        if exchange.prompt_tokens:
            cached = f" ({exchange.cached_tokens} cached)" if exchange.cached_tokens else ""
            parts.append(f"prompt {exchange.prompt_tokens}{cached}, answer {exchange.completion_tokens}")
        if exchange.first_token_s is not None:
            parts.append(f"first token {exchange.first_token_s:.3f} s")
        if exchange.note:
            parts.append(_plain(exchange.note))
        self._line(f"{time.strftime('%H:%M:%S')} " + "; ".join(parts))

    def message(self, text: str) -> None:
        """What the server does itself: starting, loading, shutting down."""
        if self._form == "json":
            self._write({"message": text})
        else:
            self._line(f"pyllm: {text}")

    def _write(self, fields: dict[str, object]) -> None:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        self._line(msgspec.json.encode({"time": stamp, **fields}).decode())

    def _line(self, text: str) -> None:
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads it any more: no reason to stop serving


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)


def _plain(text: str) -> str:
    """Without line feeds and other control characters: a request must not write lines of its own."""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode()
    return shown if len(shown) <= 200 else shown[:197] + "..."
