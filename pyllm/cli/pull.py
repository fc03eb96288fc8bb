from __future__ import annotations

import click

from pyllm.cli.options import asker, json_flag, model_argument
from pyllm.cli.output import note, show_json


@click.command()
@model_argument
@click.option("--name", default="", help="Keep an hf: model under this name.")
@click.option("--accept-licence", is_flag=True, help="Accept the model's terms without being asked.")
@json_flag
def pull(model: str, name: str, accept_licence: bool, as_json: bool) -> None:
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
