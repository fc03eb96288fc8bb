from __future__ import annotations

import click

from pyllm.cli.output import note


@click.command()
@click.argument("name")
def rm(name: str) -> None:
    """Delete a pulled model's file and what a broken pull left of it.

    Example: pyllm rm smollm2-135m
    """
    from pyllm.models import remove
    from pyllm.progress import megabytes

    note(f"removed {name.lower()}: {megabytes(remove(name))} are free again")
