from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import COUNT, find_model, json_flag, parse_bytes
from pyllm.cli.output import UsageError, decoded, note, show_json, table
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.quantize.calibrate import Calibration
    from pyllm.quantize.plan import Override, Planned
    from pyllm.quantize.quantize import Quantized
    from pyllm.quantize.search import Found, Goal


repair_flag = click.option(
    "--repair",
    "--allow",
    "repair",
    is_flag=True,
    help="NaN and infinite weights become 0, not an error.",
)


@click.command()
@click.argument("model")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--type", "mix", metavar="TYPE", help="Such as q4_k_m; an unknown one lists all.")
@click.option("--max-loss", metavar="LOSS", help="Instead of --type: the smallest file that loses no more: 1%.")
@click.option(
    "--loss",
    type=click.Choice(["perplexity", "kl", "top1"]),
    default="perplexity",
    show_default=True,
    help="What --max-loss is of: kl in nats, top1 in other best tokens.",
)
@click.option("--target-size", metavar="SIZE", help="Instead of --type: the best file of so much: 500MB.")
@click.option(
    "--tensor", multiple=True, metavar="PATTERN=TYPE", help="Type of the matrices whose names have PATTERN."
)
@click.option(
    "--importance",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An imatrix file of llama.cpp's, GGUF or .dat: which columns matter.",
)
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A text like those the model is for: which columns matter, and what is lost on it.",
)
@click.option("--save-importance", type=click.Path(path_type=Path), help="Keep what --calibrate found.")
@click.option("--pure", is_flag=True, help="The main type for every matrix, no mix.")
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@repair_flag
@json_flag
def quantize(
    model: str,
    output: Path,
    mix: str | None,
    max_loss: str | None,
    loss: str,
    target_size: str | None,
    tensor: tuple[str, ...],
    importance: Path | None,
    calibrate: Path | None,
    save_importance: Path | None,
    pure: bool,
    threads: int,
    repair: bool,
    as_json: bool,
) -> None:
    """Write MODEL in another weight type: smaller, faster, less exact. It may be a Hugging Face folder too.

    Mixes such as q4_k_m give every tensor the type that other tools give it; q8_0 takes 8.5 bits a weight, a
    good quarter of F32. Norms and other small tensors stay as they are. PATTERN is a regular expression found
    anywhere in the name; the first --tensor that fits counts. OUTPUT appears only when it is whole.

    --calibrate runs MODEL over a text; columns that see large inputs are then quantized with more care. It
    wants thousands of tokens; --save-importance keeps the result for --importance, in llama.cpp's form.

    --max-loss and --target-size measure how much each part of the model suffers, choose every tensor's type
    by that, measure the whole on the text, and then on a quarter of it that was kept aside. What they found
    stands in the file's metadata (pyllm.quantize.*) and in "loss" of --json. They take some minutes for each
    100 million weights; Ctrl-C leaves nothing behind.

    --json: {"input", "output", "type", "bytes_before", "bytes_after", "bits_per_weight", "notes": [...],
    "tensors": [{"from", "to", "tensors", "bytes_before", "bytes_after", "bits_per_weight"}]}

    \b
    Example: pyllm quantize model-f16.gguf model-q4.gguf --type q4_k_m
             pyllm quantize model-f16.gguf small.gguf --type iq4_xs --tensor ffn_down=q5_k --tensor output=q8_0
             pyllm quantize model-f16.gguf small.gguf --type iq3_m --calibrate text.txt
             pyllm quantize model-f16.gguf small.gguf --calibrate text.txt --max-loss 1%
             pyllm quantize model-f16.gguf small.gguf --calibrate text.txt --target-size 500MB
    """
    from pyllm.mixes import mix_named
    from pyllm.quantize.importance import read_importance
    from pyllm.quantize.plan import Override
    from pyllm.quantize.quantize import check_target
    from pyllm.quantize.quantize import quantize as run

    goal = _goal(mix, max_loss, loss, target_size)
    if goal and not calibrate:
        raise UsageError("--max-loss and --target-size need a text to measure on: --calibrate TEXT")
    if goal and pure:
        raise UsageError("--pure is about --type; with --max-loss or --target-size every tensor's is chosen")
    if calibrate and importance and not goal:
        raise UsageError("--calibrate and --importance both tell which columns matter; give one of them")
    if save_importance and (importance or not calibrate):
        raise UsageError("--save-importance keeps what --calibrate finds; give that, without --importance")
    if save_importance and save_importance.resolve() == output.resolve():
        raise UsageError(f"--save-importance {save_importance}: is the output itself")
    try:
        overrides: list[Override] = [Override.parse(text) for text in tensor]
        if mix:
            mix_named(mix)
    except PyllmError as error:
        raise UsageError(str(error)) from error
    source = Path(model) if Path(model).is_dir() else find_model(model)
    weights = read_importance(importance) if importance else None
    calibration = None
    if calibrate:
        for target in (output, save_importance):  # before minutes of work
            if target:
                check_target(target, [str(source), str(calibrate)])
        calibration = _calibration(source, calibrate, threads)
    found = None
    if goal:
        from pyllm.quantize.calibrate import quantize_to_goal

        assert calibration
        more: dict[str, Any] = {"importance": weights, "save": save_importance, "repair": repair}
        done, found = quantize_to_goal(calibration, output, goal, overrides=overrides, **more)
    else:
        assert mix
        if calibration:
            weights = dict(calibration.importance(save_importance))
        options: dict[str, Any] = {"pure": pure, "threads": threads, "repair": repair}
        done = run(source, output, mix, overrides=overrides, importance=weights, **options)
    report(source, output, mix or "searched", done, as_json, found)


