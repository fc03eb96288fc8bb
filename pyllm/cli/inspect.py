from __future__ import annotations

import click

from pyllm.cli.options import find_model, json_flag, model_argument
from pyllm.cli.output import note, show_json, table


@click.command()
@model_argument
@click.argument("other", required=False)
@click.option("--tensor", "pattern", default="", help="Only the tensors whose names contain this.")
@json_flag
def inspect(model: str, other: str | None, pattern: str, as_json: bool) -> None:
    """Show every tensor of MODEL: type, shape, range; and how far OTHER's weights are from MODEL's.

    ERROR is relative: root mean square of the difference over that of MODEL's weights.

    --json: {"tensors": [{"name", "type", "shape" (slowest-varying first), "low", "high", "deviation", "bad"
    (NaN and infinite weights), "other": {"type", "error", "largest_error"} or null}]}

    \b
    Example: pyllm inspect model-f16.gguf model-q4.gguf
    """
    from pyllm.quantize.inspect import inspect as run

    found = list(run(find_model(model), find_model(other) if other else None, pattern))
    if other and (alone := sum(t.error is None for t in found)):
        note(f"{alone} tensors are not in {other}")
    if as_json:
        rows = [
            {"name": t.name, "type": t.type, "shape": list(t.shape)}
            | {"low": t.low, "high": t.high, "deviation": t.deviation, "bad": t.bad}
            | {
                "other": t.error
                and {
                    "type": t.error.type,
                    "error": t.error.relative,
                    "largest_error": t.error.largest,
                }
            }
            for t in found
        ]
        show_json({"tensors": rows})
        return
    columns = ["TENSOR", "TYPE", "SHAPE", "LOW", "HIGH", "DEVIATION"]
    if any(t.bad for t in found):
        columns.append("NOT FINITE")
    if other:
        columns += ["OTHER", "ERROR", "LARGEST"]
    lines: list[list[object]] = []
    for t in found:
        line: list[object] = [t.name, t.type, " x ".join(map(str, t.shape))]
        line += [f"{t.low:.4g}", f"{t.high:.4g}", f"{t.deviation:.4g}"]
        if "NOT FINITE" in columns:
            line.append(t.bad)
        if other:
            e = t.error
            line += [e.type, f"{100 * e.relative:.3f} %", f"{e.largest:.3g}"] if e else ["absent", "", ""]
        lines.append(line)
    table(columns, lines, right=["LOW", "HIGH", "DEVIATION", "NOT FINITE", "ERROR", "LARGEST"])
