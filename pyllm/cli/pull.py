from __future__ import annotations

from typing import Annotated

import typer

from pyllm.cli.options import JsonFlag, asker
from pyllm.cli.output import note, show_json


def pull(
    model: Annotated[str, typer.Argument(help="A name of `pyllm list`, or hf:owner/repo/file.gguf.")],
    name: Annotated[str, typer.Option("--name", help="Keep an hf: model under this name.")] = "",
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the model's terms without being asked.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Fetch a model, verify it, and print where it is.

    A pull that was cut goes on where it stopped. A model that is here is verified again.

    \b
    Example: pyllm pull smollm2-135m
             pyllm pull hf:owner/repo/folder/file.gguf@revision --name mine
    """
    from pyllm.pull import pull

    pulled = pull(model, name=name, accept_licence=accept_licence, ask=asker())
    if not pulled.fetched:
        note(f"{pulled.manifest.name} is here already and intact")
    if as_json:
        show_json({"name": pulled.manifest.name, "path": str(pulled.path), "fetched": pulled.fetched})
    else:
        print(pulled.path)
