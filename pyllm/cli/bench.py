from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pyllm.cli.options import COUNT, device_options, find_model, json_flag, optional_model, options_named
from pyllm.cli.output import UsageError, note, show_json, status, table
from pyllm.errors import PyllmError

PARTS = ("start", "prompt", "decode")


@click.command()
@optional_model
@click.option(
    "--shape", metavar="NAME:TYPE", help="Random weights instead of MODEL: llama-1b:q4_k_m and others."
)
@click.option("--only", metavar="PARTS", help=f"Some of {', '.join(PARTS)}, with commas; absent: all.")
@click.option("--prompt", default="512", show_default=True, help="Prompt lengths in tokens, with commas.")
@click.option("--gen", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens per sequence.")
@click.option(
    "--batch", default="1,8,32", show_default=True, help="Sequences that decode at once, with commas."
)
@click.option(
    "--depth", default="0", show_default=True, help="Tokens in the context before each test, with commas."
)
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=3, show_default=True, help="Counted runs of a test."
)
@device_options
@json_flag
@click.option("--plot", type=click.Path(path_type=Path), help="Also draw the rates: .png, .svg or .pdf.")
def bench(
    model: str | None,
    shape: str | None,
    only: str | None,
    prompt: str,
    gen: int,
    batch: str,
    depth: str,
    threads: int,
    repeat: int,
    device: str,
    gpu_layers: int | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Measure start, prompts, decoding and memory, beside what the machine can do.

    A batched decode's rate counts all sequences together. Tokens are random; a run that is not counted comes
    before each test. Ctrl-C ends it and shows what was measured. READ and INT8: parts of the ceilings, measured
    before and after, for reading weights (by their size in the file), keys and values, and for the products of
    weights and activations; what fits into the processor's cache may pass 100 %. On a GPU there are none yet.

    --shape: NAME is one of smollm2-135m, llama-1b, llama-3b, llama-8b, mistral-7b, qwen2.5-0.5b, qwen2.5-7b,
    qwen3-0.6b, qwen3-4b, qwen3-8b, gemma3-270m, gemma3-1b; TYPE a mix such as q4_k_m or a type such as q8_0.
    The file is kept in PYLLM_HOME/shapes, which may be deleted.

    --json: {"model", "threads", "isa", "device", "machine", "repeat", "ceilings": {"read_gbps", "int8_tops"},
    "results": [{"test": "prompt" | "decode", "tokens", "batch", "context",
    "tokens_per_second": {"median", "min", "max"}, "of_ceiling": {"read", "int8"}}],
    "start": {"ready_s", "first_token_s", "load_s"}: {"median", "min", "max"}, "memory": {"file_bytes",
    "kv_bytes_per_token", "start_peak_bytes", "run_peak_bytes"}}, and "interrupted": true where it was.

    \b
    Example: pyllm bench smollm2-135m --prompt 512 --gen 128 --batch 1,8,32
             pyllm bench --shape llama-1b:q4_k_m --batch 1 --depth 0,8192,32768
    """
    from pyllm.bench.speed import Test

    parts = _parts(only)
    lengths, batches = _numbers("--prompt", prompt, 1), _numbers("--batch", batch, 1)
    tests = []
    for context in _numbers("--depth", depth, 0):
        if "prompt" in parts:
            tests += [Test("prompt", length, context=context) for length in lengths]
        if "decode" in parts:
            tests += [Test("decode", gen, count, context) for count in batches]
    name, path = _model(model, shape, plot)

    from pyllm import _core
    from pyllm.bench.report import Bench

    where = {"device": device, "gpu_layers": gpu_layers}
    run = Bench(name, path, tests, threads or _core.cpu_threads(), repeat, "start" in parts, where)
    with options_named(("device", "gpu_layers", "threads")):
        interrupted = _run(run)
    report = run.report()
    if interrupted:
        report["interrupted"] = True
    if as_json:
        show_json(report)
    else:
        _print(report)
    if plot is not None and report["results"]:
        from pyllm.bench.plot import plot as draw

        draw(report, plot)
    if interrupted:
        note("interrupted: the figures are of what was measured until then")
        raise click.exceptions.Exit(130)


def _parts(only: str | None) -> tuple[str, ...]:
    if only is None:
        return PARTS
    parts = tuple(part.strip() for part in only.split(","))
    for part in parts:
        if part not in PARTS:
            raise UsageError(f"--only: expected some of {', '.join(PARTS)} with commas between, got {part!r}")
    return parts


def _numbers(option: str, text: str, least: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least or max(numbers) > 1 << 24:
        raise UsageError(
            f"{option}: expected whole numbers from {least} to {1 << 24} with commas between, got {text!r}"
        )
    return list(dict.fromkeys(numbers))


def _model(model: str | None, shape: str | None, plot: Path | None) -> tuple[str, Path]:
    """The name to show and the file to measure. UsageError for what can never be measured or drawn."""
    if shape is not None and model is not None:
        raise UsageError(f"--shape {shape} and MODEL {model}: give one of them")
    name = ""
    try:
        if plot is not None:
            from pyllm.pictures import check_picture

            check_picture(plot)
        if shape is not None:
            from pyllm.shapes.cached import parse_shape, shape_file

            name = parse_shape(shape)[0]
    except PyllmError as error:
        raise UsageError(str(error)) from error
    if shape is not None:
        return name, shape_file(shape, note)
    from pyllm.models import DEFAULT_MODEL

    return model or DEFAULT_MODEL, find_model(model)


def _run(run: Any) -> bool:
    """Whether it was interrupted."""
    try:
        with status() as tell:
            run.run(tell)
    except KeyboardInterrupt:
        return True
    return False


def _print(report: dict[str, Any]) -> None:
    from pyllm.progress import megabytes

    print(f"{report['model']} on {report['device']}: {report['threads']} threads, {report['isa']}")
    if ceilings := report["ceilings"]:
        print(f"ceilings: memory read {ceilings['read_gbps']:.1f} GB/s, int8 {ceilings['int8_tops']:.2f} TOPS")
    if report["results"]:
        rows = []
        for result in report["results"]:
            rate, share = result["tokens_per_second"], result["of_ceiling"]
            numbers = [f"{rate[key]:.1f}" for key in ("median", "min", "max")]
            shares = [f"{share[key]:.0%}" if share else "" for key in ("read", "int8")]
            rows.append(
                [result["test"], result["tokens"], result["batch"], result["context"], *numbers, *shares]
            )
        columns = ["TEST", "TOKENS", "BATCH", "CONTEXT", "TOKENS/S", "MIN", "MAX", "READ", "INT8"]
        print()
        table(columns, rows, right=columns[1:])
    if start := report.get("start"):
        names = {"ready_s": "ready", "first_token_s": "first token"}
        rows = [
            [name, *(f"{start[key][figure]:.2f}" for figure in ("median", "min", "max"))]
            for key, name in names.items()
        ]
        print()
        table(["START OF A PROCESS", "SECONDS", "MIN", "MAX"], rows, right=["SECONDS", "MIN", "MAX"])
    names = {
        "file_bytes": "file",
        "start_peak_bytes": "peak of a start",
        "run_peak_bytes": "peak of the tests",
        "kv_bytes_per_token": "keys and values of a token",
    }
    rows = [[name, megabytes(report["memory"][key])] for key, name in names.items() if key in report["memory"]]
    print()
    table(["MEMORY", "SIZE"], rows, right=["SIZE"])
