from __future__ import annotations

import json
from typing import Annotated

import typer

from pyllm.cli.options import JsonFlag, ModelArg, find_model
from pyllm.cli.output import read_text, show_json


def tokenize(
    model: ModelArg,
    text: Annotated[str, typer.Argument(help="Text, or - for standard input.")],
    bos: Annotated[bool, typer.Option("--bos", help="Put the model's begin-of-text token first.")] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Text like <|im_end|> becomes the control token it names.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show how MODEL cuts TEXT into tokens: one line each, its id and its text as a JSON string.

    --json: {"ids": [...], "pieces": [...]}

    Example: pyllm tokenize smollm2-135m "Hello there"
    """
    from pyllm.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(find_model(model))
    ids = tokenizer.encode(read_text(text), add_bos=bos, parse_special=special)
    pieces = [tokenizer.piece(i) for i in ids]
    if as_json:
        show_json({"ids": ids, "pieces": pieces})
        return
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i}\t{json.dumps(piece, ensure_ascii=False)}")
