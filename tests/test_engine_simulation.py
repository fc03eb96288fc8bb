"""Random schedules of the engine's state machines, compiled from tests/cpp and run as a program."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [f"cpp/engine/{name}.cc" for name in ("block_pool", "prefix_cache", "held_prefix", "scheduler")]


def compiled(name: str, folder: Path) -> Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = folder / name
    sources = [f"tests/cpp/{name}.cc", *SOURCES]
    command = [*compiler.split(), "-std=c++20", "-O2", "-Icpp", *sources, "-o", str(program)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return program


def simulated(program: Path, count: int) -> dict[str, int]:
    run = subprocess.run([program, "1", str(count)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr  # names the failing seed
    done: dict[str, int] = json.loads(run.stdout)
    return done


def test_random_schedules_give_every_request_its_own_tokens(tmp_path: Path) -> None:
    """No block lost, none shared by mistake, nobody starves, and no neighbour changes a token."""
    done = simulated(compiled("simulate_scheduler", tmp_path), 100_000)
    assert done.pop("schedules") == 100_000
    assert min(done.values()) > 10_000, f"the schedules hardly exercise something: {done}"


def test_short_prompts_do_not_wait_for_long_ones(tmp_path: Path) -> None:
    """Two steps, and the one that runs when it arrives. The program also checks that no step is wasted."""
    assert simulated(compiled("simulate_first_token", tmp_path), 500)["most_steps"] <= 2
