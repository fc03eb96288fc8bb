"""The OpenAPI document, made of the same forms that check requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from pyllm import __version__

if TYPE_CHECKING:
    from pyllm.server.app import Route


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of `routes`."""
    forms = [form for route in routes for form in (route.takes, route.gives, route.events, route.fails) if form]
    unique = list(dict.fromkeys(forms))
    schemas, components = msgspec.json.schema_components(unique, ref_template="#/components/schemas/{name}")
    of = dict(zip(unique, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        path = route.path.replace(":path}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, path, of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pyllm", "version": __version__, "license": {"name": "MIT", "identifier": "MIT"}},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
    }


def _operation(route: Route, path: str, of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if route.gives:
        content["application/json"] = {"schema": of[route.gives]}
    else:
        content[route.media] = {} if route.media == "application/json" else {"schema": {"type": "string"}}
    if route.events:
        content["text/event-stream"] = {"x-event": of[route.events]}
    operation: dict[str, Any] = {
        "operationId": route.endpoint.__qualname__.split("<locals>.")[-1].replace(".", "_"),
        "summary": (route.endpoint.__doc__ or "").strip().split("\n")[0],
        "responses": {
            "200": {"description": "The answer.", "content": content},
            "default": {
                "description": "An error.",
                "content": {"application/json": {"schema": of[route.fails]}},
            },
        },
    }
    if path in ("/health", "/ready"):
        operation["responses"]["503"] = {"description": "Not ready, and why.", "content": content}
    if route.takes:
        schema = of[route.takes]
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    for name in re.findall(r"{(\w+)}", path):
        operation.setdefault("parameters", []).append(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        )
    return operation
