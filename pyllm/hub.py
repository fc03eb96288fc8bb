"""Models from Hugging Face repositories.

huggingface_hub knows the mirror (HF_ENDPOINT), the token and the proxies; the partial file is ours, so that
a later process can go on where this one stopped.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pyllm.errors import PyllmError
from pyllm.files import place
from pyllm.models import Licence, Manifest, Source, parse_manifest, split_names
from pyllm.progress import Progress
from pyllm.pull import SourceError, check, disk_error, need_space, write

_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")


@dataclass(frozen=True)
class _Remote:
    """One file on the hub. `sha256` is empty and `size` 0 when the server does not say."""

    file: str
    url: str
    location: str
    etag: str
    size: int
    sha256: str


def parse_reference(text: str) -> Source:
    """hf:owner/repo/file.gguf, or hf:owner/repo/folder/file.gguf@revision, or PyllmError."""
    path, _, revision = text.removeprefix("hf:").partition("@")
    owner, repo, file = [*path.split("/", 2), "", ""][:3]
    source = Source("huggingface", repo=f"{owner}/{repo}", file=file, revision=revision or "main")
    try:
        check_reference(source)
    except ValueError as error:
        raise PyllmError(
            f"{text[:200]!r}: expected hf:owner/repo/file.gguf, perhaps with @revision: {error}"
        ) from error
    return source


def check_reference(source: Source) -> None:
    """ValueError unless repo, file and revision can be such."""
    if not _REPO.fullmatch(source.repo):
        raise ValueError(f"{source.repo!r} is not owner/repo")
    parts = source.file.split("/")
    if not source.file.lower().endswith(".gguf") or any(p in ("", ".", "..") for p in parts):
        raise ValueError(f"{source.file!r} is not the path of a .gguf file")
    if not _REVISION.fullmatch(source.revision) or ".." in source.revision:
        raise ValueError(f"{source.revision!r} is not a revision")


def describe(source: Source, name: str) -> Manifest:
    """The manifest of the user's own model, from what the hub says about its files, or SourceError."""
    remotes = _remotes(source)
    sizes = [r.size for r in remotes]
    from huggingface_hub import constants

    manifest = Manifest(
        name=name,
        file=PurePosixPath(remotes[0].file).name,
        title=str(source).removeprefix("Hugging Face "),
        size=sum(sizes) if all(sizes) else 0,
        sha256=remotes[0].sha256 if len(remotes) == 1 else "",
        licence=Licence(name="see its page", url=f"{constants.ENDPOINT}/{source.repo}"),
        sources=(source,),
    )
    try:
        parse_manifest({"name": name, "file": manifest.file, "sources": []})
    except ValueError as error:
        raise SourceError(str(error)) from error
    return manifest


def fetch(source: Source, manifest: Manifest, show: Progress) -> None:
    """Downloads (from where an earlier try stopped), verifies and places the model's file or files."""
    remotes = _remotes(source)
    if len(remotes) != len(manifest.files):
        raise SourceError(f"expected {len(manifest.files)} files, the repository has {len(remotes)}")
    if len(remotes) == 1:
        _same("bytes", manifest.size, remotes[0].size)
        _same("SHA-256", manifest.sha256, remotes[0].sha256)
    total = sum(r.size for r in remotes)
    todo = [(r, p, _partial(r, p)) for r, p in zip(remotes, manifest.files, strict=True)]
    here = sum(partial.stat().st_size for _, _, partial in todo if partial.exists())
    need_space(manifest.folder, max(0, total - here))
    show.start(f"pulling {manifest.name}", total)
    before = 0
    for remote, path, partial in todo:
        sha256 = manifest.sha256 if len(todo) == 1 and manifest.sha256 else remote.sha256
        if len(todo) > 1 and path.is_file() and remote.sha256 and _matches(path, remote):
            before += remote.size  # this part came with an earlier try
            continue
        _download(remote, partial, lambda done, base=before: show.update(base + done))  # type: ignore[misc]
        try:
            check(partial, remote.size, sha256)
        except SourceError:
            partial.unlink(missing_ok=True)
            raise
        place(partial, path)
        before += remote.size


