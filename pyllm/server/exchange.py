"""One request and its answer, as the log and the metrics see it."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyllm.server.errors import ClientLeftError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive

    from pyllm.server.served import ServedModel
    from pyllm.server.stream import Connection, EventStream

KEY = "pyllm.exchange"  # in an ASGI scope
CONNECTION = "pyllm.connection"
_random = random.Random()


@dataclass
class Exchange:
    """`stack` is unwound when the answer has been sent, or nobody waits for it: whatever the request holds, it
    gives back there."""

    id: str
    method: str
    path: str
    client: str
    receive: Receive  # tells when the client leaves, once the request has been read
    started: float = field(default_factory=time.perf_counter)  # seconds of time.perf_counter()
    stack: ExitStack = field(default_factory=ExitStack)
    connection: Connection | None = None  # for streams
    caller: str = ""  # which key
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)  # of every answer
    stream: EventStream | None = None  # an answer still to be sent
    status: int = 0
    served: ServedModel | None = None  # in use until the stack is unwound
    model: str = ""  # its name
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


def new_id() -> str:
    """Unlike others, but no secret: asking the system for randomness would give up the GIL."""
    return f"{_random.getrandbits(128):032x}"


async def left(receive: Receive) -> None:
    """Waits for a client to close its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(receive: Receive, wait: asyncio.Future[Any]) -> None:
    """Waits for `wait`; ClientLeftError when the client leaves first."""
    watcher = asyncio.ensure_future(left(receive))
    try:
        await asyncio.wait({watcher, wait}, return_when=asyncio.FIRST_COMPLETED)
        if not wait.done():
            raise ClientLeftError
    finally:
        watcher.cancel()
