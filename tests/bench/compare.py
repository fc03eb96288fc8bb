"""Speed, start and memory of pyllm beside llama.cpp, in turns, in one run.

    python tests/bench/compare.py MODEL.gguf --batch 1,8,32
    python tests/bench/compare.py --shape llama-1b:q4_k_m,llama-1b:q8_0 --depth 0,8192,32768 --batch 1
    PYLLM_ISA=avx2 python tests/bench/compare.py MODEL.gguf --llama-python AVX2_VENV/bin/python

Both engines have a process each that stays; a test runs in one while the other waits, and who begins changes
with every repeat. What is compared is the ratio of two runs that follow one another.

llama.cpp first tries every setting once in each test: fused attention or not, batch sizes for prompts, all or
half of the threads for decoding. Those within a tenth of the best run in every repeat; the best median counts.

Rates are tokens per second, of all sequences together; "of ceiling" is the larger part of what the machine can
do (see `pyllm bench --help`), its ceilings measured before and after. Depth is computed by each engine once and
is not measured. Figures go to tests/bench/results as JSON. Ctrl-C ends it and keeps what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pyllm import _core
from pyllm.bench.machine import describe, machine
from pyllm.bench.speed import Test
from pyllm.bench.start import Start, measure_start, watch
from pyllm.bench.work import Need
from pyllm.cli.output import table
from pyllm.errors import PyllmError

HERE = Path(__file__).resolve().parent
CLOSE = 0.9  # settings of llama.cpp at least this near to its best run in every repeat
Setting = dict[str, Any]
Result = dict[str, Any]


class Worker:
    """One engine's process."""

    def __init__(self, command: Sequence[str]) -> None:
        # A session of its own: Ctrl-C is the parent's to handle.
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def ask(self, do: str, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **request}), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise PyllmError(f"{Path(self._process.args[1]).name} ended with {self._process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def peer_settings(test: Test, threads: int) -> list[Setting]:
    """What llama.cpp may choose from. At a depth, whose computing takes long, only the kind of attention."""
    sizes, counts = [512], [threads]
    if test.context == 0 and test.test == "prompt":
        sizes = [size for size in (128, 512, 2048) if size <= max(512, test.tokens)]
    if test.context == 0 and test.test == "decode":
        counts = sorted({threads, max(1, threads // 2)}, reverse=True)
    return [{"fused": f, "ubatch": s, "threads": t} for f in (True, False) for s in sizes for t in counts]


def groups(tests: Sequence[Test]) -> Iterator[list[Test]]:
    """Tests of the same sequences at the same depth: they share what is computed before."""
    for key in dict.fromkeys((test.context, test.batch) for test in tests):
        yield [test for test in tests if (test.context, test.batch) == key]


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": [round(value, 4) for value in values],
    }


def compare_speed(
    ours: Worker, peer: Worker, tests: Sequence[Test], args: argparse.Namespace
) -> Iterator[Result]:
    """One result per test, as it is there."""
    for group in groups(tests):
        length = max(test.length for test in group)
        for test in group:
            request = {"test": asdict(test)}
            tell(f"{test}: llama.cpp's settings")
            tried = []
            for setting in peer_settings(test, args.threads):
                peer.ask("warm_up", **request, setting=setting, length=length)
                tried.append((peer.ask("rate", **request, setting=setting, length=length), setting))
            best = max(rate for rate, _ in tried)
            settings = [setting for rate, setting in tried if rate >= CLOSE * best]
            tell(f"{test}: {args.repeats} repeats, llama.cpp with {len(settings)} of {len(tried)} settings")
            ours.ask("warm_up", **request)
            rates: list[float] = []
            peers: list[list[float]] = [[] for _ in settings]
            for repeat in range(args.repeats):
                if repeat % 2 == 0:
                    rates.append(ours.ask("rate", **request))
                for setting, found in zip(settings, peers, strict=True):
                    found.append(peer.ask("rate", **request, setting=setting, length=length))
                if repeat % 2 == 1:
                    rates.append(ours.ask("rate", **request))
            winner = max(range(len(settings)), key=lambda i: statistics.median(peers[i]))
            yield {
                **asdict(test),
                "pyllm": spread(rates),
                "llama.cpp": spread(peers[winner]) | {"setting": settings[winner]},
                "tried": [{"setting": setting, "rate": round(rate, 2)} for rate, setting in tried],
                "ratio": spread([a / b for a, b in zip(rates, peers[winner], strict=True)]),
                "need": ours.ask("need", **request),
            }
        peer.ask("keep", settings=[])


def compare_start(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of new processes, in turns; the first of each does not count."""
    theirs = [args.llama_python, str(HERE / "llama_cpp_worker.py"), str(path), "--start"]
    theirs += ["--threads", str(args.threads)]
    starts: dict[str, list[Start]] = {"pyllm": [], "llama.cpp": []}
    for repeat in range(args.repeats + 1):
        tell(f"start, {repeat} of {args.repeats} done")
        pair = {"pyllm": measure_start(path, args.threads), "llama.cpp": watch(theirs)}
        if repeat > 0:
            for name, start in pair.items():
                starts[name].append(start)
    found = {}
    for key in ("ready_s", "first_token_s", "load_s", "peak_bytes"):
        values = {name: [getattr(start, key) for start in some] for name, some in starts.items()}
        pairs = zip(values["pyllm"], values["llama.cpp"], strict=True)
        found[key] = {name: spread(some) for name, some in values.items()}
        found[key]["ratio"] = spread([a / b for a, b in pairs])
    return found


def compare(name: str, path: Path, tests: Sequence[Test], args: argparse.Namespace, found: Result) -> None:
    """One model, into `found`, which holds what there is when it is interrupted."""
    tell(name)
    if args.only != "speed":
        found["start"] = compare_start(path, args)
    if args.only == "start":
        return
    limits = [f"--context={max(t.length for t in tests)}", f"--sequences={max(t.batch for t in tests)}"]
    common = [str(path), "--threads", str(args.threads)]
    with contextlib.ExitStack() as stack:
        ours = Worker([sys.executable, str(HERE / "pyllm_worker.py"), *common, *limits])
        stack.callback(ours.close)
        peer = Worker([args.llama_python, str(HERE / "llama_cpp_worker.py"), *common])
        stack.callback(peer.close)
        found |= {"pyllm": ours.ask("about"), "llama.cpp": peer.ask("about"), "ceilings": ours.ask("ceilings")}
        if found["pyllm"]["isa"].startswith("avx512") != ("AVX512 = 1" in found["llama.cpp"]["system"]):
            tell("one of the two uses AVX-512 and the other does not: set PYLLM_ISA or --llama-python")
        for result in compare_speed(ours, peer, tests, args):
            found.setdefault("results", []).append(result)
        for key, value in ours.ask("ceilings").items():
            found["ceilings"][key] = max(value, found["ceilings"][key])


def finish(found: dict[str, Any]) -> None:
    """Parts of the ceilings, and what the depth adds to a token's time."""
    for result in found.get("results", []):
        need = Need(**result["need"])
        for name in ("pyllm", "llama.cpp"):
            seconds = result["batch"] * result["tokens"] / result[name]["median"]
            result[name]["of_ceiling"] = need.shares(seconds, found["ceilings"])
        for other in found["results"]:
            same = all(other[key] == result[key] for key in ("test", "tokens", "batch"))
            if same and other["context"] == 0 < result["context"]:
                for name in ("pyllm", "llama.cpp"):
                    added = 1 / result[name]["median"] - 1 / other[name]["median"]
                    result[name]["depth_adds_ms_per_token"] = round(1e3 * added, 4)


def show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}")
    if ceilings := found.get("ceilings"):
        print(f"ceilings: memory read {ceilings['read_gbps']:.1f} GB/s, int8 {ceilings['int8_tops']:.2f} TOPS")
    rows: list[list[str]] = []
    for result in found.get("results", []):
        for engine in ("pyllm", "llama.cpp"):
            figures, ours = result[engine], engine == "pyllm"
            test = str(Test(*(result[key] for key in ("test", "tokens", "batch", "context"))))
            rates = [f"{figures[key]:.1f}" for key in ("median", "min", "max")]
            part, share = max(figures["of_ceiling"].items(), key=lambda item: item[1])
            ratio = [f"{result['ratio'][key]:.2f}" if ours else "" for key in ("median", "min", "max")]
            depth = figures.get("depth_adds_ms_per_token")
            added = "" if depth is None else f"{depth:.2f}"
            won = "" if ours else setting_name(figures["setting"])
            rows.append([test if ours else "", engine, *rates, f"{share:.0%} {part}", *ratio, added, won])
    if rows:
        columns = ["TEST", "ENGINE", "TOKENS/S", "MIN", "MAX", "OF CEILING", "RATIO", "LOW", "HIGH"]
        columns += ["DEPTH MS/TOKEN", "SETTING"]
        table(columns, rows, right=columns[2:-1])
    rows = []
    scales = {"ready_s": ("ready, s", 1.0, 2), "first_token_s": ("first token, s", 1.0, 2)}
    scales |= {"load_s": ("load alone, s", 1.0, 2), "peak_bytes": ("peak memory, MB", 1e-6, 0)}
    for key, result in found.get("start", {}).items():
        title, scale, digits = scales[key]
        for engine in ("pyllm", "llama.cpp"):
            ours = engine == "pyllm"
            values = [f"{scale * result[engine][f]:.{digits}f}" for f in ("median", "min", "max")]
            ratio = [f"{result['ratio'][f]:.2f}" if ours else "" for f in ("median", "min", "max")]
            rows.append([title if ours else "", engine, *values, *ratio])
    if rows:
        print()
        columns = ["START", "ENGINE", "MEDIAN", "MIN", "MAX", "RATIO", "LOW", "HIGH"]
        table(columns, rows, right=columns[2:])


def setting_name(setting: Setting) -> str:
    attention = "fused" if setting["fused"] else "not fused"
    return f"{attention}, batch {setting['ubatch']}, {setting['threads']} threads"


def tell(text: str) -> None:
    print(f"compare: {text}", file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--shape", default="", help="random weights by name, with commas: llama-1b:q4_k_m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=numbers, default=[512])
    parser.add_argument("--gen", type=int, default=32, help="tokens to decode per sequence")
    parser.add_argument("--batch", type=numbers, default=[1, 8, 32])
    parser.add_argument("--depth", type=numbers, default=[0])
    parser.add_argument("--threads", type=int, default=_core.cpu_threads())
    parser.add_argument("--only", choices=("speed", "start"))
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--note", default="", help="kept in the results: what was changed, for instance")
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    args = parser.parse_args()
    if not args.models and not args.shape:
        parser.error("give MODEL.gguf or --shape")
    if min([*args.prompt, args.gen, *args.batch, args.repeats, args.threads]) < 1 or min(args.depth) < 0:
        parser.error("--prompt, --gen, --batch, --repeats and --threads are above 0, --depth is not below")
    return args


def main() -> None:
    args = arguments()
    from pyllm.shapes.cached import shape_file

    tests = []
    for depth in args.depth:
        tests += [Test("prompt", tokens, context=depth) for tokens in args.prompt]
        tests += [Test("decode", args.gen, batch, depth) for batch in args.batch]
    about = machine() | {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}
    about["load_average"] = os.getloadavg()[0]
    report: dict[str, Any] = {"note": args.note, "threads": args.threads, "machine": about, "models": {}}
    print(f"{describe(about)}, {args.threads} threads, {about['date']}")
    failed = ""
    try:
        chosen = {path.name: path for path in args.models}
        chosen |= {shape: shape_file(shape, tell) for shape in args.shape.split(",") if shape}
        for name, path in chosen.items():
            compare(name, path, tests, args, report["models"].setdefault(name, {}))
    except KeyboardInterrupt:
        failed = "interrupted"
    except PyllmError as error:
        failed = str(error)
    report |= {"failed": failed} if failed else {}
    for name, found in report["models"].items():
        finish(found)
        show(name, found)
    if any(report["models"].values()):
        output = args.output or HERE / "results" / f"compare-{about['date'][:16].replace(':', '')}.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n")
        tell(f"written: {output.name}")
    if failed:
        sys.exit(f"compare: {failed}")


if __name__ == "__main__":
    main()
