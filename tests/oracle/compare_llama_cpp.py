"""Greedy decoding and logits of pyllm beside llama.cpp's, prompt by prompt.

python tests/oracle/compare_llama_cpp.py MODEL.gguf [MODEL.gguf ...] [--tokens 48] [--json OUT]

Both engines compute the prompt followed by llama.cpp's greedy continuation (the same tokens for both), and
every position's logits are compared. Then each continues the prompt greedily by itself; where they part, the
distance between llama.cpp's two best logits tells a near tie from a mistake.
Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from engines import LlamaCpp, Pyllm
from measure import kl_divergence, top_two_gap

PROMPTS = (
    "Once upon a time, in a village by the sea,",
    "The capital of France is",
    "Water boils at a temperature of",
    "def fibonacci(n):\n    ",
    "import numpy as np\n\n# the mean of each column\n",
    "Q: What do bees make?\nA:",
    "The three primary colours are red,",
    "In 1969, the first human being to walk on the Moon was",
    "Dear Sir or Madam,\n\nI am writing to",
    "SELECT name, age FROM users WHERE",
    "Ingredients:\n- 2 eggs\n- 100 g flour\n-",
    "Le petit chat dort sur",
    "Die Hauptstadt von Deutschland ist",
    "El sol sale por",
    "1, 1, 2, 3, 5, 8, 13,",
    "Photosynthesis is the process by which plants",
    "<html>\n<head>\n<title>",
    "To be, or not to be, that is",
    "My favourite season is autumn because",
    '{"name": "Ada", "born": 1815, "known_for":',
)


def compare(path: Path, tokens: int, threads: int) -> dict[str, object]:
    """Runs every prompt through both engines."""
    theirs = LlamaCpp(path, context=512, threads=threads)
    ours = Pyllm(path, context=512, threads=threads)
    prompts = []
    for text in PROMPTS:
        prompt = theirs.tokenize(text)
        continuation = theirs.greedy(prompt, tokens)
        line = prompt + continuation
        a, b = theirs.logits(line), ours.logits(line)
        kl = kl_divergence(a, b)
        same = a.argmax(axis=1) == b.argmax(axis=1)
        gap = top_two_gap(a)
        own = ours.greedy(prompt, tokens)
        parted = None
        if own != continuation:
            pairs = enumerate(zip(continuation, own, strict=False))
            parted = next((i for i, (x, y) in pairs if x != y), min(len(own), len(continuation)))
        prompts.append(
            {
                "prompt": text,
                "positions": len(line),
                "kl_mean": float(kl.mean()),
                "kl_max": float(kl.max()),
                "max_difference": float(np.abs(a - b).max()),
                "top1_agreed": int(same.sum()),
                "largest_gap_missed": float(gap[~same].max()) if not same.all() else 0.0,
                "greedy_tokens": len(continuation),
                "greedy_equal": len(continuation) if parted is None else parted,
                "gap_where_parted": None if parted is None else float(gap[len(prompt) - 1 + parted]),
            }
        )
    positions = sum(p["positions"] for p in prompts)
    return {
        "model": path.name,
        "prompts": prompts,
        "positions": positions,
        "kl_mean": sum(p["kl_mean"] * p["positions"] for p in prompts) / positions,
        "kl_max": max(p["kl_max"] for p in prompts),
        "top1_agreement": sum(p["top1_agreed"] for p in prompts) / positions,
        "largest_gap_missed": max(p["largest_gap_missed"] for p in prompts),
        "greedy_identical": sum(p["gap_where_parted"] is None for p in prompts),
        "greedy_tokens_before_parting": sum(p["greedy_equal"] for p in prompts)
        / sum(p["greedy_tokens"] for p in prompts),
    }


def show(report: dict[str, object]) -> None:
    """Prints one model's report."""
    print(report["model"])
    for p in report["prompts"]:
        greedy = f"greedy equal ({p['greedy_tokens']})"
        if p["gap_where_parted"] is not None:
            greedy = f"greedy parts at {p['greedy_equal']}, llama.cpp's gap there {p['gap_where_parted']:.3f}"
        print(
            f"  KL mean {p['kl_mean']:.1e} max {p['kl_max']:.1e}  top-1 {p['top1_agreed']}/{p['positions']}  "
            f"{greedy}  {p['prompt'][:32]!r}"
        )
    print(
        f"  all: {report['positions']} positions, KL mean {report['kl_mean']:.2e} max {report['kl_max']:.2e}, "
        f"top-1 {100 * report['top1_agreement']:.2f} %, largest gap missed {report['largest_gap_missed']:.3f}, "
        f"{report['greedy_identical']} of {len(report['prompts'])} continuations identical"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    reports = []
    for path in args.models:
        reports.append(compare(path, args.tokens, args.threads))
        show(reports[-1])
    if args.json:
        args.json.write_text(json.dumps(reports, indent=1) + "\n")


if __name__ == "__main__":
    main()
