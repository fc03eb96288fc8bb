"""Tests run against the installed pyllm, not against the sources next to them.

`python -m pytest` puts the checkout first on the module path, where pyllm has no compiled core. A development
build puts the core there on purpose; then the checkout is what is meant.
"""

import sys
import sysconfig
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent

if not (CHECKOUT / "pyllm" / f"_core{sysconfig.get_config_var('EXT_SUFFIX')}").exists():
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != CHECKOUT]
