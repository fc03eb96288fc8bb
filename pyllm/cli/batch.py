from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import (
    engine_options,
    find_model,
    json_flag,
    open_model,
    read_file,
    sampling_options,
    sampling_params,
)
from pyllm.cli.output import UsageError, note, read_text, show_json

if TYPE_CHECKING:
    from pyllm.batch.done import DoneRows
    from pyllm.batch.forms import Forms
    from pyllm.batch.input import Input
    from pyllm.batch.job import Counts, Plan
    from pyllm.batch.output import Output, StreamOutput
    from pyllm.llm import LLM

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("rows", metavar="[INPUT]", default="-")
@click.option("-o", "--output", type=PATH, help="Where answers go; absent: standard output.")
@click.option("--model", help="Answers all rows, whatever model they name; absent: smollm2-135m.")
@click.option("--errors", type=PATH, help="Where rows that failed go; absent: among the answers.")
@click.option("--ordered", is_flag=True, help="Keep the order of the input.")
@click.option("--resume", is_flag=True, help="Go on with --output, which must be there; else it may be.")
@click.option("--overwrite", is_flag=True, help="Start anew, whatever --output holds.")
@click.option("--lines", is_flag=True, help="Every line of the input is a prompt.")
@click.option("--csv", "as_csv", is_flag=True, help="The input is a table; so are files named .csv, .tsv.")
@click.option("--template", help="Jinja that makes a prompt of a row's columns; @FILE reads it.")
@click.option("--chat", is_flag=True, help="Put prompts into the model's chat template.")
@click.option("--system", help="A system message for prompts; implies --chat.")
@click.option("--schema", type=PATH, help="File of a JSON schema that all answers must fit.")
@click.option("--max-sequences", type=click.IntRange(1, 512), default=64, help="Answers at once.  [64]")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0, 86400),
    default=30.0,
    help="Seconds that running rows have after SIGTERM.  [30]",
)
@sampling_options
@engine_options
@json_flag
def batch(
    rows: str,
    output: Path | None,
    model: str | None,
    errors: Path | None,
    ordered: bool,
    resume: bool,
    overwrite: bool,
    lines: bool,
    as_csv: bool,
    template: str | None,
    chat: bool,
    system: str | None,
    schema: Path | None,
    max_sequences: int,
    drain_timeout: float,
    as_json: bool,
    sampling: dict[str, Any],
    **engine: Any,
) -> None:
    """Answer every row of INPUT (- or absent: standard input), many at a time. No row is lost or done twice:
    after Ctrl-C, a crash or a full disk, the same command goes on where OUTPUT ends.

    \b
    INPUT, one row a line, blank ones passed over:
      {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {...}}
          OpenAI's batch form, also for /v1/completions, /v1/embeddings and /v1/responses;
      {"prompt": "Once"} or {"messages": [...]} or {"input": "to embed"}
          with any field of a request (max_tokens, seed, ...) and custom_id if you like;
      with --lines plain text; CSV with a column prompt, or any columns and --template.

    OUTPUT: OpenAI's form for rows of OpenAI's form. For others {"id", "row", "custom_id", "text",
    "finish_reason", "usage"}; row is the line of INPUT (in CSV, the row after the heading). A row that fails is
    {"id", "row", "error": {"code", "message", "row"}} there or in --errors. Nothing depends on when or beside
    what a row runs: rows without a seed draw from one made of --seed (absent: 0), their number and their text.

    Sampling options are for rows that say nothing themselves. The first Ctrl-C ends the job at once, SIGTERM
    lets running rows finish. The exit code is 0 when every row has its answer or its error.

    --json: {"rows", "failed", "skipped", "prompt_tokens", "completion_tokens", "seconds", "tokens_per_second",
    "finished"}; skipped rows were done before.

    \b
    Example: pyllm batch requests.jsonl -o answers.jsonl
             pyllm batch reviews.csv -o out.jsonl --template "Summarise: {{ text }}" --chat
    """
    if output is None and (as_json or resume or overwrite):
        raise UsageError("--json, --resume and --overwrite need an output file: -o FILE")
    if resume and overwrite:
        raise UsageError("--resume and --overwrite: give one of them")
    if output is not None and output == errors:
        raise UsageError(f"--errors {errors}: is the output; leave it out to have errors among the answers")
    if resume and output is not None and not output.exists():
        raise UsageError(f"--resume: {output} is not there")

    from pyllm.batch.input import Input
    from pyllm.batch.job import Counts, Plan, recovered
    from pyllm.batch.source import rows_left

    given = sampling_params(model, sampling)  # UsageError for impossible values
    chosen = {name: getattr(given, name) for name, value in sampling.items() if value not in (None, ())}
    seed = chosen.pop("seed", None) or 0
    forms = _forms(rows, lines, as_csv, template, chat, system, schema, chosen.get("max_tokens"))
    source = Input(rows, forms.kind)
    path = find_model(model)
    name, defaults = _name_and_defaults(model, path)
    deciding = [engine[option] for option in ("context", "kv_type", "precise", "device", "gpu_layers")]
    job = _job_name(path, forms, name, {**defaults, **chosen}, seed, *deciding)
    plan = Plan(
        source.records,
        forms,
        _output(output, source, job, overwrite),
        job,
        _errors(errors, source, job, overwrite),
        ordered,
        lambda: max_sequences + max_sequences // 4,  # some wait in the engine: no place is free for a step
    )
    done = recovered(plan)
    if source.rereadable and not rows_left(source.records, done):
        _show(Counts(skipped=done.count, finished=True), output, as_json)
        return
    with open_model(path, **engine, max_sequences=max_sequences) as llm:
        ended = _run(plan, done, llm, name, {**defaults, **chosen}, seed, drain_timeout, source.size)
    if ended.counts.finished and not ended.counts.rows + ended.counts.skipped:
        raise source.empty()
    _show(ended.counts, output, as_json)
    if ended.signal:
        sys.exit(128 + ended.signal)


