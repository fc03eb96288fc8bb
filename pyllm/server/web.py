"""The web page at /: fixed files, the same for everyone, so they need no key. What they show does."""

from __future__ import annotations

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",  # asked again each time, answered with 304
}


class Page:
    """Holds the files in memory: no request's path reaches the file system."""

    def __init__(self) -> None:
        folder = Path(__file__).with_name("page")
        self._files: dict[str, tuple[bytes, dict[str, str]]] = {}
        for file in sorted(folder.iterdir()):
            if kind := _TYPES.get(file.suffix):
                content = file.read_bytes()
                tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                path = "/" if file.name == "index.html" else f"/page/{file.name}"
                headers = {**_HEADERS, "content-type": f"{kind}; charset=utf-8", "etag": tag}
                self._files[path] = content, headers

    @property
    def paths(self) -> frozenset[str]:
        return frozenset(self._files)

    async def get(self, request: Request) -> Response:
        """One of the files."""
        content, headers = self._files[request.scope["path"]]
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)
