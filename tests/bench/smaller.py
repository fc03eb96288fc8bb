"""Size against loss: the search's choices beside the usual mixes of the same size, all calibrated by one text.

python tests/bench/smaller.py MODEL-f16.gguf --text TEXT [--mixes q2_k,q4_k_m] [--windows 16] [--aside 4]
    [--json OUT] [--peer PYTHON]

Every fourth window of the text is kept aside; losses are measured there, with the original (float16 or float32)
as the reference. "plain" is the mix without importance. --peer: a Python with llama-cpp-python, whose quantizer
writes the same mixes with the same importance matrix; its weights are measured by the same engine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pyllm import _core
from pyllm.mixes import MIXES
from pyllm.progress import LineProgress
from pyllm.quantize.calibrate import Calibration
from pyllm.quantize.choice import choose
from pyllm.quantize.importance import read_importance
from pyllm.quantize.judge import Judge, Loss, Weights
from pyllm.quantize.plan import make_plan
from pyllm.quantize.search import Search, split, thinned
from pyllm.quantize.trial import Tensors
from pyllm.weights import GgufSource

PEER = Path(__file__).resolve().parent.parent / "oracle" / "peer_quantize.py"


class Bench:
    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.path, self.folder = arguments.model, folder
        text = arguments.text.read_text(encoding="utf-8")
        calibration = Calibration(self.path, text, arguments.text.name)
        rest, aside = split(calibration.windows())
        self.windows, self.aside = thinned(rest, arguments.windows), thinned(aside, arguments.aside)
        self.imatrix = arguments.importance or folder / "imatrix.gguf"
        if not self.imatrix.exists():
            calibration.importance(self.imatrix, self.windows)
        self.importance = read_importance(self.imatrix)
        self.source = GgufSource(self.path)
        self.search = Search(
            self.path, self.source, self.windows, self.aside, self.importance, LineProgress(counts=True)
        )
        self.judge = Judge(self.path, self.aside, len(self.aside[0]) // 2)
        self.tokens = sum(len(window) - 1 - len(window) // 2 for window in self.aside)

    def lost(self, weights: Weights) -> Loss:
        return self.judge.loss(weights)

    def mix(self, name: str, calibrated: bool) -> tuple[int, Loss]:
        """Bytes of all weights, and the loss."""
        plan = make_plan(self.source, self.source.metadata(), MIXES[name], calibrated=calibrated)
        tensors = Tensors(self.source, self.importance if calibrated else {})
        weights = tensors.candidate(plan, {t.name: t.type for t in plan})
        return sum(t.bytes_as(t.type) for t in plan), self.lost(weights)

    def searched(self, bytes: int) -> tuple[int, Loss]:
        """Of the search's choice within so many bytes of weights."""
        search = self.search
        fixed = sum(t.bytes_as(t.type) for t in search.plan if t.name in search.fixed)
        chosen = choose(search.options, bytes=bytes - fixed)
        types = search.fixed | {name: option.type for name, option in chosen.items()}
        weights = search.tensors.candidate(search.plan, types)
        return fixed + sum(option.bytes for option in chosen.values()), self.lost(weights)

    def peer(self, python: str, name: str) -> tuple[int, Loss]:
        target = self.folder / f"peer-{name}.gguf"
        kind = str(int(MIXES[name].file_type))
        subprocess.run([python, PEER, self.path, target, kind, self.imatrix], check=True)
        file = _core.GgufFile(target)
        weights = {
            t.name: (t.type, np.array(file.tensor_data(t.name))) for t in file.tensors if len(t.shape) > 1
        }
        target.unlink()
        return sum(t.n_bytes for t in file.tensors), self.lost(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--mixes", default="q2_k,q3_k_m,iq4_xs,q4_k_m,q5_k_m,q6_k")
    parser.add_argument("--plain", default="q2_k,q3_k_m,q4_k_m", help="mixes measured without importance too")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--aside", type=int, default=4)
    parser.add_argument("--importance", type=Path, help="kept here, or taken from here when it is there")
    parser.add_argument("--peer", metavar="PYTHON")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, Path(folder))
        report: dict[str, Any] = {
            "model": arguments.model.name,
            "text": arguments.text.name,
            "tokens": {"read": sum(map(len, bench.windows)), "scored_aside": bench.tokens},
            "rows": [],
        }

        def add(mix: str, kind: str, found: tuple[int, Loss]) -> None:
            bytes, loss = found
            report["rows"].append({"mix": mix, "kind": kind, "weight_bytes": bytes, **asdict(loss)})
            print(f"{mix:8} {kind:10} {bytes / 1e6:8.2f} MB  {loss}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")

        for mix in arguments.mixes.split(","):
            bytes, loss = bench.mix(mix, calibrated=True)
            add(mix, "calibrated", (bytes, loss))
            add(mix, "searched", bench.searched(bytes))
            if mix in arguments.plain.split(","):
                add(mix, "plain", bench.mix(mix, calibrated=False))
                if arguments.peer:
                    add(mix, "llama.cpp", bench.peer(arguments.peer, mix))


if __name__ == "__main__":
    main()