@dataclass(frozen=True)
class _Ended:
    counts: Counts
    signal: int  # that ended it early


def _run(
    plan: Plan,
    done: DoneRows,
    llm: LLM,
    name: str,
    defaults: Mapping[str, Any],
    seed: int,
    drain_timeout: float,
    size: int,
) -> _Ended:
    import asyncio
    import signal

    from pyllm.batch.job import Job
    from pyllm.batch.progress import batch_progress
    from pyllm.server.engine import AsyncEngine
    from pyllm.server.log import Log
    from pyllm.server.offline import Offline
    from pyllm.server.options import ServeOptions
    from pyllm.server.served import ServedModel
    from pyllm.server.service import Service

    _ = llm.template  # compiled now
    signals = []

    async def run() -> Counts:
        service = Service(ServeOptions(), [], Log("none"))
        served = ServedModel(name, AsyncEngine(llm, asyncio.get_running_loop()), defaults)
        progress = batch_progress(size)
        offline = Offline(service, served, any_model=True, seed=seed)

        def show(counts: Counts) -> None:
            counts.computed = llm.stats()["tokens_computed"]
            progress.update(counts)

        job = Job(plan, done, offline, show)

        def stop(number: int, within_s: float) -> None:
            signals.append(number)
            job.stop(within_s)

        loop = asyncio.get_running_loop()
        for number, within_s in ((signal.SIGINT, 0.0), (signal.SIGTERM, drain_timeout)):
            loop.add_signal_handler(number, stop, number, within_s)
        try:
            return await job.run()
        finally:
            progress.close()
            if offline.other_models:
                named = ", ".join(repr(other) for other in sorted(offline.other_models))
                note(f"rows that name {named:.200} were answered by {name}, as this job has one model")

    counts = asyncio.run(run())
    return _Ended(counts, 0 if counts.finished else signals[-1])


def _forms(
    rows: str,
    lines: bool,
    as_csv: bool,
    template: str | None,
    chat: bool,
    system: str | None,
    schema: Path | None,
    max_tokens: int | None,
) -> Forms:
    from pyllm.batch.forms import Forms

    as_csv = as_csv or (not lines and rows.lower().endswith((".csv", ".tsv")))
    if lines and (as_csv or template):
        raise UsageError(f"--lines and {'--csv' if as_csv else '--template'}: give one of them")
    if template is not None and template.startswith("@"):
        template = read_file("--template", template[1:])
    return Forms(
        "csv" if as_csv else "lines" if lines else "jsonl",
        template or "",
        chat or system is not None,
        read_text(system, "--system") if system else "",
        _schema(schema) if schema else None,
        max_tokens,
    )


def _schema(path: Path) -> dict[str, Any]:
    text = read_file("--schema", path)
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--schema {path}: not JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UsageError(f"--schema {path}: expected a JSON object, found {type(schema).__name__}")
    return schema


def _output(path: Path | None, source: Input, job: str, overwrite: bool) -> Output | StreamOutput:
    from pyllm.batch.output import StreamOutput

    return _errors(path, source, job, overwrite) or StreamOutput()


def _errors(path: Path | None, source: Input, job: str, overwrite: bool) -> Output | None:
    from pyllm.batch.output import Output

    if path is None:
        return None
    output = Output(path, job, overwrite)
    if output.identity == source.identity:
        raise UsageError(f"{path}: is the input")
    return output


def _job_name(path: Path, forms: Forms, *options: Any) -> str:
    """Eight digits for what answers depend on beside their rows."""
    from pyllm.batch.input import file_identity
    from pyllm.batch.row import key_of

    told = json.dumps([file_identity(path), forms.fingerprint(), *options], sort_keys=True)
    return key_of(told.encode(), digits=8)


def _name_and_defaults(model: str | None, path: Path) -> tuple[str, Mapping[str, Any]]:
    from pyllm.models import manifest_of

    manifest = manifest_of(model)
    return (manifest.name, manifest.defaults) if manifest else (path.stem, {})


def _show(counts: Counts, output: Path | None, as_json: bool) -> None:
    from pyllm.batch.progress import described, duration

    if as_json:
        names = ("rows", "failed", "skipped", "prompt_tokens", "completion_tokens")
        figures = {name: getattr(counts, name) for name in names}
        seconds = {"seconds": round(counts.seconds, 3), "tokens_per_second": round(counts.tokens_per_second, 2)}
        show_json({**figures, **seconds, "finished": counts.finished})
    before = f", {counts.skipped:,} of them done before" if counts.skipped else ""
    place = f" in {output}" if output else ""
    if counts.finished:
        note(f"all rows done{place}: {described(counts)}{before}, {duration(counts.seconds)}")
    else:
        note(f"ended early: {described(counts)}{before}; the same command goes on from there")
