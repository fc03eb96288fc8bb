"""The models of a server: loaded when somebody asks, unloaded when nobody does or when memory is short."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pyllm.errors import PyllmError
from pyllm.server.engine import AsyncEngine
from pyllm.server.errors import ApiError, internal, not_ready
from pyllm.server.room import in_mb, planned_kv
from pyllm.server.served import ServedModel, Source

if TYPE_CHECKING:
    from pyllm.server.log import Log
    from pyllm.server.metrics import Metrics
    from pyllm.server.options import ServeOptions

State = Literal["unloaded", "loading", "loaded", "failed"]
RETRY = 5.0  # seconds after a failure before the next attempt
_T = TypeVar("_T")


class Entry:
    """One model. It is in use while a request holds it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.created = int(time.time())
        self.model: ServedModel | None = None
        self.loading = False
        self.failure: PyllmError | None = None  # why it could not be loaded
        self.failed_at = 0.0
        self.users = 0  # requests
        self.used_at = 0.0  # of the loop's clock
        self.leaving = False  # to make room: takes no more requests
        self.planned = 0  # bytes, while it is loaded
        self.waiting: list[asyncio.Future[ServedModel]] = []
        self.timer: asyncio.TimerHandle | None = None  # until it is unloaded

    @property
    def id(self) -> str:
        return self.source.id

    def stats(self) -> dict[str, int] | None:
        """Of its engine, none where there is none."""
        return self.model.llm.stats() if self.model is not None else None

    @property
    def state(self) -> tuple[State, str]:
        """One word, and why."""
        if self.model is not None:
            broken = self.model.engine.broken
            return ("failed", broken) if broken else ("loaded", "")
        if self.loading:
            return "loading", ""
        return ("failed", str(self.failure)) if self.failure else ("unloaded", "")


