"""One request and its answer, as the log and the metrics see it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyllm.server.stream import EventStream

KEY = "pyllm.exchange"  # in an ASGI scope


@dataclass
class Exchange:
    """`stack` is unwound when the answer has been sent, or nobody waits for it: whatever the request holds, it
    gives back there."""

    id: str
    method: str
    path: str
    client: str
    started: float = field(default_factory=time.perf_counter)  # seconds of time.perf_counter()
    stack: ExitStack = field(default_factory=ExitStack)
    caller: str = ""  # which key
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # of every answer
    stream: EventStream | None = None  # an answer still to be sent
    status: int = 0
    model: str = ""
    streamed: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float | None = None
    first_token_s: float | None = None  # from the request's arrival
    note: str = ""  # what went wrong


def exchange_of(request: Request) -> Exchange:
    found: Exchange = request.scope[KEY]
    return found
