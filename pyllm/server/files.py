"""/v1/files: what batches read and write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from pyllm.server.batch_protocol import Deleted, FileList
from pyllm.server.errors import ApiError, ClientLeftError, bad_request
from pyllm.server.exchange import exchange_of
from pyllm.server.expiry import of_form, seconds_of
from pyllm.server.store import Store, page
from pyllm.server.stream import json_response

if TYPE_CHECKING:
    from pyllm.server.options import ServeOptions
    from pyllm.server.service import Service

_SLOWEST = 16 << 10  # bytes a second of an upload, beyond the time that any request has


class Files:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def create(self, request: Request) -> Response:
        """Keep a file: a form with the fields file, purpose (batch) and maybe expires_after."""
        store = store_of(self._service, request)
        options = self._service.options
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise ApiError(415, "expected multipart/form-data with the fields file and purpose")
        body = _bounded(request, options)
        try:
            form = await MultiPartParser(request.headers, body, max_files=1, max_fields=8).parse()
        except MultiPartException as error:
            raise bad_request(f"the form: {error.message}") from None
        try:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise bad_request("file: expected a file", "file")
            if purpose != "batch":
                raise bad_request("purpose: expected batch", "purpose")
            after = of_form(form.get("expires_after[anchor]"), form.get("expires_after[seconds]"))
            seconds = seconds_of(after, "expires_after")
            name = (file.filename or "input.jsonl")[:255]
            kept = await asyncio.to_thread(store.add, file.file, name, purpose, seconds)
        finally:
            await form.close()
        return json_response(kept)

    async def list(self, request: Request) -> Response:
        """The files that are kept, the newest first."""
        query = request.query_params
        found = await asyncio.to_thread(store_of(self._service, request).files)
        if purpose := query.get("purpose"):
            found = [file for file in found if file.purpose == purpose]
        data, more = page(found, query.get("limit"), query.get("after"))
        ends = (data[0].id, data[-1].id) if data else (None, None)
        return json_response(FileList(data=data, first_id=ends[0], last_id=ends[1], has_more=more))

    async def get(self, request: Request) -> Response:
        """One of them."""
        store = store_of(self._service, request)
        return json_response(await asyncio.to_thread(store.file, request.path_params["id"]))

    async def content(self, request: Request) -> Response:
        """What it holds."""
        store, id = store_of(self._service, request), request.path_params["id"]
        await asyncio.to_thread(store.file, id)
        return FileResponse(store.path(id), media_type="application/jsonl")

    async def delete(self, request: Request) -> Response:
        """Forget a file."""
        store, id = store_of(self._service, request), request.path_params["id"]
        await asyncio.to_thread(store.delete, id)
        return json_response(Deleted(id))


def store_of(service: Service, request: Request) -> Store:
    """Of the caller. ApiError when this server keeps nothing."""
    options = service.options
    if options.batch_folder is None:
        raise ApiError(404, "this server keeps no files and runs no batches", code="no_batches")
    return Store(options.batch_folder, exchange_of(request).caller, options.max_storage, options.clock)


async def _bounded(request: Request, options: ServeOptions) -> AsyncGenerator[bytes, None]:
    """The body in pieces. ApiError when it is too large or comes too slowly, ClientLeftError."""
    loop = asyncio.get_running_loop()
    started, received = loop.time(), 0
    while True:
        deadline = started + options.receive_timeout + received / _SLOWEST
        try:
            message = await asyncio.wait_for(request.receive(), deadline - loop.time())
        except asyncio.TimeoutError:
            raise ApiError(408, "the file comes too slowly", headers={"connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body: bytes = message.get("body", b"")
        received += len(body)
        if received > options.max_file:
            raise ApiError(413, f"the file is larger than the {options.max_file} bytes that this server takes")
        yield body
        if not message.get("more_body"):
            return
