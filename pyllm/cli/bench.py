from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.doctor import cpu_name
from pyllm.cli.options import COUNT, find_model, json_flag, optional_model
from pyllm.cli.output import UsageError, show_json, table

if TYPE_CHECKING:
    from pyllm.llm import LLM


@click.command()
@optional_model
@click.option("--prompt", default="512", show_default=True, help="Prompt lengths in tokens, with commas.")
@click.option("--gen", type=click.IntRange(min=2), default=128, show_default=True, help="Tokens per sequence.")
@click.option(
    "--batch", default="1,8,32", show_default=True, help="Sequences that decode at once, with commas."
)
@click.option("--depth", type=COUNT, default=0, help="Tokens in the context before decoding starts.")
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Counted runs of a test."
)
@json_flag
def bench(
    model: str | None,
    prompt: str,
    gen: int,
    batch: str,
    depth: int,
    threads: int,
    repeat: int,
    as_json: bool,
) -> None:
    """Measure reading of prompts and decoding, and the machine's ceilings in the same run.

    A batched decode's rate counts all sequences together. Prompts are random tokens, new in every run; a
    run that is not counted comes before each test.

    --json: {"model", "threads", "isa", "device", "ceilings": {"read_gbps", "int8_tops"},
    "results": [{"test": "prompt" | "decode", "tokens", "batch", "context",
    "tokens_per_second": {"median", "min", "max"}}]}

    Example: pyllm bench smollm2-135m --prompt 512 --gen 128 --batch 1,8,32
    """
    lengths, batches = _numbers("--prompt", prompt), _numbers("--batch", batch)
    path = find_model(model)
    from pyllm import _core
    from pyllm.llm import LLM
    from pyllm.models import DEFAULT_MODEL

    threads = threads or _core.cpu_threads()
    report: dict[str, Any] = {
        "model": model or DEFAULT_MODEL,
        "threads": threads,
        "isa": _core.active_isa(),
        "device": cpu_name(),
        "ceilings": _core.measure_ceilings(threads),
        "results": [],
    }
    needed = max([*lengths, depth + gen]) + 1
    with LLM(path, threads=threads, context=needed, max_sequences=max(batches), prefix_cache=False) as llm:
        tests = [("prompt", length, 1, 0) for length in lengths] + [("decode", gen, b, depth) for b in batches]
        source = random.Random(0)
        for test, tokens, sequences, context in tests:
            rates = [_rate(llm, source, test, tokens, sequences, context) for _ in range(repeat + 1)][1:]
            report["results"].append(
                {
                    "test": test,
                    "tokens": tokens,
                    "batch": sequences,
                    "context": context,
                    "tokens_per_second": {
                        "median": round(statistics.median(rates), 2),
                        "min": round(min(rates), 2),
                        "max": round(max(rates), 2),
                    },
                }
            )
    if as_json:
        show_json(report)
    else:
        _print(report)


def _rate(llm: LLM, source: random.Random, test: str, tokens: int, sequences: int, context: int) -> float:
    """Tokens per second of one run."""
    from pyllm.sampling import SamplingParams

    length = tokens if test == "prompt" else max(1, context)
    prompts = [[source.randrange(llm.tokenizer.vocab_size) for _ in range(length)] for _ in range(sequences)]
    count = 1 if test == "prompt" else tokens
    done = llm.generate(prompts, SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True))
    if test == "prompt":
        return done[0].timings.prompt_tokens_per_second
    return sum(completion.timings.decode_tokens_per_second for completion in done)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option}: expected whole numbers above 0 with commas between, got {text!r}")
    return numbers


def _print(report: dict[str, Any]) -> None:
    ceilings = report["ceilings"]
    print(f"{report['model']} on {report['device']}: {report['threads']} threads, {report['isa']}")
    print(f"ceilings: memory read {ceilings['read_gbps']:.1f} GB/s, int8 {ceilings['int8_tops']:.2f} TOPS\n")
    rows = []
    for result in report["results"]:
        rate = result["tokens_per_second"]
        numbers = [f"{rate[key]:.1f}" for key in ("median", "min", "max")]
        rows.append([result["test"], result["tokens"], result["batch"], result["context"], *numbers])
    columns = ["TEST", "TOKENS", "BATCH", "CONTEXT", "TOKENS/S", "MIN", "MAX"]
    table(columns, rows, right=columns[1:])
