from __future__ import annotations

from typing import Annotated

import typer

from pyllm.cli.output import note


def rm(name: Annotated[str, typer.Argument(help="A pulled model; never a path.")]) -> None:
    """Delete a pulled model's file and what a broken pull left of it.

    Example: pyllm rm smollm2-135m
    """
    from pyllm.models import remove
    from pyllm.progress import megabytes

    note(f"removed {name.lower()}: {megabytes(remove(name))} are free again")
