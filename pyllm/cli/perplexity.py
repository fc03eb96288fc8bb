from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from pyllm.cli.options import COUNT, engine_options, find_model, json_flag, model_argument, open_model
from pyllm.cli.output import decoded, fields, read_text, show_json


@click.command()
@model_argument
@click.option(
    "-f",
    "--file",
    "text_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    required=True,
    help="The text; - for standard input.",
)
@click.option("--reference", metavar="MODEL", help="Also tell how far MODEL is from this one.")
@click.option("--window", type=COUNT, default=512, show_default=True, help="Tokens in a window.")
@click.option("--windows", type=COUNT, default=0, help="Score so many windows at most; absent: the whole text.")
@engine_options
@json_flag
def perplexity(
    model: str,
    text_file: Path,
    reference: str | None,
    window: int,
    windows: int,
    as_json: bool,
    **engine: Any,
) -> None:
    """Tell how well MODEL predicts a text, and what it lost beside a reference.

    Windows do not overlap; the second half of each is scored, as llama.cpp's perplexity tool does it.

    --json: {"perplexity", "stderr", "tokens", "window", "windows"}, with --reference also
    {"reference_perplexity", "kl_mean", "kl_stderr", "kl_median", "kl_p99", "kl_max", "top1_agreement",
    "probability_change": {"mean", "rms"}}. Divergences are in nats.

    \b
    Example: pyllm perplexity small.gguf -f text.txt --reference large.gguf
    """
    from pyllm.perplexity import perplexity as measure

    given = str(text_file)
    text = read_text("-", "") if given == "-" else decoded(text_file.read_bytes(), given)
    engine["context"] = engine["context"] or window
    with ExitStack() as stack:

        def opened(name: str) -> Any:
            return stack.enter_context(open_model(find_model(name), prefix_cache=False, **engine))

        llm = opened(model)
        report = measure(
            llm,
            text,
            reference=opened(reference) if reference else None,
            window=window,
            windows=windows,
            done=_tell if sys.stderr.isatty() else lambda count, of, value: None,
        )
    if as_json:
        show_json(report)
        return
    _print(report)


def _tell(count: int, of: int, value: float) -> None:
    end = "\n" if count == of else ""
    print(f"\rwindow {count} of {of}: perplexity {value:.4f}", end=end, file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    lines: list[tuple[str, object]] = [
        ("perplexity", f"{report['perplexity']:.4f} +- {report['stderr']:.4f}"),
        ("tokens", f"{report['tokens']:,} in {report['windows']} windows of {report['window']}"),
    ]
    if "kl_mean" in report:
        lost = report["perplexity"] / report["reference_perplexity"] - 1
        change = report["probability_change"]
        lines += [
            ("reference", f"{report['reference_perplexity']:.4f} ({lost:+.2%})"),
            ("KL divergence", f"{report['kl_mean']:.6f} +- {report['kl_stderr']:.6f} nats"),
            (
                "  median, 99 %, max",
                f"{report['kl_median']:.6f}, {report['kl_p99']:.6f}, {report['kl_max']:.6f}",
            ),
            ("same best token", f"{report['top1_agreement']:.2%}"),
            ("probability change", f"mean {change['mean']:+.4%}, rms {change['rms']:.4%}"),
        ]
    fields(lines)