class Registry:
    """All of it belongs to the event loop's thread. One model alone is loaded at the start, and for good."""

    def __init__(
        self,
        sources: Sequence[Source],
        options: ServeOptions,
        metrics: Metrics,
        log: Log,
        memory: Callable[[], int],
    ) -> None:
        """memory: bytes that are available, 0 where the system does not tell."""
        self.entries = {source.id: Entry(source) for source in sources}
        self.resident = len(sources) == 1 and not options.keep_alive
        self._options = options
        self._metrics = metrics
        self._log = log
        self._memory = memory
        self._budget = 0  # bytes for all models, as available when none was loaded
        self._turn = asyncio.Lock()  # for memory: one at a time makes room
        self._freed = asyncio.Event()  # a model has lost its last user, or its loading has ended
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed: ApiError | None = None
        for entry in self.entries.values():
            metrics.watch(entry.id, entry.stats)

    @property
    def loaded(self) -> list[ServedModel]:
        return [entry.model for entry in self.entries.values() if entry.model is not None]

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded, on a thread that cannot be stopped."""
        return any(entry.loading for entry in self.entries.values())

    def find(self, name: str | None) -> Entry:
        """The model that a request names, the first when it names none. ApiError 404."""
        if name is None:
            return next(iter(self.entries.values()))
        if (entry := self.entries.get(name)) is not None:
            return entry
        raise ApiError(
            404,
            f"model: {name!r:.120} is not served here, expected {', '.join(self.entries)}",
            param="model",
            code="model_not_found",
        )

    # -- use ---------------------------------------------------------------------------------------------------

    def take(self, entry: Entry) -> asyncio.Future[ServedModel]:
        """The model, now or once it is loaded; ApiError 503 when it cannot be. To be given back."""
        wait: asyncio.Future[ServedModel] = asyncio.get_running_loop().create_future()
        if self._closed is not None:
            wait.set_exception(self._closed)
        elif entry.model is not None and not entry.leaving and not self._replaces(entry.model):
            self._give(entry, entry.model, wait)
        else:
            entry.waiting.append(wait)
            if len(entry.waiting) == 1:
                self._start(self._load(entry))
        return wait

    def give_back(self, entry: Entry, wait: asyncio.Future[ServedModel]) -> None:
        """Who has waited does not need it any more, or does not wait any more."""
        if wait.cancel() or wait.cancelled() or wait.exception() is not None:
            return
        entry.users -= 1
        if not entry.users:
            self._idle(entry)

    def _idle(self, entry: Entry) -> None:
        loop = asyncio.get_running_loop()
        entry.used_at = loop.time()
        self._freed.set()
        if self._options.keep_alive and self._closed is None:
            entry.timer = loop.call_later(self._options.keep_alive, lambda: self._start(self._expire(entry)))

    def _give(self, entry: Entry, model: ServedModel, wait: asyncio.Future[ServedModel]) -> None:
        entry.users += 1
        entry.used_at = asyncio.get_running_loop().time()
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        wait.set_result(model)

    def _replaces(self, model: ServedModel) -> bool:
        """Whether its engine has died, and another will be loaded."""
        return bool(model.engine.broken) and not self.resident

    # -- loading -----------------------------------------------------------------------------------------------

    async def load(self, entry: Entry) -> None:
        """Loads it before anybody asks. PyllmError."""
        wait = self.take(entry)
        try:
            await wait
        except ApiError as error:
            raise entry.failure or PyllmError(str(error)) from error
        self.give_back(entry, wait)

    async def _load(self, entry: Entry) -> None:
        """Loads the model for all that wait for it, or tells them why not."""
        try:
            model = await self._ready(entry)
            for wait in _taken(entry.waiting):
                self._give(entry, model, wait)
            if not entry.users:  # who asked has left
                self._idle(entry)
        except Exception as error:
            told = error if isinstance(error, ApiError) else internal(error)
            for wait in _taken(entry.waiting):
                wait.set_exception(told)
            if told is not error:
                raise

    async def _ready(self, entry: Entry) -> ServedModel:
        loop = asyncio.get_running_loop()
        source, started = entry.source, loop.time()
        try:
            async with self._turn:
                if entry.model is not None and not self._replaces(entry.model):
                    return entry.model  # it was to leave, and stayed
                self._check_may_load(entry)
                if entry.model is not None:
                    await self._unload(entry, "its engine had stopped")
                kv_bytes = 0 if self.resident else await self._make_room(entry)
                entry.loading, entry.planned = True, source.size + kv_bytes
            llm = await on_thread(lambda: source.load(kv_bytes))
        except PyllmError as error:
            entry.failure, entry.failed_at, entry.planned = error, loop.time(), 0
            self._metrics.load_failed(entry.id)
            if not self.resident:  # there it ends the server
                self._log.message(f"{entry.id} could not be loaded: {error}")
            raise _told(entry) from error
        finally:
            entry.loading = False
            self._freed.set()
        entry.failure = None
        entry.model = ServedModel(
            entry.id, AsyncEngine(llm, loop, self._metrics.gaps(entry.id)), source.defaults
        )
        self._metrics.loaded(entry.id, loop.time() - started)
        ends = "; Ctrl-C ends the server" if self.resident else ""
        self._log.message(f"{entry.id} is ready after {loop.time() - started:.1f} s{ends}")
        return entry.model

    def _check_may_load(self, entry: Entry) -> None:
        if self._closed is not None:
            raise self._closed
        if entry.failure and asyncio.get_running_loop().time() - entry.failed_at < RETRY:
            raise _told(entry)

    # -- room --------------------------------------------------------------------------------------------------

    async def _make_room(self, entry: Entry) -> int:
        """Unloads what was used longest ago until the model fits; bytes for its keys and values.

        PyllmError when it can never fit, ApiError 503 when those in use do not end in time.
        """
        if not any(other.planned for other in self.entries.values()):
            self._budget = self._memory()
        kv_bytes = planned_kv(entry.source, self._budget, len(self.entries), self._options.max_sequences)
        needed = entry.source.size + kv_bytes
        until = asyncio.get_running_loop().time() + self._options.room_timeout
        try:
            while self._budget > 0 and (missing := needed - self._room()) > 0:
                await self._free(missing, f"to make room for {entry.id}", until)
        except asyncio.TimeoutError:
            raise ApiError(
                503,
                f"model: {entry.id} needs {in_mb(needed)} of memory, and the models that hold it are in use",
                param="model",
                code="model_does_not_fit",
                headers={"retry-after": str(max(1, round(self._options.room_timeout)))},
            ) from None
        finally:
            for other in self.entries.values():
                other.leaving = False
        return kv_bytes

    def _room(self) -> int:
        """Bytes that are left. What is mapped counts as available, so both bounds hold."""
        held = sum(entry.planned for entry in self.entries.values())
        return min(self._budget - held, self._memory()) if held else self._budget

    async def _free(self, missing: int, why: str, until: float) -> None:
        """Unloads an idle model; where all are in use, waits for a change. asyncio.TimeoutError."""
        loaded = sorted((e for e in self.entries.values() if e.model is not None), key=lambda e: e.used_at)
        if not loaded and not self.loading:
            raise PyllmError(f"{in_mb(missing)} of memory are missing: something else has taken it")
        for entry in loaded:
            if not entry.users:
                await self._unload(entry, why)
                return
        for entry in loaded:
            entry.leaving = True
            missing -= entry.planned
            if missing <= 0:
                break
        self._freed.clear()
        await asyncio.wait_for(self._freed.wait(), until - asyncio.get_running_loop().time())

    async def _expire(self, entry: Entry) -> None:
        async with self._turn:
            if entry.model is not None and not entry.users and not entry.waiting:
                await self._unload(entry, f"nobody has used it for {self._options.keep_alive:g} s")

    async def _unload(self, entry: Entry, why: str) -> None:
        """Ends a model that nobody uses. The memory is free afterwards."""
        assert entry.model is not None
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        self._metrics.unloaded(entry.id)
        llm, entry.model = entry.model.llm, None
        try:
            await on_thread(llm.close)
        finally:
            entry.planned = 0
        self._log.message(f"{entry.id} is unloaded: {why}")

    # -- the end -----------------------------------------------------------------------------------------------

    def fail_all(self, error: ApiError) -> None:
        """Every request ends with `error`, those that wait for a model too."""
        for entry in self.entries.values():
            for wait in _taken(entry.waiting):
                wait.set_exception(error)
        for model in self.loaded:
            model.engine.fail_all(error)

    def close(self) -> None:
        """Ends the engines; nothing is loaded any more."""
        self._closed = not_ready("the server is shutting down")
        self.fail_all(self._closed)
        for model in self.loaded:
            model.llm.close()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _taken(waiting: list[asyncio.Future[ServedModel]]) -> list[asyncio.Future[ServedModel]]:
    """Those who still wait; the list is empty afterwards."""
    found = [wait for wait in waiting if not wait.done()]
    waiting.clear()
    return found


def _told(entry: Entry) -> ApiError:
    """What clients learn: the reason, without where the file is."""
    reason = str(entry.failure)
    if entry.source.path:
        reason = reason.replace(entry.source.path, entry.id)
    return ApiError(
        503,
        f"model: {entry.id} could not be loaded: {reason}",
        param="model",
        code="model_not_loaded",
        headers={"retry-after": str(round(RETRY))},
    )


async def on_thread(work: Callable[[], _T]) -> _T:
    """The result of `work` on a thread of its own, for which the process does not wait at its end.

    Whatever goes wrong is a PyllmError.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def finish(value: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(value)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        value, error = None, None
        try:
            value = work()
        except PyllmError as known:
            error = known
        except BaseException as surprise:
            error = PyllmError(f"{type(surprise).__name__}: {surprise}")
            error.__cause__ = surprise
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(finish, value, error)

    threading.Thread(target=run, name="pyllm-load", daemon=True).start()
    return await done
