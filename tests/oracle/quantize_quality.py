"""Our quantizer beside llama.cpp's: error of every tensor, KL divergence of the whole model, types and time.

python tests/oracle/quantize_quality.py MODEL-f16.gguf [--types q8_0,q4_k_m,...] [--tokens 1000] [--json OUT]

Both write the same source with one thread, and llama.cpp runs both files. Needs gguf and llama-cpp-python
beside pyllm.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from engines import LlamaCpp, quiet_callback
from measure import kl_divergence

from pyllm import _core
from pyllm.mixes import mix_named
from pyllm.quantize.quantize import quantize

TEXT = Path(__file__).with_name("text.txt")


def peer_quantize(source: Path, target: Path, mix: str) -> None:
    """llama_model_quantize with its defaults."""
    import llama_cpp

    llama_cpp.llama_log_set(quiet_callback(), ctypes.c_void_p(0))
    options = llama_cpp.llama_model_quantize_default_params()
    options.nthread, options.ftype = 1, int(mix_named(mix).file_type)
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options)):
        raise SystemExit(f"llama.cpp cannot write {mix}")


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


def compare(
    source: Path, mix: str, truth: list[np.ndarray], arguments: argparse.Namespace
) -> dict[str, object]:
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
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=250)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    truth = all_logits(arguments.model, TEXT.read_text(encoding="utf-8"), arguments.tokens, arguments.chunk)
    reports = []
    for mix in arguments.types.split(","):
        report = compare(arguments.model, mix, truth, arguments)
        reports.append(report)
        error, kl, spent = report["error_ratio"], report["kl_mean"], report["cpu_seconds"]
        print(
            f"{mix:8} error x {error['mean'] or 0:.3f} (worst {error['worst'] or 0:.3f})  "
            f"KL {kl[0]:.5f} against {kl[1]:.5f}  CPU {spent[0]:.2f} s against {spent[1]:.2f} s  "
            f"{len(report['different_types'])} types differ",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(reports, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
