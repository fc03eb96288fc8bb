"""Reads a request's JSON: bounded in size, time and depth, and checked against its form."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from pyllm.server.errors import ApiError, ClientLeftError, bad_request
from pyllm.server.strict import refuse_unknown

if TYPE_CHECKING:
    from starlette.requests import Request

    from pyllm.server.options import ServeOptions

_Form = TypeVar("_Form", bound=msgspec.Struct)
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<place>.*?)`)?$", re.DOTALL)

_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$", re.DOTALL)


async def read_json(request: Request, form: type[_Form], options: ServeOptions) -> tuple[_Form, dict[str, Any]]:
    """The body as `form`, a msgspec.Struct, and as plain values. ApiError says what is wrong with it."""
    document = parse(await read_body(request, options), options)
    return as_form(document, form, options), document


def as_form(document: dict[str, Any], form: type[_Form], options: ServeOptions) -> _Form:
    """Plain values as `form`. ApiError says what is wrong with them."""
    if options.strict:
        refuse_unknown(document, form)
    try:
        return msgspec.convert(document, form, str_keys=True)
    except msgspec.ValidationError as error:
        raise _explained(error) from None


async def read_body(request: Request, options: ServeOptions) -> bytes:
    """All of the body. ApiError when it is too large, too slow or compressed; ClientLeftError."""
    limit = options.max_body
    too_large = ApiError(413, f"the request is larger than the {limit} bytes that this server takes")
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(415, f"content-encoding {coding!r:.40}: expected a request that is not compressed")
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > limit):
        raise too_large
    parts = []
    received = 0

    async def receive() -> None:
        nonlocal received
        while True:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientLeftError
            parts.append(message.get("body", b""))
            received += len(parts[-1])
            if received > limit:
                raise too_large
            if not message.get("more_body"):
                return

    try:
        await asyncio.wait_for(receive(), options.receive_timeout)
    except asyncio.TimeoutError:
        raise ApiError(
            408,
            f"the request did not arrive within {options.receive_timeout:g} s",
            headers={"connection": "close"},
        ) from None
    return b"".join(parts)


def parse(body: bytes, options: ServeOptions) -> dict[str, Any]:
    """A JSON object."""
    if not body.strip():
        raise bad_request("the request is empty: expected a JSON object")
    try:
        document = msgspec.json.decode(body)
    except RecursionError:
        raise bad_request(f"JSON nested more than {options.max_depth} deep") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the request is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise bad_request(f"expected a JSON object, found {type(document).__name__}")
    check_depth(document, options.max_depth)
    return document


def check_depth(document: dict[str, Any], depth: int) -> None:
    """ApiError when values lie in more than `depth` others."""
    if not _shallow(document, depth):
        raise bad_request(f"JSON nested more than {depth} deep")


def _shallow(document: Any, depth: int) -> bool:
    """Whether no value lies in more than `depth` others. Level by level: no recursion."""
    level = [document]
    for _ in range(depth):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return True
    return False


def _explained(error: msgspec.ValidationError) -> ApiError:
    """msgspec says 'Expected `int`, got `str` - at `$.max_tokens`'; we say the field first."""
    match = _PLACE.match(str(error))
    place = match["place"] if match and match["place"] else None
    what = match["what"] if match else str(error)
    if missing := _MISSING.match(what):
        place = f"{place}.{missing['name']}" if place else missing["name"]
        return bad_request(f"{place}: this field is required", place)
    what = what.replace("`", "")
    if place is None:
        return bad_request(what[:1].lower() + what[1:])
    return bad_request(f"{place}: {what[:1].lower() + what[1:]}", place)