def _matches(path: Path, remote: _Remote) -> bool:
    try:
        check(path, remote.size, remote.sha256)
    except SourceError:
        return False
    return True


def _same(what: str, expected: object, found: object) -> None:
    if expected and found and expected != found:
        raise SourceError(f"the file there is another one: expected {expected} {what}, the server says {found}")


def _partial(remote: _Remote, path: Path) -> Path:
    """Named after the content, so that bytes of two versions never mix."""
    tag = re.sub(r"[^A-Za-z0-9]", "", remote.etag)[:16]
    return path.with_name(f"{path.name}.{tag or 'unknown'}.partial")


def _remotes(source: Source) -> list[_Remote]:
    """All files of the source; a split model has several."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    folder = PurePosixPath(source.file).parent
    found = []
    for name in split_names(PurePosixPath(source.file).name):
        file = str(folder / name)
        url = hf_hub_url(source.repo, file, revision=source.revision)
        with _hub_errors():
            about = get_hf_file_metadata(url)
        etag = about.etag or ""
        sha256 = (
            etag if re.fullmatch(r"[0-9a-f]{64}", etag) else ""
        )  # large files are tagged with their SHA-256
        found.append(_Remote(file, url, about.location or url, etag, about.size or 0, sha256))
    return found


def _download(remote: _Remote, partial: Path, update: Callable[[int], None]) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = dict(build_hf_headers())
    headers["Accept-Encoding"] = "identity"
    if urlsplit(remote.location).netloc != urlsplit(remote.url).netloc:
        headers = {
            k: v for k, v in headers.items() if k.lower() != "authorization"
        }  # the token is the hub's alone
    try:
        file = open(partial, "r+b" if partial.exists() and remote.etag else "w+b")  # noqa: SIM115
    except OSError as error:
        raise disk_error(error, partial) from error
    with file:
        here = file.seek(0, 2)
        if here > remote.size > 0:
            here = file.seek(0)
            file.truncate()
        if here and here == remote.size:
            return
        with _hub_errors(), _our_way():
            http_get(remote.location, _Counted(file, partial, update), resume_size=here, headers=headers)
            try:
                file.flush()
            except OSError as error:
                raise disk_error(error, partial) from error


class _Counted:
    """A partial file that tells how far it is and turns a full disk into a clear error."""

    def __init__(self, file: Any, path: Path, update: Callable[[int], None]) -> None:
        self._file, self._path, self._update = file, path, update

    def write(self, data: bytes) -> int:
        write(self._file, data, self._path)
        self._update(self._file.tell())
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@contextmanager
def _hub_errors() -> Iterator[None]:
    """The hub's and its HTTP library's errors (which library depends on the version) as one line."""
    try:
        yield
    except (PyllmError, SourceError):
        raise
    except Exception as error:
        from huggingface_hub import errors

        told = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if isinstance(error, errors.GatedRepoError):
            told = "the repository is gated: accept its terms on its page, then `hf auth login` or set HF_TOKEN"
        elif isinstance(error, errors.RepositoryNotFoundError):
            told = "no such repository, or a private one that needs `hf auth login` or HF_TOKEN"
        elif isinstance(error, errors.RevisionNotFoundError):
            told = "the repository has no such revision"
        elif isinstance(error, errors.EntryNotFoundError):
            told = "the repository has no such file"
        raise SourceError(told) from error


@contextmanager
def _our_way() -> Iterator[None]:
    """No bars and retry notes but our own, and pieces small enough for a bar to move and little to be lost."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    logger = logging.getLogger("huggingface_hub.file_download")
    level, bars = logger.level, not are_progress_bars_disabled()
    piece, constants.DOWNLOAD_CHUNK_SIZE = constants.DOWNLOAD_CHUNK_SIZE, 1 << 16
    logger.setLevel(logging.ERROR)
    if bars:
        disable_progress_bars()
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = piece
        logger.setLevel(level)
        if bars:
            enable_progress_bars()
