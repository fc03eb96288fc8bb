"""llama.cpp's quantizer with an importance matrix.

python tests/oracle/peer_quantize.py IN OUT FILE_TYPE IMATRIX.gguf

Needs gguf and llama-cpp-python.
"""

from __future__ import annotations

import ctypes
import sys

import gguf
import llama_cpp
import numpy as np
from llama_cpp_calls import only_errors


def entries(path: str) -> dict[str, np.ndarray]:
    """Mean squared inputs of each matrix, float32."""
    tensors = {tensor.name: np.array(tensor.data) for tensor in gguf.GGUFReader(path).tensors}
    found = {}
    for name, sums in tensors.items():
        if name.endswith(".in_sum2"):
            matrix = name.removesuffix(".in_sum2")
            found[matrix] = (sums / tensors[f"{matrix}.counts"]).astype(np.float32).ravel()
    return found


def main() -> None:
    source, target, kind, imatrix = sys.argv[1:]
    values = entries(imatrix)
    row = llama_cpp.llama_cpp.llama_model_imatrix_data
    table = (row * (len(values) + 1))()  # ends with one without a name
    for entry, (name, data) in zip(table, values.items(), strict=False):
        entry.name, entry.size = name.encode(), data.size
        entry.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    llama_cpp.llama_log_set(only_errors(), ctypes.c_void_p(0))
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.ftype = 2, int(kind)
    options.imatrix = ctypes.cast(table, type(options.imatrix))
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)):
        sys.exit(f"llama.cpp cannot write file type {kind}")


if __name__ == "__main__":
    main()
