"""Who may ask: API keys, and the names under which a browser may have found us."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from pyllm.server.errors import ApiError


class Keys:
    """API keys. They are compared as digests, all of them every time: the time taken tells nothing."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def caller(self, headers: Mapping[str, str]) -> str:
        """A name for the caller's key, "" when none is needed. ApiError 401 for a wrong or missing one."""
        if not self._digests:
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        key = given.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        found = ""
        for known in self._digests:
            if hmac.compare_digest(digest, known):
                found = known.hex()[:16]
        if not found:
            what = "a wrong API key" if key else "no API key"
            raise ApiError(
                401,
                f"{what}: expected the header Authorization: Bearer KEY, or x-api-key: KEY",
                code="invalid_api_key",
                headers={"www-authenticate": 'Bearer realm="pyllm"'},
            )
        return found


class Hosts:
    """Names that a Host header may have. A web page can make a name of its own mean this machine (DNS
    rebinding) and would then be asking from the same origin; addresses cannot be taken over so."""

    def __init__(self, host: str, allowed: Sequence[str], origins: Sequence[str]) -> None:
        self._any = "*" in allowed
        self._names = {
            "localhost",
            host.lower(),
            socket.gethostname().lower(),
            *(name.lower() for name in allowed),
        }
        self._origins = set(origins)

    def check(self, headers: Mapping[str, str]) -> None:
        """ApiError for a name that is not ours, or a web page from elsewhere."""
        host = headers.get("host", "")
        name = host_name(host)
        if not (self._any or name in self._names or _is_address(name)):
            raise ApiError(
                403,
                f"Host {host!r:.80} is not a name of this server; --allow-host adds one",
                code="unknown_host",
            )
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        if urlsplit_host(origin) != host.lower() or not host:
            raise ApiError(
                403, f"Origin {origin!r:.80} may not ask here; --cors-origin allows one", code="unknown_origin"
            )


def host_name(host: str) -> str:
    """Without the port, small letters: [::1]:8000 -> ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (
        host.rpartition(":")[0].lower() if host.rpartition(":")[2].isdigit() and ":" in host else host.lower()
    )


def urlsplit_host(origin: str) -> str:
    """host[:port] of an origin, "" when it has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
