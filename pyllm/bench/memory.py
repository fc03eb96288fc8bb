"""The memory of this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_resident_bytes() -> int:
    """The most memory that was resident at once, mapped files included; 0 where the system does not tell."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> None:
    """What was resident before no longer counts, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
