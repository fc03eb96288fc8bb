from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from pyllm.cli.options import COUNT, engine_options, find_model, json_flag, open_model
from pyllm.cli.output import decoded, fields, read_text, show_json, table


@click.command()
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
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
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Also draw sizes against losses: .png, .svg or .pdf."
)
@engine_options
@json_flag
def perplexity(
    models: tuple[str, ...],
    text_file: Path,
    reference: str | None,
    window: int,
    windows: int,
    plot: Path | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Tell how well MODEL predicts a text, and what it lost beside a reference. Several are measured in turn.

    Windows do not overlap; the second half of each is scored, as llama.cpp's perplexity tool does it.

    --json: {"model", "file_bytes", "perplexity", "stderr", "tokens", "window", "windows"}, with --reference
    also {"reference_perplexity", "kl_mean", "kl_stderr", "kl_median", "kl_p99", "kl_max", "top1_agreement",
    "probability_change": {"mean", "rms"}}. Divergences are in nats. Of several MODELs {"models": [one each]}.

    \b
    Example: pyllm perplexity small.gguf -f text.txt --reference large.gguf
             pyllm perplexity q3.gguf q4.gguf q6.gguf -f text.txt --reference f16.gguf --plot curve.png
    """
    from pyllm.perplexity import perplexity as measure
    from pyllm.perplexity import plot as draw

    if plot:
        from pyllm.pictures import check_picture

        check_picture(plot)
    given = str(text_file)
    text = read_text("-", "") if given == "-" else decoded(text_file.read_bytes(), given)
    engine["context"] = engine["context"] or window
    paths = [find_model(name) for name in models]
    reports = []
    with ExitStack() as stack:

        def opened(path: Path) -> Any:
            return open_model(path, prefix_cache=False, **engine)

        truth = stack.enter_context(opened(find_model(reference))) if reference else None
        for name, path in zip(models, paths, strict=True):
            with opened(path) as llm:
                tell = _teller(f"{name}: " if len(models) > 1 else "")
                report = measure(llm, text, reference=truth, window=window, windows=windows, done=tell)
            reports.append({"model": name, "file_bytes": _size(path)} | report)
    if plot:
        draw(reports, plot)
    if as_json:
        show_json(reports[0] if len(reports) == 1 else {"models": reports})
    elif len(reports) == 1:
        _print(reports[0])
    else:
        _table(reports)


def _size(path: Path) -> int:
    from pyllm._core import GgufFile

    return GgufFile(str(path)).file_bytes  # of all its parts


def _teller(name: str) -> Callable[[int, int, float], None]:
    def tell(count: int, of: int, value: float) -> None:
        end = "\n" if count == of else ""
        print(f"\r{name}window {count} of {of}: perplexity {value:.4f}", end=end, file=sys.stderr, flush=True)

    return tell if sys.stderr.isatty() else lambda count, of, value: None


def _table(reports: Sequence[dict[str, Any]]) -> None:
    from pyllm.progress import megabytes

    columns = ["MODEL", "SIZE", "PERPLEXITY", *(["LOST", "KL", "SAME BEST"] * ("kl_mean" in reports[0]))]
    rows: list[list[object]] = []
    for report in reports:
        row: list[object] = [report["model"], megabytes(report["file_bytes"])]
        row.append(f"{report['perplexity']:.4f} +- {report['stderr']:.4f}")
        if "kl_mean" in report:
            row.append(f"{report['perplexity'] / report['reference_perplexity'] - 1:+.2%}")
            row += [f"{report['kl_mean']:.6f} +- {report['kl_stderr']:.6f}", f"{report['top1_agreement']:.2%}"]
        rows.append(row)
    table(columns, rows, right=columns[1:])


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
