from __future__ import annotations

import json

import click

from pyllm.cli.options import find_model, json_flag, model_argument
from pyllm.cli.output import read_text, show_json


@click.command()
@model_argument
@click.argument("text")
@click.option("--bos", is_flag=True, help="Put the model's begin-of-text token first.")
@click.option("--special", is_flag=True, help="Text like <|im_end|> becomes the control token it names.")
@json_flag
def tokenize(model: str, text: str, bos: bool, special: bool, as_json: bool) -> None:
    """Show how MODEL cuts TEXT into tokens: one line each, its id and its text as a JSON string.

    TEXT may be - for standard input.

    --json: {"ids": [...], "pieces": [...]}

    Example: pyllm tokenize smollm2-135m "Hello there"
    """
    from pyllm.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(find_model(model))
    ids = tokenizer.encode(read_text(text, "TEXT"), add_bos=bos, parse_special=special)
    pieces = [tokenizer.piece(i) for i in ids]
    if as_json:
        show_json({"ids": ids, "pieces": pieces})
        return
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i}\t{json.dumps(piece, ensure_ascii=False)}")
