from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import COUNT, find_model, json_flag
from pyllm.cli.output import UsageError, decoded, fields, note, show_json, status, table
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.prune.goal import Figure, Goal
    from pyllm.prune.prune import Amounts

TEXT = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--layers", type=COUNT, default=0, help="Take out so many layers.")
@click.option(
    "--ffn", metavar="PERCENT", default="", help="Take out this part of the feed-forward channels, as 25%."
)
@click.option(
    "--heads", type=COUNT, default=0, help="Take out so many KV heads of each layer, with their queries."
)
@click.option("--vocab", type=TEXT, help="Keep the tokens that this text takes; others can still be spelt.")
@click.option("--sparsity", metavar="PATTERN", default="", help="Make weights 0: 50%, or 2:4 (2 of every 4).")
@click.option("--calibrate", type=TEXT, help="A text of the kind that the model is for: it tells what matters.")
@click.option(
    "--max-loss", metavar="LOSS", help="Take out less: as much as keeps the loss within this, such as 5%."
)
@click.option(
    "--loss",
    type=click.Choice(["perplexity", "kl", "top1"]),
    default="perplexity",
    show_default=True,
    help="What --max-loss is of: kl in nats, top1 in other best tokens.",
)
@click.option("--measure", type=TEXT, help="Text to compare with; absent: the last quarter of --calibrate's.")
@click.option(
    "--windows", type=COUNT, default=16, show_default=True, help="Of 512 tokens to compare on; 0: all."
)
@click.option("--no-compare", is_flag=True, help="Only write OUTPUT; measure nothing.")
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@json_flag
def prune(
    model: str,
    output: Path,
    layers: int,
    ffn: str,
    heads: int,
    vocab: Path | None,
    sparsity: str,
    calibrate: Path | None,
    max_loss: str | None,
    loss: Figure,
    measure: Path | None,
    windows: int,
    no_compare: bool,
    threads: int,
    as_json: bool,
) -> None:
    """Write MODEL without the parts that matter least, and tell what that cost and brought.

    \b
    --layers N    whole layers, by block influence: how little they change what flows through
    --ffn 25%     hidden channels, by activation times weight; at least so many, in steps of 32 (or a block)
    --heads N     KV heads with their query heads, in the same way
    --vocab TEXT  tokens that the text does not take; control tokens and all bytes stay
    --sparsity    single weights become 0 (Wanda): neither smaller nor faster, for kernels that use it

    All but --vocab need --calibrate. What is left of a quantized matrix stays as it is where its blocks allow,
    otherwise it is quantized again, which is told. With --max-loss the amounts are the most: parts of them are
    tried, 1/16 to 16/16, and the largest that loses no more than this on the text is written, with the figures
    in its metadata. It must hold on the text to compare with as well.

    OUTPUT is a GGUF file for any engine, and appears only when it is whole. What is lost is told beside MODEL,
    as perplexity and KL divergence; with --vocab over the tokens that are left, while bits per byte compare
    both ways to cut a text.

    --json: {"input", "output", "removed": {"layers": [numbers], "ffn", "kv_heads", "tokens", "sparsity"},
    "before", "after": {"parameters", "bytes", "layers", "ffn", "heads", "kv_heads", "vocabulary",
    "prompt_tokens_per_second", "decode_tokens_per_second", "perplexity", "bits_per_byte"}, "after" also
    {"zeros" (share), "prompt_speedup", "decode_speedup"}, "loss": as `pyllm perplexity --reference` has it,
    "search": [{"layers", "ffn", "kv_heads", "tokens", "sparsity", "held_out", "loss"}], "notes": [...]}

    \b
    Example: pyllm prune model.gguf small.gguf --layers 4 --ffn 25% --calibrate text.txt
             pyllm prune model.gguf small.gguf --ffn 50% --max-loss 10% --calibrate text.txt
             pyllm prune model.gguf small.gguf --vocab domain.txt
    """
    from pyllm.prune.job import Job

    amounts, goal = _amounts(layers, ffn, heads, sparsity, vocab is not None), _goal(max_loss, loss)
    if amounts.calibrated and calibrate is None:
        raise UsageError("--layers, --ffn, --heads, --sparsity need --calibrate FILE: it tells what matters")
    if goal and not amounts.calibrated:
        raise UsageError("--max-loss: give the most that may go, with --layers, --ffn, --heads or --sparsity")
    job = Job(
        find_model(model),
        output,
        amounts,
        calibration=_text(calibrate),
        vocabulary=_text(vocab),
        measured=_text(measure),
        goal=goal,
        windows=windows,
        compare=not no_compare,
        threads=threads,
    )
    with status() as tell:
        report = job.run(tell)
    for text in report["notes"]:
        note(text)
    if as_json:
        show_json(report)
    else:
        _print(report)


