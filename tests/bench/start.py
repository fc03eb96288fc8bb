"""From the start of a process to its first token, in steps, and the memory that it takes.

    python tests/bench/start.py MODEL.gguf [--repeat 5] [--no-pack] [--json FILE]

Every run is a process of its own. The first one with an empty PYLLM_HOME packs the weights, the others find
them; run it twice to have all the same. Seconds since the process began: Python is up, the library is imported,
the model is ready, the first token is there (and `load`, from the file to ready); then the peak of resident
memory, and what of the end's is the process's own (anonymous) and what the page cache's (file).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def since_start() -> float:
    """Seconds since this process began."""
    started = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")


def one(model: str, pack: bool) -> dict[str, float]:
    """One start, in this process."""
    marks = {"python": since_start()}
    from pyllm import SamplingParams
    from pyllm.llm import LLM

    marks["imported"] = since_start()
    with LLM(model, pack=pack) as llm:
        marks["ready"] = since_start()
        llm.generate("Once upon a time", SamplingParams(max_tokens=1, temperature=0.0))
        marks["first_token"] = since_start()
        marks["load"] = llm.load_s
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    sizes = {"peak_mb": "VmHWM", "anonymous_mb": "RssAnon", "file_mb": "RssFile"}
    return marks | {name: int(status[key].split()[0]) * 1024 / 1e6 for name, key in sizes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--no-pack", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.model, not args.no_pack)))
        return
    again = [sys.executable, __file__, args.model, "--one", *(["--no-pack"] if args.no_pack else [])]
    runs = [
        json.loads(subprocess.run(again, stdout=subprocess.PIPE, check=True).stdout) for _ in range(args.repeat)
    ]
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        figures[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        digits = 0 if name.endswith("_mb") else 3
        print(f"{name:12}  " + "  ".join(f"{key} {value:.{digits}f}" for key, value in figures[name].items()))
    if args.json:
        Path(args.json).write_text(
            json.dumps({"model": Path(args.model).name, "figures": figures}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
