"""Kills `pyllm batch` at a random moment until it is done, and compares with the run that nobody disturbed.

    python tests/killed_batch.py --kills 300

The model is tiny and random, so that a run takes about a second. Exit code 1 when a byte differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def write_rows(path: Path, count: int, seed: int = 0) -> None:
    """Rows of all forms; some draw by chance, some fail."""
    source = random.Random(seed)
    with path.open("w") as file:
        for i in range(count):
            text = " ".join(source.choice(("one", "two", "three")) for _ in range(source.randrange(1, 30)))
            body = {"max_tokens": source.randrange(2, 60), "temperature": source.choice((0, 0, 1.0))}
            row = {"custom_id": f"row {i}", "method": "POST", "url": "/v1/completions"}
            kind = i % 4
            if kind == 0:
                row["body"] = {"prompt": text, **body}
            elif kind == 1:
                messages = [{"role": "user", "content": text}]
                row |= {"url": "/v1/chat/completions", "body": {"messages": messages, **body}}
            elif kind == 2:
                row = {"prompt": text, **body}
            elif i % 20 == 3:
                row = {"prompt": text, "max_tokens": -1}
            else:
                row = {"prompt": text, **body, "n": 2}
            file.write(json.dumps(row) + "\n")


def command(model: Path, rows: Path, output: Path, *options: str) -> list[str]:
    fixed = ["--model", str(model), "--threads", "1", "--max-sequences", "8"]
    return [sys.executable, "-m", "pyllm", "batch", str(rows), "-o", str(output), *fixed, *options]


def killed_until_done(
    model: Path,
    rows: Path,
    output: Path,
    options: list[str],
    source: random.Random,
    longest_s: float,
    kills: int,
) -> int:
    """How often it was killed: at most `kills` times, at a random moment of at most `longest_s` seconds."""
    killed = 0
    while True:
        process = subprocess.Popen(command(model, rows, output, *options), stderr=subprocess.PIPE)
        try:
            patience = source.random() * longest_s if killed < kills else 600
            _, told = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        if process.returncode != 0:
            raise SystemExit(f"exit code {process.returncode}: {told.decode()}")
        return killed


def compare(model: Path, folder: Path, kills: int, rows: int, seed: int) -> int:
    """Kills so often over as many jobs as it takes. Raises SystemExit where a byte differs."""
    source, data = random.Random(seed), folder / "rows.jsonl"
    write_rows(data, rows)
    whole = folder / "whole.jsonl"
    started = time.monotonic()
    subprocess.run(command(model, data, whole, "--ordered"), check=True, capture_output=True)
    longest_s = (time.monotonic() - started) * 1.1
    killed = jobs = 0
    while killed < kills:
        ordered = jobs % 2 == 0
        output = folder / f"killed-{jobs}.jsonl"
        options = ["--ordered"] if ordered else []
        killed += killed_until_done(model, data, output, options, source, longest_s, kills - killed)
        found, expected = output.read_bytes(), whole.read_bytes()
        if not ordered:
            found, expected = (b"".join(sorted(lines.splitlines(True))) for lines in (found, expected))
        if found != expected:
            raise SystemExit(f"{output}: differs from {whole}")
        jobs += 1
    return jobs


def main() -> None:
    from pyllm.shapes import write_model

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    os.environ["PYLLM_HOME"] = str(folder / "home")
    os.chdir(folder)  # `-m pyllm` means the installed one
    model = write_model(folder / "tiny.gguf", dim=64, ffn=128, quant="Q8_0")
    jobs = compare(model, folder, args.kills, args.rows, args.seed)
    told = "every output is the undisturbed one, byte for byte"
    print(f"{args.kills} kills, {jobs} jobs of {args.rows} rows: {told}")


if __name__ == "__main__":
    main()
