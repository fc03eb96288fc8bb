"""Options of `pyllm serve` from a TOML file, and the server's own options from all of them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import parse_bytes
from pyllm.cli.output import UsageError
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.server.options import ServeOptions


def read_config(path: Path, command: click.Command) -> dict[str, Any]:
    """Option name -> value, as click's default_map. UsageError names the file and what is wrong in it."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, not UTF-8
        raise UsageError(f"--config {path}: {error}") from error
    known = {parameter.name: parameter for parameter in command.params if parameter.name != "config"}
    found = {}
    for key, value in document.items():
        name = key.replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, [str(n) for n in known], n=1)
            hint = f"; did you mean {near[0].replace('_', '-')}?" if near else ""
            raise UsageError(f"--config {path}: unknown option {key!r}{hint}")
        parameter = known[name]
        many = parameter.nargs == -1 or (isinstance(parameter, click.Option) and parameter.multiple)
        if isinstance(value, dict | list) and not (many and isinstance(value, list)):
            raise UsageError(f"--config {path}: {key}: expected one value, found {type(value).__name__}")
        found[name] = [value] if many and not isinstance(value, list) else value
    return found


def serve_options(given: Mapping[str, Any], models: int = 1) -> ServeOptions:
    """Of the command's values, for so many models. UsageError where they make no sense together."""
    from pyllm.amounts import parse_seconds
    from pyllm.models import home
    from pyllm.server.options import ServeOptions, read_keys

    keys = tuple(given["api_key"])
    if given["api_key_file"] is not None:
        keys += read_keys(given["api_key_file"])
    same = ("host", "port", "allow_no_key", "tls_cert", "tls_key", "strict", "max_sequences", "max_queue")
    more = ("max_tokens", "receive_timeout", "drain_timeout", "log_format", "pooling")
    try:
        keep_alive = parse_seconds(given["keep_alive"] or ("10m" if models > 1 else "0"))
    except ValueError as error:
        raise UsageError(f"--keep-alive {error}") from None
    try:
        return ServeOptions(
            keys=keys,
            keep_alive=keep_alive,
            allow_hosts=tuple(given["allow_host"]),
            cors_origins=tuple(given["cors_origin"]),
            max_body=parse_bytes(given["max_body"], "--max-body"),
            batch_folder=None if given["max_storage"] == "0" else home() / "batches",
            max_storage=0
            if given["max_storage"] == "0"
            else parse_bytes(given["max_storage"], "--max-storage"),
            **{name: given[name] for name in (*same, *more)},
        )
    except PyllmError as error:
        raise UsageError(str(error)) from error
