"""What all routes share: the models that are served, whether they are ready, and the bounds on the work."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from pyllm._core import available_memory
from pyllm.server.admission import Admission
from pyllm.server.batches import BatchRunner
from pyllm.server.body import read_json
from pyllm.server.errors import not_ready
from pyllm.server.exchange import exchange_of, unless_left
from pyllm.server.log import Log
from pyllm.server.metrics import Metrics
from pyllm.server.registry import Registry
from pyllm.server.served import ServedModel, Source

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyllm.server.admission import Place
    from pyllm.server.exchange import Exchange
    from pyllm.server.options import ServeOptions

_T = TypeVar("_T")
_Form = TypeVar("_Form", bound=msgspec.Struct)


class Service:
    """The server's state. All of it belongs to the event loop's thread."""

    def __init__(
        self,
        options: ServeOptions,
        sources: Sequence[Source],
        log: Log | None = None,
        memory: Callable[[], int] = available_memory,
    ) -> None:
        self.options = options
        self.log = log or Log(options.log_format)
        self.metrics = Metrics()
        self.registry = Registry(sources, options, self.metrics, self.log, memory)
        self.admission = Admission(options.max_sequences + options.max_queue)
        self.draining = False
        self.batches = BatchRunner(self)
        self.starting = len(sources) == 1  # until the only model has been loaded for the first time
        # Templates and tokenizers take milliseconds: the loop must not wait for them.
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="pyllm-prompt")
        # Grammars take longer: nor must prompts wait for them.
        self._compilers = ThreadPoolExecutor(2, thread_name_prefix="pyllm-grammar")

    # -- models ------------------------------------------------------------------------------------------------

    @property
    def models(self) -> list[ServedModel]:
        """Those that are loaded."""
        return self.registry.loaded

    async def open(self, exchange: Exchange, name: str | None) -> ServedModel:
        """The model that a request names, the first when it names none; it stays until the exchange has ended.

        Waits for a model that must be loaded first. ApiError 404, 503; ClientLeftError.
        """
        self.check_ready()
        entry = self.registry.find(name)
        if exchange.served is not None and exchange.served.id == entry.id:
            return exchange.served
        wait = self.registry.take(entry)
        exchange.stack.callback(self.registry.give_back, entry, wait)
        if not wait.done():
            await unless_left(exchange.receive, wait)
        exchange.served = wait.result()
        return exchange.served

    # -- state -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> tuple[Literal["ok", "loading", "draining", "broken"], str]:
        """One word, and why. Of several models one may fail: that is its own state."""
        if self.registry.resident:
            for model in self.models:
                if model.engine.broken:
                    return "broken", model.engine.broken
        if self.draining:
            return "draining", "the server is shutting down"
        if self.starting:
            return "loading", "the model is being loaded"
        return "ok", ""

    def check_ready(self) -> None:
        """ApiError 503 unless requests can be answered."""
        state, reason = self.state
        if state != "ok":
            raise not_ready(reason)

    def fail_all(self, reason: str) -> None:
        """Every request under way ends with an error."""
        self.registry.fail_all(not_ready(reason))

    def close(self) -> None:
        """Ends the engines."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._compilers.shutdown(wait=False, cancel_futures=True)
        self.registry.close()

    # -- for routes --------------------------------------------------------------------------------------------

    async def admit(self, request: Request, form: type[_Form]) -> tuple[Exchange, Place, _Form, dict[str, Any]]:
        """How every request for answers begins: (its exchange, its place, its JSON as `form` and as plain
        values). ApiError 503 while nothing is answered, 429 when too much is under way, 4xx for its body."""
        exchange = exchange_of(request)
        self.check_ready()
        place = exchange.stack.enter_context(self.admission.place())
        return exchange, place, *await self.read(request, form)

    async def read(self, request: Request, form: type[_Form]) -> tuple[_Form, dict[str, Any]]:
        """The request's JSON as `form` and as plain values."""
        return await read_json(request, form, self.options)

    async def in_worker(self, work: Callable[[], _T], compiles: bool = False) -> _T:
        """Runs `work` beside the loop; compiles: it makes a grammar."""
        pool = self._compilers if compiles else self._workers
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def salt(self, exchange: Exchange, cache_salt: str | None) -> str:
        """Keeps one caller's cached prompts from another's: how fast an answer comes would tell of them."""
        if not exchange.caller and not cache_salt:
            return ""
        return hashlib.sha256(f"{exchange.caller}\0{cache_salt or ''}".encode("utf-8", "replace")).hexdigest()
