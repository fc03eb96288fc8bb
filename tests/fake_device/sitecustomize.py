"""On the module path of a child process: GPUs that are the CPU in disguise: FAKE_DEVICES lists them."""

import json
import os

from pyllm import _core

_core.testing.fake_devices(json.loads(os.environ["FAKE_DEVICES"]))
