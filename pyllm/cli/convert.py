from __future__ import annotations

from pathlib import Path

import click

from pyllm.cli.options import COUNT, json_flag
from pyllm.cli.output import UsageError
from pyllm.cli.quantize import repair_flag, report
from pyllm.errors import PyllmError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--type", "mix", default="", metavar="TYPE", help="f16, bf16, q8_0 ...; absent: as it is stored.")
@click.option("--threads", type=COUNT, default=0, help="CPU threads; absent: one per core that may be used.")
@repair_flag
@json_flag
def convert(folder: Path, output: Path, mix: str, threads: int, repair: bool, as_json: bool) -> None:
    """Make one GGUF file of a Hugging Face folder: config.json, safetensors, tokenizer.json, chat template.

    Llama, Mistral, Qwen 2, Qwen 3 and Gemma 3 (its text model). The tokenizer is tried on texts in many
    scripts; a folder whose text would be cut otherwise is refused. Pickled weights are never read. OUTPUT
    appears only when it is whole.

    --json: as of pyllm quantize.

    \b
    Example: pyllm convert ./Qwen3-0.6B qwen3-0.6b-bf16.gguf
             pyllm convert ./Qwen3-0.6B qwen3-0.6b-q8.gguf --type q8_0
    """
    from pyllm.convert.folder import stored_type
    from pyllm.mixes import mix_named
    from pyllm.quantize.quantize import quantize as run

    try:
        mix_named(mix or "f16")
    except PyllmError as error:
        raise UsageError(str(error)) from error
    mix = mix or stored_type(folder)
    report(folder, output, mix, run(folder, output, mix, threads=threads, repair=repair), as_json)
