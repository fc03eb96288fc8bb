from __future__ import annotations

import sys
from typing import Any

import click

from pyllm.cli.options import engine_options, find_model, json_flag, open_model
from pyllm.cli.output import UsageError, read_text, show_json
from pyllm.embedding import POOLINGS, Pooling


@click.command()
@click.argument("model")
@click.argument("texts", nargs=-1)
@click.option("--pooling", type=click.Choice(POOLINGS), help="Absent: what the model was made for, else last.")
@engine_options
@json_flag
def embed(
    model: str,
    texts: tuple[str, ...],
    pooling: Pooling | None,
    as_json: bool,
    **engine: Any,
) -> None:
    """Turn TEXTS into vectors of length 1: a line of numbers for each.

    Without TEXTS, or with - alone, every line of standard input is one.

    --pooling: last takes the last token's hidden state, mean the mean over all tokens.

    --json: {"embeddings": [[...], ...]}

    \b
    Example: pyllm embed smollm2-135m "a text" "another" --json
             pyllm embed smollm2-135m --pooling mean < lines.txt
    """
    lines = _lines(texts)
    with open_model(find_model(model), **engine) as llm:
        vectors = llm.embed(lines, pooling)
    if as_json:
        show_json({"embeddings": [vector.tolist() for vector in vectors]})
        return
    for vector in vectors:
        print(*(f"{value:.9g}" for value in vector))


def _lines(texts: tuple[str, ...]) -> list[str]:
    """What to embed. UsageError for nothing, and for texts that are empty."""
    if not texts and sys.stdin.isatty():
        raise UsageError("no texts: give them after the model, or pipe lines into standard input")
    if texts in ((), ("-",)):
        place = "line {} of standard input"
        lines = read_text("-", "").removesuffix("\n").split("\n")
        if lines == [""]:
            raise UsageError("standard input is empty: expected a text a line")
    else:
        place = "text {}"
        lines = [read_text(text, place.format(number)) for number, text in enumerate(texts, 1)]
    if "" in lines:
        raise UsageError(f"{place.format(lines.index('') + 1)} is empty: expected at least one character")
    return lines
