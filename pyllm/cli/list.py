from __future__ import annotations

import click

from pyllm.cli.options import json_flag
from pyllm.cli.output import show_json, table


@click.command("list")
@json_flag
def list_models(as_json: bool) -> None:
    """List the models known by name, and which are here.

    --json: {"home", "models": [{"name", "title", "size", "installed", "path", "licence", "source"}]}; size in
    bytes.

    Example: pyllm list
    """
    from pyllm.models import home, known_models
    from pyllm.progress import megabytes

    models = sorted(known_models().values(), key=lambda m: m.name)
    if as_json:
        rows = [
            {
                "name": m.name,
                "title": m.title,
                "size": m.size or None,
                "installed": m.installed,
                "path": str(m.path) if m.installed else None,
                "licence": m.licence.name,
                "source": str(m.sources[0]) if m.sources else None,
            }
            for m in models
        ]
        show_json({"home": str(home()), "models": rows})
        return
    table(
        ["NAME", "SIZE", "HERE", "LICENCE", "WHAT"],
        [
            (
                m.name,
                megabytes(m.size) if m.size else "?",
                "yes" if m.installed else "no",
                m.licence.name,
                m.title,
            )
            for m in models
        ],
        right=["SIZE"],
    )
