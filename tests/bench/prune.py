"""What pruning costs and brings: curves of layers, channels, heads, tokens and single weights taken out.

python tests/bench/prune.py MODEL.gguf --out RESULTS.json

What goes is chosen on one part of Python's own documentation (pydoc_data, which every Python brings), and both
models are compared on another part. Parameters and sizes are exact; perplexity and KL divergence are those of
`pyllm perplexity MODEL --reference`; speeds are ratios of pairs of runs in turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from pyllm import _core
from pyllm.bench.machine import machine
from pyllm.calibration import record
from pyllm.cli.output import table
from pyllm.prune.draft import Draft
from pyllm.prune.prune import Amounts, prune
from pyllm.prune.report import Measure, compare
from pyllm.prune.sparsity import Pattern
from pyllm.prune.vocabulary import tokens_for
from pyllm.weights import GgufSource

CHOSEN_ON, MEASURED_ON = slice(0, 24_000), slice(200_000, 260_000)  # characters


def curves(path: Path, text: str) -> Iterator[tuple[str, Amounts]]:
    shape = Draft(GgufSource(path)).shape
    for count in (1, 2, 3, 4, 6, 8):
        yield f"--layers {count}", Amounts(layers=count)
    for share in (0.1, 0.2, 0.25, 0.3, 0.4, 0.5):
        yield f"--ffn {share:.0%}", Amounts(ffn=share)
    if shape.kv_heads > 1:
        yield "--heads 1", Amounts(heads=1)
    tokens = tokens_for(_core.GgufFile(path), text)
    yield "--vocab", Amounts(tokens=tokens)
    for pattern in ("20%", "50%", "2:4"):
        yield f"--sparsity {pattern}", Amounts(sparsity=Pattern.parse(pattern))
    both = Amounts(layers=2, ffn=0.2)
    yield "--layers 2 --ffn 20%", both
    yield "--layers 2 --ffn 20% --vocab", replace(both, tokens=tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--windows", type=int, default=4, help="of 512 tokens to compare on")
    arguments = parser.parse_args()
    path, prose = arguments.model, "\n\n".join(topics.values())
    text, measure = prose[CHOSEN_ON], Measure(prose[MEASURED_ON], arguments.windows)
    activations = record(path, text, pack=False)
    results: list[dict[str, Any]] = []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, amounts in curves(path, prose):
            target = Path(folder) / "out.gguf"
            done = prune(path, target, amounts, activations.importance, activations.influence)
            tokens = None if amounts.tokens is None else amounts.tokens.tolist()
            found = compare(path, target, measure, tokens)
            sizes = {"parameters": done.parameters_after / done.parameters_before}
            sizes["bytes"] = done.bytes_after / done.bytes_before
            after, loss = found["after"], found["loss"]
            result = {"options": name, "layers": list(done.layers), "zeros": done.zeros, "ratio": sizes}
            results.append(result | found | {"notes": list(done.notes)})
            rise = loss["perplexity"] / loss["reference_perplexity"] - 1
            rows.append(
                [
                    name,
                    *(f"{ratio:.3f}" for ratio in sizes.values()),
                    *(f"{after[key]:.2f}" for key in ("prompt_speedup", "decode_speedup")),
                    f"{loss['perplexity']:.2f}",
                    f"{rise:+.1%}",
                    f"{loss['kl_mean']:.3f}",
                    f"{loss['top1_agreement']:.1%}",
                ]
            )
            print(rows[-1], flush=True)
    columns = ["OPTIONS", "PARAMETERS", "SIZE", "PROMPT", "DECODE", "PERPLEXITY", "RISE", "KL", "SAME BEST"]
    table(columns, rows, right=columns[1:])
    if arguments.out:
        about = {"model": path.name, "machine": machine(), "isa": _core.active_isa()}
        about |= {"python": platform.python_version(), "windows": arguments.windows}
        about |= {"calibrated_on_tokens": activations.tokens, "influence": list(activations.influence)}
        arguments.out.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
