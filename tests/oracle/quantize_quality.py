"""Our quantizer beside llama.cpp's: error of every tensor, KL divergence of the whole model, types and time.

python tests/oracle/quantize_quality.py MODEL.gguf [--types q8_0,q4_k_m,...] [--noise 0.1] [--json OUT]

Both write the same F16 source with one thread, and llama.cpp runs both files. --noise adds normal noise of
that part of each matrix's standard deviation to the source: weights that were quantized once lie on the grid of
that type, and types of as many bits look better on them than on others. Types that llama.cpp writes only with
importance are left out. Needs gguf and llama-cpp-python beside pyllm.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from engines import LlamaCpp
from gguf.constants import GGMLQuantizationType, GGUFValueType
from llama_cpp_calls import only_errors
from measure import kl_divergence

from pyllm import _core
from pyllm.gguf_writer import Tensor, Value, write_gguf
from pyllm.mixes import mix_named
from pyllm.quantize.quantize import quantize
from pyllm.weights import GgufSource

TEXT = Path(__file__).with_name("text.txt")


def write_source(model: Path, noise: float, target: Path) -> None:
    """The model in F16, every matrix with normal noise of this part of its standard deviation."""
    source, rng = GgufSource(model), np.random.default_rng(0)
    metadata = source.metadata()
    metadata["general.file_type"] = Value(int(mix_named("f16").file_type), GGUFValueType.UINT32)

    def tensor(name: str, kind: str, shape: tuple[int, ...]) -> Tensor:
        matrix = len(shape) > 1

        def pieces() -> Iterator[np.ndarray]:
            data = source.file.tensor_data(name)
            if matrix:
                x = _core.dequantize(kind, data, math.prod(shape))
                x += rng.standard_normal(x.size, np.float32) * np.float32(noise * x.std())
                data = x.astype(np.float16).view(np.uint8)
            yield data

        return Tensor(name, shape, GGMLQuantizationType["F16" if matrix else kind], pieces)

    tensors = [tensor(t.name, t.type, t.shape) for t in source.tensors]
    write_gguf(target, str(metadata["general.architecture"].value), metadata, tensors)


def peer_quantize(source: Path, target: Path, mix: str) -> None:
    """llama_model_quantize with its defaults."""
    import llama_cpp

    llama_cpp.llama_log_set(only_errors(), ctypes.c_void_p(0))
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.ftype = 1, int(mix_named(mix).file_type)
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)):
        raise RuntimeError(f"llama.cpp cannot write {mix}")  # several types only with importance


def tensors(path: Path) -> dict[str, tuple[str, np.ndarray]]:
    """(type, weights) of every matrix of a file."""
    file = _core.GgufFile(path)
    found = {}
    for tensor in file.tensors:
        if len(tensor.shape) > 1:
            count = int(np.prod(tensor.shape))
            found[tensor.name] = (
                tensor.type,
                _core.dequantize(tensor.type, file.tensor_data(tensor.name), count),
            )
    return found


def seconds(job: object) -> float:
    """CPU time of this process for one call."""
    started = time.process_time()
    job()  # type: ignore[operator]
    return time.process_time() - started


def all_logits(path: Path, text: str, tokens: int, chunk: int) -> list[np.ndarray]:
    engine = LlamaCpp(path, context=chunk + 8)
    ids = engine.tokenize(text)[:tokens]
    return [engine.logits(ids[first : first + chunk]) for first in range(0, len(ids), chunk)]


def compare(source: Path, mix: str, truth: list[np.ndarray], arguments: argparse.Namespace) -> dict[str, Any]:
    text = TEXT.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours.gguf", Path(folder) / "theirs.gguf"
        spent = seconds(lambda: quantize(source, ours, mix, threads=1))
        peer = seconds(lambda: peer_quantize(source, theirs, mix))
        original, mine, other = tensors(source), tensors(ours), tensors(theirs)
        different = [name for name in original if mine[name][0] != other[name][0]]
        ratios = []
        for name, (_, x) in original.items():
            errors = [float(((x - file[name][1]) ** 2).mean()) for file in (mine, other)]
            if errors[1] > 0:
                ratios.append(errors[0] / errors[1])
        kl = [
            np.concatenate(
                [
                    kl_divergence(a, b)
                    for a, b in zip(
                        truth, all_logits(path, text, arguments.tokens, arguments.chunk), strict=True
                    )
                ]
            )
            for path in (ours, theirs)
        ]
        return {
            "type": mix,
            "bytes": [ours.stat().st_size, theirs.stat().st_size],
            "different_types": different,
            "error_ratio": {
                "mean": float(np.mean(ratios)) if ratios else None,
                "worst": max(ratios, default=None),
            },
            "kl_mean": [float(values.mean()) for values in kl],
            "kl_stderr": [float(values.std() / len(values) ** 0.5) for values in kl],
            "cpu_seconds": [spent, peer],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--types", default="q8_0,q6_k,q5_k_m,q4_k_m,q4_0,iq4_xs,q3_k_m,q2_k")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.gguf"
        write_source(arguments.model, arguments.noise, source)
        text = TEXT.read_text(encoding="utf-8")
        truth = all_logits(source, text, arguments.tokens, arguments.chunk)
        reports = []
        for mix in arguments.types.split(","):
            try:
                reports.append(compare(source, mix, truth, arguments))
            except RuntimeError as error:
                print(error)
                continue
            show(reports[-1])
            if arguments.json:
                document = {"model": arguments.model.name, "noise": arguments.noise, "tokens": arguments.tokens}
                arguments.json.write_text(json.dumps(document | {"types": reports}, indent=1) + "\n", "utf-8")


def show(report: dict[str, Any]) -> None:
    error, kl, spent = report["error_ratio"], report["kl_mean"], report["cpu_seconds"]
    print(
        f"{report['type']:8} error x {error['mean'] or 0:.3f} (worst {error['worst'] or 0:.3f})  "
        f"KL {kl[0]:.5f} against {kl[1]:.5f}  CPU {spent[0]:.2f} s against {spent[1]:.2f} s  "
        f"{len(report['different_types'])} types differ",
        flush=True,
    )


if __name__ == "__main__":
    main()
