"""Runs the server: the socket, the model, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import uvicorn

from pyllm.errors import PyllmError
from pyllm.server.app import create_app
from pyllm.server.connection import Connection
from pyllm.server.service import Service

if TYPE_CHECKING:
    from types import FrameType

    from pyllm.server.options import ServeOptions
    from pyllm.server.served import Source


def run(options: ServeOptions, sources: Sequence[Source]) -> None:
    """Serves until a signal. PyllmError when the address cannot be had or the only model cannot be loaded."""
    listener = listen(options.host, options.port)
    service = Service(options, sources)
    with contextlib.closing(listener):
        server = make_server(service)
        server.run(sockets=[listener])
    if server.error is not None:
        raise server.error
    if service.registry.loading:
        os._exit(0)  # a model half loaded, on a thread that cannot be stopped


def make_server(service: Service) -> Server:
    """What run() runs."""
    options, descriptors = service.options, raise_descriptor_limit()
    bounds = {"options": options, "max_connections": max(16, min(4096, descriptors - 128))}
    config = uvicorn.Config(
        create_app(service),
        http=type("BoundedConnection", (Connection,), bounds),
        loop="uvloop" if _has_uvloop() else "asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(options.idle_timeout),
        timeout_graceful_shutdown=int(options.drain_timeout) + 5,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # log.py says what there is to say
    return Server(config, service)


class Server(uvicorn.Server):
    """Listens first, then loads its only model; drains at the first signal, stops at once at the second."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.error: PyllmError | None = None
        self._service = service
        self._signals = 0
        self._start: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        scheme = "https" if self.config.is_ssl else "http"
        host, port = (sockets or [])[0].getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = list(self._service.registry.entries)
        what = "loading the model" if self._service.starting else f"{', '.join(names)}: loaded when asked for"
        self._service.log.message(
            f"listening on {scheme}://{shown}:{port} (chat and live metrics for browsers); {what}"
        )
        if self._service.starting:
            self._start = asyncio.ensure_future(self._load())
        else:
            self._service.batches.resume()

    async def _load(self) -> None:
        registry = self._service.registry
        try:
            await registry.load(registry.find(None))
        except PyllmError as error:
            self.error = None if self.should_exit else error
            self.should_exit = True
        self._service.starting = False
        if self.error is None:
            self._service.batches.resume()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Unlike uvicorn's: a signal has done its work when the server has ended.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {sig: signal.signal(sig, self.handle_exit) for sig in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for sig, handler in before.items():
                signal.signal(sig, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        service = self._service
        service.draining = True
        under_way = service.admission.taken
        if under_way:
            limit = service.options.drain_timeout
            service.log.message(
                f"finishing {under_way} answers, for at most {limit:g} s; once more to stop at once"
            )
        deadline = asyncio.ensure_future(self._fail_at_deadline())
        try:
            await service.batches.close()
            await super().shutdown(sockets)
        finally:
            deadline.cancel()
            service.close()
        if self.error is None:
            service.log.message("stopped")

    async def _fail_at_deadline(self) -> None:
        """Ends what still runs after the drain timeout, or at another signal."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._service.options.drain_timeout
        signals = self._signals
        while loop.time() < until and self._signals == signals:
            await asyncio.sleep(0.05)
        self._service.fail_all("the server was stopped before the answer was complete")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. PyllmError says why there is none."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise PyllmError(f"--host {host}: no such address: {error}") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PyllmError(
                f"port {port} of {host} is in use, perhaps by another pyllm serve; --port takes another, 0 any"
            ) from error
        if error.errno == errno.EACCES:
            raise PyllmError(f"port {port} of {host}: not allowed; --port takes one from 1024 up") from error
        raise PyllmError(f"port {port} of {host}: {error.strerror}") from error
    return listener


def raise_descriptor_limit() -> int:
    """Each connection is a file descriptor; how many there may be."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return 65536 if soft == resource.RLIM_INFINITY else soft


def _has_uvloop() -> bool:
    import importlib.util

    return importlib.util.find_spec("uvloop") is not None
