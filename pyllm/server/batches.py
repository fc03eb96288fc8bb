"""/v1/batches: jobs over kept files, run behind all other requests, and gone on with after a restart."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from pyllm.batch.forms import URLS, Forms
from pyllm.batch.job import Counts, Job, Plan, recovered
from pyllm.batch.output import LockedError, Output
from pyllm.batch.reading import read_lines
from pyllm.batch.row import Record, Row, RowError, key_of
from pyllm.batch.window import Ready
from pyllm.errors import PyllmError
from pyllm.server.batch_protocol import (
    ENDED,
    BatchError,
    BatchErrors,
    BatchList,
    BatchObject,
    BatchRequest,
    RequestCounts,
)
from pyllm.server.errors import ApiError, bad_request
from pyllm.server.expiry import WINDOW_S, seconds_of
from pyllm.server.files import store_of
from pyllm.server.offline import Offline, offline_exchange
from pyllm.server.store import Store, callers, new_id, page
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service

AT_ONCE = 4  # batches that run side by side
ROOM_S = 10.0  # between two looks at how much is stored
WATCH_S = 1.0  # at the clock
SWEEP_S = 600.0  # at what has expired


class Running:
    """A batch on its way."""

    def __init__(self, store: Store, batch: BatchObject) -> None:
        self.store = store
        self.batch = batch
        self.job: Job | None = None
        self.model: ServedModel | None = None
        self.cancelled = False
        self.expired = False  # its completion window has ended
        self.waiting = True  # for a place
        self.task: asyncio.Task[None] | None = None


class BatchRunner:
    """Runs the batches of all callers. It belongs to the event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._running: dict[str, Running] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._working = 0
        self._closing = False
        self._watch: asyncio.Task[None] | None = None

    def resume(self) -> None:
        """Goes on with what an earlier process has left. Called when the model is there."""
        for store in self._stores():
            for batch in reversed(store.batches()):
                if batch.status not in ENDED and batch.model in self._service.registry.entries:
                    self.start(store, batch)
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._watch_time())

    def _stores(self) -> list[Store]:
        options = self._service.options
        if (root := options.batch_folder) is None:
            return []
        return [Store(root, caller, options.max_storage, options.clock) for caller in callers(root)]

    def start(self, store: Store, batch: BatchObject, expired: bool = False) -> None:
        running = self._running[batch.id] = Running(store, batch)
        running.cancelled = batch.status == "cancelling"
        running.expired = expired
        running.task = asyncio.ensure_future(self._run(running))

    def find(self, id: str) -> Running | None:
        return self._running.get(id)

    async def close(self) -> None:
        """Ends all jobs at once; what they have done is written, and they go on at the next start."""
        self._closing = True
        if self._watch is not None:
            self._watch.cancel()
        tasks = [running.task for running in self._running.values() if running.task is not None]
        for running in self._running.values():
            if running.job is not None:
                running.job.stop(0.0)
            elif running.task is not None:
                running.task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _run(self, running: Running) -> None:
        batch = running.batch
        try:
            async with contextlib.nullcontext() if running.expired else self._places:
                running.waiting = False
                await self._work(running)
        except asyncio.CancelledError:
            pass
        except LockedError:
            pass  # another server works on it
        except Exception as error:
            if self._closing or (running.model is not None and running.model.engine.broken):
                return  # it goes on at the next start
            batch.errors = BatchErrors(data=[BatchError(code="failed", message=str(error))])
            with contextlib.suppress(ApiError):
                await asyncio.to_thread(self._finish, running, "failed")
        finally:
            if self._running.get(batch.id) is running:
                del self._running[batch.id]

    async def _watch_time(self) -> None:
        """Ends batches whose window has ended, and now and then deletes what has expired."""
        swept = -SWEEP_S
        loop = asyncio.get_running_loop()
        while True:
            for running in list(self._running.values()):
                if _window_ended(running):
                    self._expire(running)
            if loop.time() - swept >= SWEEP_S:
                swept = loop.time()
                with contextlib.suppress(ApiError, OSError):
                    for store in await asyncio.to_thread(self._stores):
                        await asyncio.to_thread(store.sweep)
            await asyncio.sleep(WATCH_S)

    def _expire(self, running: Running) -> None:
        if running.waiting and running.task is not None:  # others have all places: it needs none any more
            running.task.cancel()
            self.start(running.store, running.batch, expired=True)
            return
        running.expired = True
        if running.job is not None:
            running.job.stop(0.0)

    async def _work(self, running: Running) -> None:
        batch, store = running.batch, running.store
        job = key_of(batch.id.encode(), batch.model.encode(), digits=8)
        records = partial(_records, store, batch.input_file_id)
        if not batch.request_counts.total:
            batch.request_counts.total = await asyncio.to_thread(lambda: sum(1 for _ in records()))
            if not batch.request_counts.total:
                raise PyllmError("the input file is empty: expected at least one row")
        if running.cancelled:
            await asyncio.to_thread(self._finish, running, "cancelled")
            return
        forms = Forms(endpoint=batch.endpoint)
        finished = False
        if not (running.expired or _window_ended(running)):
            batch.status, batch.in_progress_at = "in_progress", batch.in_progress_at or store.now()
            await asyncio.to_thread(store.save, batch)
            finished = (await self._answer_rows(running, forms, job, records)).finished
        if not finished and not running.cancelled and (running.expired or _window_ended(running)):
            await self._refuse_rows(running, forms, job, records)
            await asyncio.to_thread(self._finish, running, "expired")
        elif running.cancelled or finished:
            await asyncio.to_thread(self._finish, running, "cancelled" if running.cancelled else "completed")
        else:  # the server ends: the next one goes on
            await asyncio.to_thread(store.save, batch)

    async def _refuse_rows(
        self, running: Running, forms: Forms, job: str, records: Callable[[], Iterator[Record]]
    ) -> None:
        """Gives the rows that were not answered in time their errors."""
        with contextlib.ExitStack() as files:
            output, errors = _opened(files, running, job)
            plan = Plan(records, forms, output, job, errors)
            done = await asyncio.to_thread(recovered, plan)
            await Job(plan, done, _Late(), partial(_count, running.batch, done.failed)).run()

    async def _answer_rows(
        self, running: Running, forms: Forms, job: str, records: Callable[[], Iterator[Record]]
    ) -> Counts:
        batch, store = running.batch, running.store
        exchange = offline_exchange("/v1/batches", store.caller)
        with exchange.stack, contextlib.ExitStack() as files:
            output, errors = _opened(files, running, job)
            plan = Plan(records, forms, output, job, errors, slots=self._slots)
            done = await asyncio.to_thread(recovered, plan)
            running.model = await self._service.open(exchange, batch.model)
            offline = Offline(self._service, running.model, store.caller)
            running.job = Job(plan, done, offline, partial(_count, batch, done.failed))
            if running.cancelled or running.expired or self._closing:
                running.job.stop(0.0)
            room = asyncio.ensure_future(_watch_room(store, running.job))
            self._working += 1
            try:
                return await running.job.run()
            finally:
                self._working -= 1
                room.cancel()

    def _slots(self) -> int:
        """Answers that a batch may ask for now: its part of what other requests leave free."""
        if self._service.draining:
            return 0
        free = self._service.options.max_sequences - self._service.admission.taken
        return max(0, free // max(1, self._working))

    def _finish(self, running: Running, status: Literal["completed", "cancelled", "expired", "failed"]) -> None:
        """Names the files of a batch that has ended; that is told when it is on disk. Empty files are none."""
        batch, store = running.batch, running.store
        output, errors = _outputs(store, batch)
        for path, kind in ((output, "output"), (errors, "error")):
            if not path.exists():
                continue
            if path.stat().st_size:
                seconds = seconds_of(batch.output_expires_after, "output_expires_after")
                kept = store.register(path.stem, f"{batch.id}_{kind}.jsonl", "batch_output", seconds)
                setattr(batch, f"{kind}_file_id", kept.id)
            else:
                path.unlink()
        times = {f"{status}_at": store.now()}
        last = msgspec.structs.replace(batch, status=status, **times)
        store.save(last)
        running.batch = last


class Batches:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Run all requests of a kept file, when there is room."""
        service, store = self._service, store_of(self._service, request)
        service.check_ready()
        body, _ = await service.read(request, BatchRequest)
        if body.endpoint not in URLS:
            raise bad_request(
                f"endpoint: expected one of {', '.join(URLS)}, got {body.endpoint!r:.80}", "endpoint"
            )
        if body.metadata and len(body.metadata) > 16:
            raise bad_request(f"metadata: expected at most 16 entries, got {len(body.metadata)}", "metadata")
        seconds_of(body.output_expires_after, "output_expires_after")
        await asyncio.to_thread(store.file, body.input_file_id)
        model = await asyncio.to_thread(_model_of, store, body.input_file_id)
        await asyncio.to_thread(store.check_room)
        await asyncio.to_thread(store.check_batches)
        now = store.now()
        batch = BatchObject(
            id=new_id("batch_"),
            endpoint=body.endpoint,
            input_file_id=body.input_file_id,
            created_at=now,
            expires_at=now + WINDOW_S,
            model=service.registry.find(model).id,
            completion_window=body.completion_window,
            metadata=body.metadata,
            output_expires_after=body.output_expires_after,
        )
        await asyncio.to_thread(store.save, batch)
        service.batches.start(store, batch)
        return json_response(batch)

    async def list(self, request: Request) -> Response:
        """All batches, the newest first."""
        query = request.query_params
        found = await asyncio.to_thread(store_of(self._service, request).batches)
        data, more = page(found, query.get("limit"), query.get("after"))
        data = [self._now(batch) for batch in data]
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(BatchList(data=data, first_id=ends[0], last_id=ends[1], has_more=more))

    async def get(self, request: Request) -> Response:
        """How far a batch is."""
        store = store_of(self._service, request)
        return json_response(self._now(await asyncio.to_thread(store.batch, request.path_params["id"])))

    async def cancel(self, request: Request) -> Response:
        """End a batch; what it has done stays."""
        store, id = store_of(self._service, request), request.path_params["id"]
        batch = self._now(await asyncio.to_thread(store.batch, id))
        if batch.status in ENDED:
            raise ApiError(409, f"{id} has ended: it is {batch.status}", code="batch_ended")
        batch.status, batch.cancelling_at = "cancelling", store.now()
        await asyncio.to_thread(store.save, batch)
        if (running := self._service.batches.find(id)) is not None:
            running.cancelled = True
            if running.job is not None:
                running.job.stop(0.0)
        return json_response(batch)

    def _now(self, batch: BatchObject) -> BatchObject:
        """The batch as it is in memory, where it runs here."""
        running = self._service.batches.find(batch.id)
        return running.batch if running is not None else batch


class _Late:
    """Answers rows whose time is over."""

    def prepare(self, row: Row) -> Ready:
        told = "this request could not be executed before the completion window expired"
        raise RowError("batch_expired", told, 408)

    async def answer(self, ready: Ready) -> dict[str, Any]:
        raise AssertionError("no row is ever ready")


def _window_ended(running: Running) -> bool:
    ends = running.batch.expires_at
    return ends is not None and running.store.now() >= ends


def _opened(files: contextlib.ExitStack, running: Running, job: str) -> tuple[Output, Output]:
    """Files of answers and errors."""
    paths = _outputs(running.store, running.batch)
    output, errors = (files.enter_context(contextlib.closing(Output(path, job))) for path in paths)
    return output, errors


async def _watch_room(store: Store, job: Job) -> None:
    """Ends a job whose answers fill the room for files."""
    while True:
        await asyncio.sleep(ROOM_S)
        try:
            await asyncio.to_thread(store.check_room)
        except ApiError as error:
            job.fail(PyllmError(str(error)))


def _records(store: Store, id: str) -> Iterator[Record]:
    with store.path(id).open("rb") as stream:
        yield from read_lines(stream)


def _model_of(store: Store, id: str) -> str | None:
    """The model that the first row names: it answers all."""
    for record in _records(store, id):
        model = Forms().row(record).body.get("model")
        return model if isinstance(model, str) else None
    return None


def _outputs(store: Store, batch: BatchObject) -> tuple[Any, Any]:
    """Paths of answers and errors: file ids made of the batch's own."""
    digits = batch.id.removeprefix("batch_")
    ids = (f"file-{key_of(digits.encode(), kind, digits=24)}" for kind in (b"output", b"error"))
    output, errors = (store.path(id) for id in ids)
    return output, errors


def _count(batch: BatchObject, failed_before: int, counts: Counts) -> None:
    failed = failed_before + counts.failed
    done = counts.rows + counts.skipped
    batch.request_counts = RequestCounts(
        total=batch.request_counts.total, completed=done - failed, failed=failed
    )
