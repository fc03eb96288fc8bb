"""Which devices there are, and which of them a name such as "cuda:0" means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pyllm.errors import PyllmError


@dataclass(frozen=True)
class Device:
    """A GPU by its number, with its memory in bytes. unusable: why it cannot be used; empty: it can."""

    number: int
    name: str
    total_bytes: int
    free_bytes: int
    compute: tuple[int, int] = (0, 0)
    unusable: str = ""

    def __str__(self) -> str:
        return f"cuda:{self.number}"


def list_devices() -> tuple[list[Device], str]:
    """The GPUs of this machine, and why there is none, in a sentence."""
    from pyllm import _core

    found, why = _core.devices()
    keys = ("name", "total_bytes", "free_bytes", "compute", "unusable")
    return [Device(number, **{key: about[key] for key in keys}) for number, about in enumerate(found)], why


def choose_device(text: str) -> Device | None:
    """What "auto", "cpu", "cuda" or "cuda:1" stands for now: a GPU that can be used, or None for the CPU.

    auto and cuda: the GPU with the most free memory; auto is content with none. PyllmError says what is wrong.
    """
    name = text.strip().lower()
    numbered = re.fullmatch(r"cuda:(\d{1,4})", name)
    if name == "cpu":
        return None
    if name not in ("auto", "cuda") and numbered is None:
        raise PyllmError(f"device: expected auto, cpu, cuda or cuda:N (such as cuda:0), got {text!r}")
    devices, why = list_devices()
    if numbered is not None:
        return _numbered(int(numbered[1]), devices, why)
    usable = [device for device in devices if not device.unusable]
    if usable:
        return max(usable, key=lambda device: device.free_bytes)
    if name == "auto":
        return None
    raise PyllmError(f"device cuda: {why or '; '.join(f'{each}: {each.unusable}' for each in devices)}")


def _numbered(number: int, devices: list[Device], why: str) -> Device:
    if number >= len(devices):
        those = f"there is {', '.join(str(device) for device in devices)}" if devices else why
        raise PyllmError(f"device cuda:{number}: {those}")
    if devices[number].unusable:
        raise PyllmError(f"device cuda:{number}: {devices[number].unusable}")
    return devices[number]
