"""What can be set about the server, and what may not be combined."""

from __future__ import annotations

import ipaddress
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyllm.embedding import Pooling
from pyllm.errors import PyllmError

MINIMUM_KEY = 8  # characters
_KEY = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9._-]+")
# chat_template_kwargs that a client may set: they steer the model's own template, and nothing else.
TEMPLATE_ARGUMENTS = (
    "enable_thinking",
    "thinking",
    "thinking_budget",
    "reasoning_effort",
    "preserve_thinking",
    "documents",
    "date_string",
)


@dataclass(frozen=True)
class ServeOptions:
    """Options of the server. Sizes are bytes, times seconds. PyllmError where they make no sense together."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: tuple[str, ...] = ()
    allow_no_key: bool = False  # listen beyond this machine without a key
    allow_hosts: tuple[str, ...] = ()  # names in Host headers beside this machine's own; "*": any
    cors_origins: tuple[str, ...] = ()  # web pages elsewhere that may ask; "*": any
    tls_cert: Path | None = None
    tls_key: Path | None = None

    strict: bool = False  # refuse unknown fields
    pooling: Pooling = "last"  # of embeddings, where neither the request nor the model says
    template_arguments: tuple[str, ...] = TEMPLATE_ARGUMENTS

    max_sequences: int = 64  # answers that run at once
    max_queue: int = 256  # answers that may wait beyond those
    max_body: int = 16 << 20
    max_depth: int = 64  # of JSON
    max_messages: int = 4096
    max_headers: int = 100
    max_head: int = 64 << 10  # request line and headers
    max_n: int = 128  # answers to one request, over all its prompts
    max_tokens: int = 0  # of an answer; 0: the context

    receive_timeout: float = 60.0  # for a whole request to arrive
    stall_timeout: float = 60.0  # without any progress of a client that reads
    idle_timeout: float = 30.0  # for the next request on a connection
    drain_timeout: float = 30.0  # for running answers after SIGTERM

    keep_alive: float = 0.0  # that an unused model stays loaded; 0: until memory is short
    room_timeout: float = 60.0  # for models in use to end, when another one needs their memory

    batch_folder: Path | None = None  # of /v1/files and /v1/batches; none: there are no such
    max_file: int = 200 << 20
    max_storage: int = 4 << 30  # of all files
    clock: Callable[[], float] = time.time  # by which files and batches expire

    log_format: str = "human"

    def __post_init__(self) -> None:
        for key in self.keys:
            # Keys themselves never go into messages.
            if not _KEY.fullmatch(key):
                raise PyllmError("an API key holds a character that HTTP headers cannot carry")
            if len(key) < MINIMUM_KEY:
                raise PyllmError(f"an API key has {len(key)} characters: expected at least {MINIMUM_KEY}")
        if not self.keys and not self.allow_no_key and not is_loopback(self.host):
            raise PyllmError(
                f"--host {self.host}: others could use the server, and there is no API key. Give one with "
                "--api-key-file or PYLLM_API_KEY, or say --allow-no-key if everyone may"
            )
        if (self.tls_key is None) != (self.tls_cert is None):
            raise PyllmError("TLS needs both --tls-cert and --tls-key")
        for origin in self.cors_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
                raise PyllmError(f"--cors-origin {origin}: expected scheme://host[:port] without a path, or *")
        for name in self.allow_hosts:
            if name != "*" and not _HOST.fullmatch(name):
                raise PyllmError(
                    f"--allow-host {name}: expected a host name without scheme, port or path, or *"
                )
        if self.tls_cert and self.tls_key:
            check_certificate(self.tls_cert, self.tls_key)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_certificate(certificate: Path, key: Path) -> None:
    """PyllmError when the files are missing, unreadable, or do not belong together."""
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise PyllmError(f"{option} {path}: {error.strerror}") from error
    try:
        # An empty password: an encrypted key is an error here, not a question on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise PyllmError(
            f"--tls-cert {certificate} and --tls-key {key}: expected a certificate and its unencrypted key "
            f"in PEM form: {getattr(error, 'reason', None) or error}"
        ) from error


def read_keys(path: Path) -> tuple[str, ...]:
    """Keys of a file, one a line; empty lines and lines that begin with # do not count."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PyllmError(f"--api-key-file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PyllmError(f"--api-key-file {path}: expected text, one key a line") from error
    keys = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not keys:
        raise PyllmError(f"--api-key-file {path}: expected at least one key, found none")
    return keys
