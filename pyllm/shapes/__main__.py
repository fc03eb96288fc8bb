"""Writes one file:  python -m pyllm.shapes llama-1b:q4_k_m model.gguf [--tokenizer real.gguf] [--seed 0]"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pyllm.errors import PyllmError
from pyllm.shapes import write_shape
from pyllm.shapes.cached import parse_shape


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pyllm.shapes", description=__doc__)
    parser.add_argument("shape")
    parser.add_argument("path", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="GGUF file to copy the vocabulary from")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        _, shape, quant = parse_shape(args.shape)
        write_shape(args.path, shape, quant, seed=args.seed, tokenizer=args.tokenizer)
    except PyllmError as error:
        sys.exit(f"pyllm: {error}")
    print(f"{args.path}: {args.path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
