from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import click

from pyllm.cli.options import json_flag
from pyllm.cli.output import fields, note, show_json

LIBRARIES = ("numpy", "tokenizers", "jinja2", "click", "rich", "platformdirs", "huggingface_hub")
ROOM = 250_000_000  # bytes: the default model and its packed weights


@click.command()
@click.option("--verify", is_flag=True, help="Read all that is kept and compare it with its checksums.")
@click.option("--clear-packed", is_flag=True, help="Delete all packed weights.")
@click.option("--clear-kv", is_flag=True, help="Delete the keys and values of all conversations.")
@json_flag
def doctor(verify: bool, clear_packed: bool, clear_kv: bool, as_json: bool) -> None:
    """Tell what this machine offers and what pyllm makes of it. Exit code 1 when something is wrong.

    --json: {"versions", "cpu": {"name", "cores", "affinity", "quota", "threads"},
    "isa": {"built", "available", "used", "forced"}, "memory": {"available", "limit"},
    "cuda": {"present", "used" (whether --device auto takes one), "why" (not), "driver", "devices": [{"name",
    "pci", "compute", "total_bytes", "free_bytes", "driver", "toolkit", "unusable"}]},
    "home": {"path", "writable", "free", "models", "total"},
    "packed": {"path", "limit", "total", "files": [{"name", "model", "bytes", "used", "problem"}]},
    "kv": {"path", "limit", "total", "files": [{"name", "bytes", "used", "problem"}]},
    "problems": [...]}; bytes, quota in cores, and used in seconds since 1970.

    Packed weights of large models are kept in home, so that the next start only maps them; they are made anew
    when they are not there. PYLLM_PACK_LIMIT bounds them (such as 5GB; absent: 20 GB, or half of what is free
    where that is less; 0: none are kept or used); the least recently used go first.

    Keys and values of conversations lie beside their transcripts, so that `pyllm chat -c` need not read them;
    what is deleted or damaged is computed anew. PYLLM_KV_LIMIT bounds them likewise (absent: 5 GB).

    Example: pyllm doctor --verify
    """
    problems: list[str] = []
    if clear_packed:
        from pyllm.progress import megabytes

        note(f"packed weights: {megabytes(_clear())} deleted")
    if clear_kv:
        from pyllm.chat import warm
        from pyllm.models import cache_errors
        from pyllm.progress import megabytes

        with cache_errors(warm.folder()):
            note(f"keys and values of conversations: {megabytes(warm.clear())} deleted")
    about = {
        "versions": _versions(),
        "cpu": _cpu(),
        "isa": _isa(problems),
        "memory": _memory(),
        "cuda": _cuda(),
        "home": _home(problems),
        "packed": _packed(problems, verify),
        "kv": _kv(problems, verify),
        "problems": problems,
    }
    if as_json:
        show_json(about)
    else:
        _print(about)
    if problems:
        raise click.exceptions.Exit(1)


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from pyllm import __version__

    found = {"pyllm": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


def _cpu() -> dict[str, Any]:
    from pyllm import _core

    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": cpu_name(),
        "cores": os.cpu_count(),
        "affinity": affinity,
        "quota": _cpu_quota(),
        "threads": _core.cpu_threads(),
    }


def cpu_name() -> str:
    """What the processor calls itself."""
    import platform

    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_quota() -> float | None:
    """Cores that the control group grants, or None: no limit."""
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    if not quota:
        quota = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
        period = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
    if quota.isdigit() and period.isdigit() and int(period):
        return int(quota) / int(period)
    return None


def _isa(problems: list[str]) -> dict[str, Any]:
    from pyllm import PyllmError, _core

    try:
        used = _core.active_isa()
    except PyllmError as error:  # PYLLM_ISA names one that is not here
        problems.append(str(error))
        used = None
    return {
        "built": _core.isas(built=True),
        "available": _core.isas(),
        "used": used,
        "forced": os.environ.get("PYLLM_ISA") or None,
    }


