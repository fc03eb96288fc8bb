from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pyllm.cli.options import (
    COUNT,
    by_options,
    device_options,
    json_flag,
    kv_type_option,
    model_argument,
    options_named,
    parse_bytes,
)
from pyllm.cli.output import fields, show_json
from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from pyllm.plan import Place, Plan


@click.command()
@model_argument
@device_options
@click.option("--context", type=COUNT, default=0, help="Longest context in tokens; absent: the model's own.")
@click.option("--max-sequences", type=COUNT, default=0, help="Sequences at once; absent: 64.")
@click.option("--kv-memory", default="", help="Memory for the KV cache, such as 2GB; absent: what fits.")
@kv_type_option
@click.option("--no-pack", is_flag=True, help="Weights in the file's layout.")
@click.option(
    "--no-measure", is_flag=True, help="Do not measure the memory's speed, which takes about a second."
)
@json_flag
def plan(
    model: str,
    device: str,
    gpu_layers: int | None,
    context: int,
    max_sequences: int,
    kv_memory: str,
    kv_type: str,
    no_pack: bool,
    no_measure: bool,
    as_json: bool,
) -> None:
    """Tell whether MODEL fits on this machine, and how.

    Which layers go where, and the memory that takes. Of the file only the header is read; how fast this
    machine reads memory is measured for a bound of the speed, unless --no-measure. Exit code 1 when it does
    not fit.

    The options are those of generate, chat and serve, and so is the plan, by what is free now.

    --json: {"model", "path", "fits", "problem", "device", "layers", "places": [{"place", "name", "available",
    "layers": [numbers], "embedding", "head", "weights_bytes", "kv_bytes", "scratch_bytes"}],
    "kv_bytes_per_token", "kv_tokens" (that all sequences share), "context", "longest_context" (of a sequence
    alone), "sequences" (of that context at once), "decode": {"bytes_per_token": {place: bytes}, "read_gbps",
    "tokens_per_second"}}. available: what is free before loading; scratch: what a step computes, at most.
    The rate is a bound: what memory could deliver if nothing else took time; null where its speed is not known.

    \b
    Example: pyllm plan smollm2-135m
             pyllm plan model.gguf --device cuda:0 --context 8192 --json
    """
    from pyllm._core import GgufFile
    from pyllm.models import is_path, manifest_of, resolve
    from pyllm.plan import Demand, plan_model

    manifest = manifest_of(model)
    if (manifest is None and not is_path(model)) or (manifest and not manifest.installed):
        raise PyllmError(f"{model} is not here yet: `pyllm pull {model}` fetches it")
    path = resolve(model)
    file = GgufFile(path)
    kv_bytes = parse_bytes(kv_memory, "--kv-memory") if kv_memory else 0
    demand = Demand(gpu_layers, context, kv_bytes, 512, max_sequences, kv_type, not no_pack)
    with options_named():
        made = plan_model(file, device, demand)
    about = {"model": manifest.name if manifest else path.stem, "path": str(path), **describe(made)}
    about["decode"] = _decode(made, not no_measure)
    if as_json:
        show_json(about)
    else:
        _print(about)
    if made.problem:
        raise click.exceptions.Exit(1)


def describe(plan: Plan) -> dict[str, Any]:
    """A plan in the shape that --json prints."""
    return {
        "fits": not plan.problem,
        "problem": by_options(plan.problem),
        "device": plan.describe(),
        "layers": len(plan.layer_devices),
        "places": [_place(place, plan) for place in plan.places],
        "kv_bytes_per_token": plan.kv_bytes_per_token,
        "kv_tokens": plan.kv_tokens,
        "context": plan.context,
        "longest_context": plan.longest_context,
        "sequences": plan.sequences,
    }


def _place(place: Place, plan: Plan) -> dict[str, Any]:
    return {
        "place": str(place),
        "name": place.device.name if place.device else None,
        "available": place.available,
        "layers": list(place.layers),
        "embedding": plan.embedding_device == place.number,
        "head": plan.head_device == place.number,
        "weights_bytes": place.weights,
        "kv_bytes": place.kv,
        "scratch_bytes": place.scratch,
    }


def _decode(plan: Plan, measure: bool) -> dict[str, Any]:
    """What one sequence reads for its next token at the start of a context, and the rate that allows.

    The CPU's speed is measured. A GPU's is not known: with layers there, the CPU's part alone bounds the rate.
    """
    from pyllm import _core

    read = {str(place): place.read for place in plan.places}
    speed = round(_core.measure_ceilings()["read_gbps"], 3) if measure and read.get("cpu") else None
    rate = round(speed * 1e9 / read["cpu"], 1) if speed else None
    return {"bytes_per_token": read, "read_gbps": speed, "tokens_per_second": rate}


def _print(about: dict[str, Any]) -> None:
    from pyllm.progress import megabytes

    rows: list[tuple[str, object]] = [
        ("model", about["model"]),
        ("fits", "yes" if about["fits"] else f"no: {about['problem']}"),
    ]
    for place in about["places"]:
        parts = [
            place["name"] or "",
            _runs(place["layers"]),
            *(["embedding"] if place["embedding"] else []),
            *(["head"] if place["head"] else []),
        ]
        rows += [
            (place["place"], ", ".join(part for part in parts if part)),
            ("  available", megabytes(place["available"])),
            ("  weights", megabytes(place["weights_bytes"])),
            ("  keys and values", megabytes(place["kv_bytes"])),
            ("  scratch", f"{megabytes(place['scratch_bytes'])} at most"),
        ]
    if about["kv_tokens"]:
        count = about["sequences"]
        at_once = f"{count} sequences of that length at once" if count > 1 else "one sequence of that length"
        rows += [
            ("context", f"{about['context']:,} tokens, {at_once}"),
            ("", f"{about['longest_context']:,} tokens for one sequence alone"),
            ("KV pool", f"{about['kv_tokens']:,} tokens, {megabytes(about['kv_bytes_per_token'])} each"),
        ]
    decode = about["decode"]
    if rate := decode["tokens_per_second"]:
        read = f"{megabytes(decode['bytes_per_token']['cpu'])} a token at {decode['read_gbps']:.1f} GB/s"
        rows.append(("decode", f"at most {rate:,.0f} tokens/s for one sequence: {read}"))
    fields(rows)


def _runs(layers: list[int]) -> str:
    if not layers:
        return ""
    return f"layers {layers[0]} to {layers[-1]} ({len(layers)})"
