"""What is in a GGUF file, for tests that write one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyllm import _core


def types(path: Path) -> dict[str, str]:
    """Of every tensor by its name."""
    return {tensor.name: tensor.type for tensor in _core.GgufFile(path).tensors}


def weights(path: Path, name: str) -> np.ndarray:
    """Of one tensor, float32, the slowest-varying dimension first."""
    file = _core.GgufFile(path)
    tensor = next(t for t in file.tensors if t.name == name)
    shape = tuple(reversed(tensor.shape))
    return _core.dequantize(tensor.type, file.tensor_data(name), int(np.prod(shape))).reshape(shape)
