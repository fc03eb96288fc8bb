"""KL divergence of pyllm and of llama.cpp from an independent float32 forward of the same dequantized weights.

python tests/oracle/kl_vs_float32.py MODEL.gguf [MODEL.gguf ...] [--tokens 2000] [--chunk 500] [--json OUT]

Needs torch, transformers, gguf and llama-cpp-python; pyllm must be importable unless `--engines llama.cpp`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from engines import LlamaCpp, Pyllm, PyllmPrecise
from measure import kl_divergence, log_softmax, top_two_gap
from reference import Float32

TEXT = Path(__file__).with_name("text.txt")
ENGINES = {"llama.cpp": LlamaCpp, "pyllm": Pyllm, "pyllm-precise": PyllmPrecise}


def evaluate(
    path: Path, names: list[str], text: str, tokens: int, chunk: int, threads: int
) -> dict[str, object]:
    """Scores each engine on the first `tokens` tokens of `text`, computed in independent chunks.

    Each chunk follows the model's begin token, if it has one, which is not scored itself.
    """
    engines = [ENGINES[name](path, context=max(chunk + 8, 512), threads=threads) for name in names]
    tokenizer = LlamaCpp(path, context=512)
    ids, begin = tokenizer.tokenize(text, special=False), tokenizer.tokenize("")
    if len(ids) < tokens:
        raise SystemExit(f"the text has {len(ids)} tokens for {path.name}, --tokens asks for {tokens}")
    reference = Float32(path)
    agreed: dict[str, list[np.ndarray]] = {name: [] for name in names}
    kl: dict[str, list[np.ndarray]] = {name: [] for name in names}
    gaps: dict[str, list[np.ndarray]] = {name: [] for name in names}
    loss = []
    for first in range(0, tokens, chunk):
        part = ids[first : min(first + chunk, tokens)]
        truth = reference.logits(begin + part)[len(begin) :]
        best, gap = truth.argmax(axis=1), top_two_gap(truth)
        nats = log_softmax(truth[:-1])
        loss.append(-nats[np.arange(len(part) - 1), part[1:]])
        del nats
        for engine in engines:
            logits = engine.logits(begin + part)[len(begin) :]
            kl[engine.name].append(kl_divergence(truth, logits))
            same = logits.argmax(axis=1) == best
            agreed[engine.name].append(same)
            gaps[engine.name].append(gap[~same])
    report: dict[str, object] = {
        "model": path.name,
        "tokens": tokens,
        "chunk": chunk,
        "float32_perplexity": float(np.exp(np.concatenate(loss).mean())),
    }
    for name in names:
        values, same, gap = map(np.concatenate, (kl[name], agreed[name], gaps[name]))
        report[name] = {
            "kl_mean": float(values.mean()),
            "kl_stderr": float(values.std(ddof=1) / np.sqrt(len(values))),
            "kl_median": float(np.median(values)),
            "kl_p99": float(np.quantile(values, 0.99)),
            "kl_max": float(values.max()),
            "top1_agreement": float(same.mean()),
            "largest_gap_missed": float(gap.max()) if len(gap) else 0.0,
        }
    if len(names) == 2:
        one, two = (np.concatenate(kl[name]) for name in ("pyllm", "llama.cpp"))
        pick = np.random.default_rng(0).integers(0, len(one), (2000, len(one)))
        ratios = one[pick].mean(axis=1) / two[pick].mean(axis=1)
        report["kl_ratio"] = float(one.mean() / two.mean())
        report["kl_ratio_95"] = [float(np.quantile(ratios, q)) for q in (0.025, 0.975)]
    return report


def show(report: dict[str, object], names: list[str]) -> None:
    """Prints one model's report."""
    print(f"{report['model']}: {report['tokens']} tokens in chunks of {report['chunk']}, ", end="")
    print(f"float32 perplexity {report['float32_perplexity']:.3f}")
    for name in names:
        r = report[name]
        print(
            f"  {name:10} KL mean {r['kl_mean']:.3e} (+- {r['kl_stderr']:.1e}) median {r['kl_median']:.3e} "
            f"p99 {r['kl_p99']:.3e} max {r['kl_max']:.3e}  top-1 {100 * r['top1_agreement']:.2f} % "
            f"(largest gap missed {r['largest_gap_missed']:.3f})"
        )
    if "kl_ratio" in report:
        low, high = report["kl_ratio_95"]
        print(f"  KL of pyllm / KL of llama.cpp: {report['kl_ratio']:.3f} (95 %: {low:.3f} to {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--chunk", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="pyllm,llama.cpp")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = args.engines.split(",")
    text = args.text.read_text(encoding="utf-8")
    reports = []
    for path in args.models:
        reports.append(evaluate(path, names, text, args.tokens, args.chunk, args.threads))
        show(reports[-1], names)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
