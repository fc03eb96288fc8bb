"""What a constraint costs: decoding with one over decoding without, in pairs of runs taken in turns.

    python tests/bench/constrained.py smollm2-135m --batch 1,8 --gen 128

Prints one JSON document: per batch and constraint the median, lowest and highest ratio of tokens per second (1:
as fast), and the unconstrained speed. Constrained requests are to reach 0.9.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

from pyllm import LLM, Constraint, SamplingParams

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "email": {"type": "string", "format": "email"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "email", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = {
    "json schema": Constraint.json({"type": "array", "items": PERSON, "minItems": 10_000}),
    "any json": Constraint.json({"type": "array", "minItems": 10_000}),
    "regex": Constraint.regex("([A-Z][a-z]{1,12} ){10000}"),
    "grammar": Constraint.grammar('root ::= line{10000}\nline ::= [a-z]+ " = " [0-9]+ ("+" [0-9]+)* "\\n"\n'),
}


def rate(llm: LLM, prompts: list[str], params: SamplingParams) -> float:
    """Tokens per second of all sequences together after the first one's first token."""
    times = []
    for _, piece in llm._run([llm.job(llm.tokenizer.encode(prompt), params) for prompt in prompts]):
        times += [time.perf_counter()] * len(piece.token_ids)
    return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--gen", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    results = []
    with LLM(options.model, threads=options.threads) as llm:
        free = SamplingParams(max_tokens=options.gen, ignore_eos=True, seed=1)
        for batch in map(int, options.batch.split(",")):
            prompts = [f"List number {i}, people as JSON: " for i in range(batch)]
            for name, constraint in CONSTRAINTS.items():
                bound = replace(free, constraint=constraint)
                rate(llm, prompts, bound)  # compiles it
                pairs = [(rate(llm, prompts, free), rate(llm, prompts, bound)) for _ in range(options.pairs)]
                ratios = [bound_rate / free_rate for free_rate, bound_rate in pairs]
                results.append(
                    {
                        "batch": batch,
                        "constraint": name,
                        "ratio": {
                            "median": round(statistics.median(ratios), 3),
                            "min": round(min(ratios), 3),
                            "max": round(max(ratios), 3),
                        },
                        "free_tokens_per_second": round(statistics.median(pair[0] for pair in pairs), 1),
                    }
                )
    print(json.dumps({"gen": options.gen, "pairs": options.pairs, "results": results}, indent=1))


if __name__ == "__main__":
    main()
