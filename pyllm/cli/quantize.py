from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import COUNT, find_model, json_flag
from pyllm.cli.output import UsageError, note, show_json, table
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.quantize.plan import Override, Planned
    from pyllm.quantize.quantize import Quantized


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
@click.option("--type", "mix", required=True, metavar="TYPE", help="Such as q4_k_m; an unknown one lists all.")
@click.option(
    "--tensor", multiple=True, metavar="PATTERN=TYPE", help="Type of the matrices whose names have PATTERN."
)
@click.option(
    "--importance",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="An imatrix file of llama.cpp's, GGUF or .dat: which columns matter.",
)
@click.option("--pure", is_flag=True, help="The main type for every matrix, no mix.")
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@repair_flag
@json_flag
def quantize(
    model: str,
    output: Path,
    mix: str,
    tensor: tuple[str, ...],
    importance: Path | None,
    pure: bool,
    threads: int,
    repair: bool,
    as_json: bool,
) -> None:
    """Write MODEL in another weight type: smaller, faster, less exact. It may be a Hugging Face folder too.

    Mixes such as q4_k_m give every tensor the type that other tools give it; q8_0 takes 8.5 bits a weight, a
    good quarter of F32. Norms and other small tensors stay as they are. PATTERN is a regular expression found
    anywhere in the name; the first --tensor that fits counts. OUTPUT appears only when it is whole.

    --json: {"input", "output", "type", "bytes_before", "bytes_after", "bits_per_weight", "notes": [...],
    "tensors": [{"from", "to", "tensors", "bytes_before", "bytes_after", "bits_per_weight"}]}

    \b
    Example: pyllm quantize model-f16.gguf model-q4.gguf --type q4_k_m
             pyllm quantize model-f16.gguf small.gguf --type iq4_xs --tensor ffn_down=q5_k --tensor output=q8_0
    """
    from pyllm.mixes import mix_named
    from pyllm.quantize.importance import read_importance
    from pyllm.quantize.plan import Override
    from pyllm.quantize.quantize import quantize as run

    try:
        mix_named(mix)
        overrides: list[Override] = [Override.parse(text) for text in tensor]
    except PyllmError as error:
        raise UsageError(str(error)) from error
    source = Path(model) if Path(model).is_dir() else find_model(model)
    weights = read_importance(importance) if importance else None
    options: dict[str, Any] = {"pure": pure, "threads": threads, "repair": repair}
    done = run(source, output, mix, overrides=overrides, importance=weights, **options)
    report(source, output, mix, done, as_json)


def report(source: Path, output: Path, mix: str, done: Quantized, as_json: bool) -> None:
    """What quantize and convert print in the end."""
    from pyllm.progress import megabytes
    from pyllm.quantize.quantize import count_types

    for text in done.notes:
        note(text)
    groups = [_group(*kinds, members) for kinds, members in count_types(done.plan).items()]
    if as_json:
        about: dict[str, object] = {"input": str(source), "output": str(output), "type": mix.lower()}
        about |= {"bytes_before": done.bytes_before, "bytes_after": done.bytes_after}
        about |= {"bits_per_weight": round(done.bits_per_weight, 3), "notes": list(done.notes)}
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