def _memory() -> dict[str, Any]:
    from pyllm import _core

    limit = (
        _read("/sys/fs/cgroup/memory.max").strip()
        or _read("/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
    )
    return {
        "available": _core.available_memory(),
        "limit": int(limit) if limit.isdigit() and int(limit) < 1 << 60 else None,
    }


def _cuda() -> dict[str, Any]:
    """The GPUs there are, and why none is used: no library, no driver, no GPU, or what is wrong with each."""
    from pyllm import _core

    devices, why = _core.devices()
    used = [device for device in devices if not device["unusable"]]
    if devices and not used:
        why = "; ".join(f"cuda:{number}: {device['unusable']}" for number, device in enumerate(devices))
    driver = _driver()
    if not devices:
        why += f"; the NVIDIA driver is {'there' if driver else 'not installed'}"
    return {"present": bool(devices), "used": bool(used), "why": why, "driver": driver, "devices": devices}


def _driver() -> bool:
    """Whether the NVIDIA driver's library is there; it tells a machine without GPUs from one set up half."""
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _cuda_rows(cuda: dict[str, Any]) -> list[tuple[str, object]]:
    from pyllm.progress import megabytes

    if not cuda["devices"]:
        return [("gpu", f"none is used: {cuda['why']}")]
    rows: list[tuple[str, object]] = []
    for number, device in enumerate(cuda["devices"]):
        compute, driver = (".".join(map(str, device[key])) for key in ("compute", "driver"))
        memory = f"{megabytes(device['free_bytes'])} of {megabytes(device['total_bytes'])} free"
        state = f"not usable: {device['unusable']}" if device["unusable"] else "usable"
        text = (
            f"cuda:{number}: {device['name']}, compute {compute}, {memory}, driver for CUDA {driver}; {state}"
        )
        rows.append(("" if number else "gpu", text))
    return rows


def _home(problems: list[str]) -> dict[str, Any]:
    from pyllm.errors import PyllmError
    from pyllm.models import folder_bytes, home, known_models
    from pyllm.progress import megabytes

    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    writable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    if not writable:
        problems.append(f"{folder}: cannot be written; PYLLM_HOME can name another folder")
    try:
        models = {m.name: folder_bytes(m.folder) for m in known_models().values() if m.folder.exists()}
    except (PyllmError, OSError) as error:
        problems.append(str(error))
        models = {}
    free = shutil.disk_usage(existing).free
    if free < ROOM:
        problems.append(
            f"{folder}: only {megabytes(free)} free on its disk, too little for models and packed weights; "
            "free some, or let PYLLM_HOME name another folder"
        )
    return {
        "path": str(folder),
        "writable": writable,
        "free": free,
        "models": models,
        "total": folder_bytes(folder),
    }


def _packed(problems: list[str], verify: bool) -> dict[str, Any]:
    from pyllm import packs
    from pyllm.errors import PyllmError

    try:
        limit = packs.limit()
    except PyllmError as error:
        problems.append(str(error))
        limit = 0
    files: list[dict[str, Any]] = []
    for pack in packs.packs():
        problem = pack.problem or (packs.verify(pack) if verify else "")
        if problem:
            problems.append(f"{pack.path}: {problem}; it is not used, and --clear-packed deletes it")
        about = {"name": pack.path.name, "model": pack.model, "bytes": pack.bytes, "used": pack.used}
        files.append({**about, "problem": problem})
    total = sum(file["bytes"] for file in files)
    return {"path": str(packs.folder()), "limit": limit, "total": total, "files": files}


def _kv(problems: list[str], verify: bool) -> dict[str, Any]:
    from pyllm.chat import warm
    from pyllm.errors import PyllmError
    from pyllm.private_files import bytes_of, used_at

    try:
        limit = warm.limit()
    except PyllmError as error:
        problems.append(str(error))
        limit = 0
    files: list[dict[str, Any]] = []
    for path in sorted(warm.kept(), key=used_at, reverse=True):
        if problem := warm.problem_of(path, verify):
            problems.append(f"{path}: {problem}; it is not used, and --clear-kv deletes it")
        about = {"name": path.name, "bytes": bytes_of([path]), "used": used_at(path), "problem": problem}
        files.append(about)
    total = sum(file["bytes"] for file in files)
    return {"path": str(warm.folder()), "limit": limit, "total": total, "files": files}


def _clear() -> int:
    from pyllm import packs
    from pyllm.models import cache_errors

    with cache_errors(packs.folder()):
        return packs.clear()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _join(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _print(about: dict[str, Any]) -> None:
    from pyllm.progress import megabytes

    cpu, isa, memory, cuda, home = (about[key] for key in ("cpu", "isa", "memory", "cuda", "home"))
    packed = about["packed"]
    quota = f", {cpu['quota']:g} granted by the control group" if cpu["quota"] else ""
    limit = f" (limit of the control group: {megabytes(memory['limit'])})" if memory["limit"] else ""
    forced = " (forced by PYLLM_ISA)" if isa["forced"] else ""
    rows: list[tuple[str, object]] = [
        ("versions", ", ".join(f"{name} {version}" for name, version in about["versions"].items())),
        ("cpu", f"{cpu['name']}: {cpu['cores']} logical cores, {cpu['affinity']} allowed{quota}"),
        ("threads", cpu["threads"]),
        ("instruction sets", f"built {_join(isa['built'])}; usable here {_join(isa['available'])}"),
        ("", f"used: {isa['used']}{forced}"),
        ("memory", f"{megabytes(memory['available'])} available{limit}"),
        *_cuda_rows(cuda),
        ("home", f"{home['path']}: {megabytes(home['total'])} used, {megabytes(home['free'])} free"),
    ]
    rows += [("", f"{name}: {megabytes(size)}") for name, size in home["models"].items()]
    rows += [("packed weights", f"{megabytes(packed['total'])} of at most {megabytes(packed['limit'])}")]
    for file in packed["files"]:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(file["used"]))
        rows += [("", f"{file['model'] or file['name']}: {megabytes(file['bytes'])}, used {used}")]
    kv = about["kv"]
    count = f" ({len(kv['files'])} conversations)" if kv["files"] else ""
    rows += [("keys and values", f"{megabytes(kv['total'])} of at most {megabytes(kv['limit'])}{count}")]
    rows += [("problem", problem) for problem in about["problems"]] or [("problems", "none found")]
    fields(rows)
