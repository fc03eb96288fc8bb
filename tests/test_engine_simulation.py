"""Random schedules of the engine's state machines, compiled from tests/cpp and run as a program."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    "tests/cpp/simulate_scheduler.cc",
    "cpp/engine/block_pool.cc",
    "cpp/engine/prefix_cache.cc",
    "cpp/engine/scheduler.cc",
]


@pytest.fixture(scope="module")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path_factory.mktemp("simulate") / "simulate"
    command = [*compiler.split(), "-std=c++20", "-O2", "-Icpp", *SOURCES, "-o", str(program)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    return program


def test_random_schedules_give_every_request_its_own_tokens(simulate: Path) -> None:
    """No block lost, none shared by mistake, nobody starves, and no neighbour changes a token."""
    run = subprocess.run([simulate, "1", "100000"], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr  # names the failing seed
    done = json.loads(run.stdout)
    assert done.pop("schedules") == 100_000
    assert min(done.values()) > 10_000, f"the schedules hardly exercise something: {done}"
