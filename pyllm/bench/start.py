"""How long a new process takes to be ready and to its first token, and the memory that takes.

The measured process is `python -m pyllm.bench.start MODEL`; it says when it is there, its parent has the clock.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyllm.errors import PyllmError


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process until LLM() is done and until the first token; of LLM() alone."""

    ready_s: float
    first_token_s: float
    load_s: float
    peak_bytes: int


def measure_start(path: Path, threads: int = 0, where: Mapping[str, Any] = MappingProxyType({})) -> Start:
    """One start of pyllm. PyllmError when it fails, with what the process said.

    where: LLM's device and gpu_layers.
    """
    # As -m would, but for the current folder in front of the path: it may hold pyllm's source.
    run = "import runpy, sys; del sys.path[0]; runpy.run_module('pyllm.bench.start', run_name='__main__')"
    command = [sys.executable, "-c", run, str(path), "--threads", str(threads)]
    return watch([*command, "--where", json.dumps(dict(where))])


def watch(command: Sequence[str]) -> Start:
    """Runs a process that says ready, then token, then {"load_s", "peak_bytes"}, each on a line."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as complaint:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaint, text=True) as child:
            assert child.stdout is not None
            try:
                child.stdout.readline()
                ready = time.perf_counter() - started
                child.stdout.readline()
                first_token = time.perf_counter() - started
                output = child.stdout.read()
            except BaseException:
                child.kill()
                raise
        complaint.seek(0)
        said = complaint.read().strip().splitlines()
    if child.returncode != 0:
        why = said[-1].removeprefix("pyllm: ") if said else f"exit code {child.returncode}"
        raise PyllmError(f"the process that measures the start failed: {why}")
    return Start(ready, first_token, **json.loads(output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--where", type=json.loads, default={})
    args = parser.parse_args()

    from pyllm.bench.memory import peak_resident_bytes
    from pyllm.llm import LLM
    from pyllm.sampling import SamplingParams

    with LLM(args.model, threads=args.threads, **args.where) as llm:
        print("ready", flush=True)
        llm.generate("Hi", SamplingParams(max_tokens=1, temperature=0.0))
        print("token", flush=True)
        print(json.dumps({"load_s": llm.load_s, "peak_bytes": peak_resident_bytes()}))


if __name__ == "__main__":
    try:
        main()
    except PyllmError as error:
        sys.exit(f"pyllm: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