def _amounts(layers: int, ffn: str, heads: int, sparsity: str, vocabulary: bool) -> Amounts:
    from pyllm.prune.prune import Amounts
    from pyllm.prune.sparsity import Pattern, parse_share

    share = parse_share(ffn) if ffn else 0.0
    if share is None:
        raise UsageError(f"--ffn {ffn!r}: expected a share above 0 and below 100, such as 25%")
    try:
        amounts = Amounts(layers, share, heads, sparsity=Pattern.parse(sparsity) if sparsity else None)
    except PyllmError as error:
        raise UsageError(f"--sparsity {error}") from error
    if not (amounts.calibrated or vocabulary):
        raise UsageError("nothing to take out: give --layers, --ffn, --heads, --vocab or --sparsity")
    return amounts


def _goal(text: str | None, loss: Figure) -> Goal | None:
    from pyllm.prune.goal import Goal

    try:
        return Goal.parse(text, loss) if text is not None else None
    except PyllmError as error:
        raise UsageError(f"--max-loss {error}") from error


def _text(path: Path | None) -> str:
    return decoded(path.read_bytes(), str(path)) if path else ""


_ROWS = (
    ("parameters", "parameters"), ("bytes", "size"), ("layers", "layers"), ("ffn", "hidden channels"),
    ("heads", "query heads"), ("kv_heads", "KV heads"), ("vocabulary", "tokens"), ("zeros", "weights of 0"),
    ("prompt_tokens_per_second", "prompt tokens/s"), ("decode_tokens_per_second", "decoded tokens/s"),
    ("perplexity", "perplexity"), ("bits_per_byte", "bits per byte"),
)  # fmt: skip


def _print(report: dict[str, Any]) -> None:
    from pyllm.progress import megabytes

    before, after = report["before"], report["after"]
    rows = []
    for key, name in _ROWS:
        new = after.get(key)
        if new is None:
            continue
        old = before.get(key, 0)
        show = megabytes if key == "bytes" else _percent if key == "zeros" else _number
        ratio = after.get(key.replace("_tokens_per_second", "_speedup")) if "second" in key else None
        ratio = ratio or (new / old if old else None)
        rows.append((name, show(old), show(new), f"{ratio:.3g} x" if ratio else ""))
    table(["", "BEFORE", "AFTER", "RATIO"], rows, right=["BEFORE", "AFTER", "RATIO"])
    removed = report["removed"]["layers"]
    lines: list[tuple[str, object]] = []
    if removed:
        lines.append(("layers taken out", ", ".join(map(str, removed))))
    if loss := report.get("loss"):
        rise = loss["perplexity"] / loss["reference_perplexity"] - 1
        lines += [
            ("perplexity lost", f"{rise:+.2%} (over {loss['tokens']:,} tokens)"),
            (
                "KL divergence",
                f"{loss['kl_mean']:.4f} nats, median {loss['kl_median']:.4f}, 99 % {loss['kl_p99']:.4f}",
            ),
            ("same best token", _percent(loss["top1_agreement"])),
        ]
    if lines:
        print()
        fields(lines)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
