"""Tests run against the installed pyllm, not against the sources next to them.

`python -m pytest` puts the checkout first on the module path, and `python -m pyllm` started there finds the
sources too, which have no compiled core. A development build puts the core there on purpose; then the checkout
is what is meant.
"""

import os
import signal
import sys
import sysconfig
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
INSTALLED = not (CHECKOUT / "pyllm" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}").exists()

if INSTALLED:
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != CHECKOUT]

# These tests are about the CPU, and about GPUs that are the CPU in disguise; tests/gpu is for real ones.
os.environ.setdefault("PYLLM_CUDA_LIBRARY", os.devnull)

# A shell starts what runs in its background with Ctrl-C ignored, and processes hand that on to their own.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def outside_the_checkout(tmp_path_factory):
    """Processes that tests start must not find the sources either."""
    if not INSTALLED:
        yield
        return
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)