def _goal(mix: str | None, max_loss: str | None, of: str, target_size: str | None) -> Goal | None:
    """What to search for; None with --type. UsageError unless exactly one of the three is given."""
    given = [text for text in (mix, max_loss, target_size) if text is not None]
    if len(given) != 1:
        raise UsageError("expected one of --type TYPE, --max-loss LOSS and --target-size SIZE")
    if mix is not None:
        return None
    from pyllm.quantize.search import Goal

    if target_size is not None:
        return Goal(bytes=parse_bytes(target_size, "--target-size"))
    assert max_loss is not None
    return Goal(of, most=_share(max_loss, of))


def _share(text: str, of: str) -> float:
    """'1%' or '0.01' -> 0.01; of a KL divergence only numbers."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf or (percent and of == "kl"):
        expected = "nats such as 0.01" if of == "kl" else "a share such as 1%"
        raise UsageError(f"--max-loss {text!r}: expected {expected}")
    return value


def _calibration(source: Path, text: Path, threads: int) -> Calibration:
    from pyllm.quantize.calibrate import Calibration

    return Calibration(source, decoded(text.read_bytes(), str(text)), text.name, threads)


def report(
    source: Path, output: Path, mix: str, done: Quantized, as_json: bool, found: Found | None = None
) -> None:
    """What quantize and convert print in the end."""
    from pyllm.progress import megabytes
    from pyllm.quantize.quantize import count_types

    for text in [*done.notes, *(found.notes if found else [])]:
        note(text)
    groups = [_group(*kinds, members) for kinds, members in count_types(done.plan).items()]
    if as_json:
        about: dict[str, object] = {"input": str(source), "output": str(output), "type": mix.lower()}
        about |= {"bytes_before": done.bytes_before, "bytes_after": done.bytes_after}
        about |= {"bits_per_weight": round(done.bits_per_weight, 3), "notes": list(done.notes)}
        if found:
            about["loss"] = {key: value.value for key, value in found.metadata.items()}
        show_json(about | {"tensors": groups})
        return
    columns = ["FROM", "TO", "TENSORS", "BEFORE", "AFTER", "BITS PER WEIGHT"]
    rows = [
        (
            g["from"],
            g["to"],
            g["tensors"],
            *map(megabytes, (g["bytes_before"], g["bytes_after"])),
            f"{g['bits_per_weight']:.2f}",
        )
        for g in groups
    ]
    whole = megabytes(done.bytes_before), megabytes(done.bytes_after), f"{done.bits_per_weight:.2f}"
    rows.append(("file", "", len(done.plan), *whole))
    table(columns, rows, right=columns[2:])


def _group(source: str, kind: str, members: Sequence[Planned]) -> dict[str, Any]:
    before, after = (sum(t.bytes_as(name) for t in members) for name in (source, kind))
    bits = round(8 * after / sum(t.weights for t in members), 3)
    counts: dict[str, Any] = {"from": source, "to": kind, "tensors": len(members)}
    return counts | {"bytes_before": before, "bytes_after": after, "bits_per_weight": bits}
