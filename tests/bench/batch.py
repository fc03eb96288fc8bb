"""`pyllm batch` on rows of mixed lengths, beside `pyllm bench` and a loop over llama-cpp-python, in one run.

    python tests/bench/batch.py smollm2-135m --rows 1000 --llama-python ORACLE_VENV/bin/python

Rows are prompts of 8 to 200 words with answers of 16 to 160 tokens, greedy, never ended early. Prints JSON:
- pyllm: seconds of the job without the model's loading, tokens per second of answers.
- bench: rates of a prompt and of decoding 32 and 64 sequences, measured before and after.
- of_bench: the time that reading the job's prompts and decoding its answers takes at bench's rates (the better
  of both batches), over the time that the job took. 1 is as fast as bench.
- llama_cpp: the same rows one by one, the first --llama-rows of them; ratio: of both rates over all tokens.

Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from words import WORDS

from pyllm.bench.speed import Speed, Test
from pyllm.llm import LLM
from pyllm.models import resolve

LLAMA = """
import json, sys, time
import llama_cpp
model, rows, count, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) or None
llm = llama_cpp.Llama(model, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
llm.create_completion("warm up", max_tokens=4)
prompt_tokens = tokens = 0
started = time.perf_counter()
for row in [json.loads(line) for line in open(rows)][:count]:
    bias = {llm.token_eos(): -1e9}
    done = llm.create_completion(row["prompt"], max_tokens=row["max_tokens"], temperature=0.0, logit_bias=bias)
    prompt_tokens += done["usage"]["prompt_tokens"]
    tokens += done["usage"]["completion_tokens"]
seconds = time.perf_counter() - started
print(json.dumps({"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "seconds": seconds}))
"""


def write_rows(path: Path, count: int) -> None:
    source = random.Random(0)
    with path.open("w") as file:
        for _ in range(count):
            text = " ".join(source.choice(WORDS) for _ in range(source.randrange(8, 200)))
            row = {
                "prompt": text,
                "max_tokens": source.randrange(16, 161),
                "temperature": 0.0,
                "ignore_eos": True,
            }
            file.write(json.dumps(row) + "\n")


def bench_rates(model: Path, threads: int) -> dict[str, float]:
    with LLM(model, threads=threads) as llm:
        speed, rates = Speed(llm), {}
        tests = [Test("prompt", 512), Test("decode", 64, 32, 96), Test("decode", 64, 64, 96)]
        for test in tests:
            speed.warm_up(test)
            rates[str(test)] = statistics.median(speed.rate(test) for _ in range(3))
        return rates


def run_batch(model: Path, rows: Path, folder: Path, options: list[str]) -> Any:
    fixed = ["-o", str(folder / "out.jsonl"), "--overwrite", "--model", str(model), "--json"]
    command = [sys.executable, "-m", "pyllm", "batch", str(rows), *fixed, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=folder).stdout)


def rate(figures: Any) -> float:
    """Tokens per second of prompts and answers together."""
    return float((figures["prompt_tokens"] + figures["completion_tokens"]) / figures["seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--max-sequences", default="64")
    parser.add_argument("--llama-python", help="of a virtual environment with llama-cpp-python")
    parser.add_argument("--llama-rows", type=int, default=100)
    args = parser.parse_args()
    model, folder = resolve(args.model), Path(tempfile.mkdtemp())
    rows = folder / "rows.jsonl"
    write_rows(rows, args.rows)
    before = bench_rates(model, args.threads)
    options = ["--threads", str(args.threads), "--max-sequences", args.max_sequences]
    done = run_batch(model, rows, folder, options)
    after = bench_rates(model, args.threads)
    rates = {name: round((value + after[name]) / 2, 1) for name, value in before.items()}
    prompt, *decode = rates.values()
    expected_s = done["prompt_tokens"] / prompt + done["completion_tokens"] / max(decode)
    report: dict[str, Any] = {"rows": args.rows, "pyllm": done, "bench": rates}
    report["of_bench"] = round(expected_s / done["seconds"], 3)
    if args.llama_python:
        time.sleep(2)
        command = [
            args.llama_python,
            "-c",
            LLAMA,
            str(model),
            str(rows),
            str(args.llama_rows),
            str(args.threads),
        ]
        llama = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        report |= {"llama_cpp": llama, "ratio": round(rate(done) / rate(llama), 2)}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
