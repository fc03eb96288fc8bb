"""Speed of pyllm beside llama.cpp, in turns, in one run.

python tests/bench/compare.py MODEL.gguf [MODEL.gguf ...] [--repeats 5] [--prompt 512] [--gen 128]
                              [--batch 1,8,32] [--batch-gen 32] [--threads 2] [--startup] [--note TEXT]

Each repeat starts each engine in a process of its own, one after the other, and warms it up before measuring:
reading a prompt of random tokens, and greedy decoding of 1, 8 and 32 sequences at once after 16 tokens each.
llama.cpp runs with and without fused attention in every repeat, and counts with the better median of each test.
--startup measures whole processes instead: from nothing to the first token, and the memory it took.

Rates are tokens per second, of all sequences together. Figures go to tests/bench/results as JSON. Needs
llama-cpp-python here or in the interpreter given as --llama-python.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEED_TOKENS = 16  # in front of what is decoded
Rates = dict[str, float]  # test name -> tokens per second


def random_tokens(count: int, vocabulary: int, seed: int) -> list[int]:
    import random

    source = random.Random(seed)
    return [source.randrange(vocabulary) for _ in range(count)]


def measure_pyllm(model: str, args: argparse.Namespace) -> Rates:
    from pyllm import LLM, SamplingParams

    batches = [int(b) for b in args.batch.split(",")]
    context = max(args.prompt, SEED_TOKENS + max(args.gen, args.batch_gen)) + 16
    rates: Rates = {}
    with LLM(
        model, threads=args.threads, context=context, max_sequences=max(batches), prefix_cache=False
    ) as llm:
        llm.settle()
        vocabulary = llm.config.vocab

        def run(sequences: int, length: int, count: int) -> list[Any]:
            prompts = [random_tokens(length, vocabulary, seed) for seed in range(sequences)]
            params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
            return [completion.timings for completion in llm.generate(prompts, params)]

        run(1, args.prompt, 4)
        rates[f"prompt {args.prompt}"] = run(1, args.prompt, 1)[0].prompt_tokens_per_second
        for sequences in batches:
            count = args.gen if sequences == 1 else args.batch_gen
            run(sequences, SEED_TOKENS, 3)
            timings = run(sequences, SEED_TOKENS, count + 1)
            rates[f"decode {count} x {sequences}"] = sum(t.decode_tokens_per_second for t in timings)
    return rates


def measure_llama_cpp(model: str, args: argparse.Namespace) -> dict[str, Rates]:
    sys.path.insert(0, str(HERE.parent / "oracle"))
    from engines import LlamaCpp

    batches = [int(b) for b in args.batch.split(",")]
    found: dict[str, Rates] = {}
    for label, fused in (("llama.cpp", False), ("llama.cpp, fused attention", True)):
        rates: Rates = {}
        for sequences in sorted({1, *batches}):
            count = args.gen if sequences == 1 else args.batch_gen
            each = SEED_TOKENS + count + 16
            engine = LlamaCpp(
                model,
                context=max(each * sequences, args.prompt + 16 if sequences == 1 else 0),
                threads=args.threads,
                sequences=sequences,
                fused_attention=fused,
            )
            if sequences == 1:
                prompt = random_tokens(args.prompt, engine.vocabulary, 0)
                read_prompt(engine, prompt)
                rates[f"prompt {args.prompt}"] = len(prompt) / read_prompt(engine, prompt)
            if sequences in batches:
                decode_together(engine, sequences, 2)
                seconds = decode_together(engine, sequences, count)
                rates[f"decode {count} x {sequences}"] = count * sequences / seconds
            engine.close()
        found[label] = rates
    return found


def read_prompt(engine: Any, tokens: list[int]) -> float:
    """Seconds to the first token."""
    engine.clear()
    started = time.perf_counter()
    for first in range(0, len(tokens), 512):
        part = tokens[first : first + 512]
        engine.decode([(t, first + i, 0, first + i + 1 == len(tokens)) for i, t in enumerate(part)])
    engine.rows(1)[0].argmax()
    return time.perf_counter() - started


def decode_together(engine: Any, sequences: int, count: int) -> float:
    """Seconds for `count` greedy steps of `sequences` sequences."""
    engine.clear()
    entries = []
    for s in range(sequences):
        tokens = random_tokens(SEED_TOKENS, engine.vocabulary, s)
        entries += [(token, i, s, i + 1 == SEED_TOKENS) for i, token in enumerate(tokens)]
    engine.decode(entries)
    best = engine.rows(sequences).argmax(axis=1)
    started = time.perf_counter()
    for step in range(count):
        engine.decode([(int(best[s]), SEED_TOKENS + step, s, True) for s in range(sequences)])
        best = engine.rows(sequences).argmax(axis=1)
    return time.perf_counter() - started


def worker(args: argparse.Namespace) -> None:
    """One engine's measurement, as JSON on stdout."""
    if args.worker == "pyllm":
        found: dict[str, Rates] = {"pyllm": measure_pyllm(args.models[0], args)}
    elif args.worker == "llama.cpp":
        found = measure_llama_cpp(args.models[0], args)
    else:
        started = time.perf_counter()
        sys.path.insert(0, str(HERE.parent / "oracle"))
        import llama_cpp  # noqa: F401
        from engines import LlamaCpp

        imported = time.perf_counter()
        engine = LlamaCpp(args.models[0], context=2048, threads=args.threads)
        engine.greedy(engine.tokenize("Hi"), 1)
        found = {"start": {"import": imported - started, "rest": time.perf_counter() - imported}}
    print(json.dumps(found))


def start(python: str, name: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    command = [python, str(HERE / "compare.py"), model, "--worker", name]
    for option in ("prompt", "gen", "batch", "batch_gen", "threads"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_speed(model: str, args: argparse.Namespace) -> dict[str, Any]:
    samples: dict[str, dict[str, list[float]]] = {}
    for repeat in range(args.repeats):
        for name, python in (("pyllm", sys.executable), ("llama.cpp", args.llama_python)):
            print(f"{Path(model).name}: repeat {repeat + 1} of {args.repeats}, {name}", file=sys.stderr)
            for label, rates in start(python, name, model, args).items():
                for test, rate in rates.items():
                    samples.setdefault(test, {}).setdefault(label, []).append(rate)
    tests = {}
    for test, engines in samples.items():
        figures = {label: spread(rates) for label, rates in engines.items()}
        best = max((label for label in figures if label != "pyllm"), key=lambda label: figures[label]["median"])
        tests[test] = {
            "engines": figures,
            "best_peer": best,
            "ratio": figures["pyllm"]["median"] / figures[best]["median"],
        }
    return tests


def spread(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": [round(v, 3) for v in values],
    }


def compare_startup(model: str, args: argparse.Namespace) -> dict[str, Any]:
    beside = Path(sys.executable).with_name("pyllm")
    installed = str(beside) if beside.exists() else shutil.which("pyllm")
    ours = [installed] if installed else [sys.executable, "-m", "pyllm"]
    ours += ["generate", model, "-p", "Hi", "--max-tokens", "1"]
    script = str(HERE / "compare.py")
    theirs = [args.llama_python, script, model, "--worker", "start", "--threads", str(args.threads)]
    figures: dict[str, dict[str, list[float]]] = {}
    for repeat in range(args.repeats + 1):
        for label, command in (("pyllm", ours), ("llama.cpp", theirs)):
            seconds, busy, megabytes, output = timed(command)
            if repeat == 0:
                continue  # fills the page cache
            values = {"whole process, s": seconds, "processor time, s": busy, "peak memory, MB": megabytes}
            if label == "llama.cpp":
                values["without the interpreter and imports, s"] = json.loads(output)["start"]["rest"]
            for name, value in values.items():
                figures.setdefault(name, {}).setdefault(label, []).append(value)
    return {
        name: {"engines": {label: spread(values) for label, values in engines.items()}}
        | ({"ratio": ratio(engines)} if "pyllm" in engines else {})
        for name, engines in figures.items()
    }


def ratio(engines: dict[str, list[float]]) -> float:
    return statistics.median(engines["pyllm"]) / statistics.median(engines["llama.cpp"])


def timed(command: list[str]) -> tuple[float, float, float, str]:
    """(seconds, processor seconds, peak resident megabytes, stdout) of one process."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])} failed with {process.returncode}")
    seconds = time.perf_counter() - started
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000, output


def machine() -> dict[str, Any]:
    from pyllm import _core

    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":", 1)[1].strip() if lines else cpu
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "isa": _core.active_isa(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def show(model: str, tests: dict[str, Any]) -> None:
    print(f"\n{model}\n{'':40} {'engine':28} {'median':>9} {'min':>9} {'max':>9}  pyllm / llama.cpp")
    for test, result in tests.items():
        for label, figures in result["engines"].items():
            numbers = " ".join(f"{figures[key]:9.2f}" for key in ("median", "min", "max"))
            mark = f"  {result['ratio']:.2f}" if label == "pyllm" else ""
            print(f"{test:40} {label:28} {numbers}{mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--gen", type=int, default=128, help="tokens to decode alone")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--batch-gen", type=int, default=32, help="tokens to decode per sequence of a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--note", default="", help="kept in the results: what was changed, for instance")
    parser.add_argument("--llama-python", default=sys.executable)
    parser.add_argument("--output", type=Path, help="where to write the JSON")
    parser.add_argument("--worker", choices=("pyllm", "llama.cpp", "start"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args)
        return
    run = compare_startup if args.startup else compare_speed
    report = {"kind": "startup" if args.startup else "speed", "note": args.note, "threads": args.threads}
    report |= {"machine": machine(), "models": {}}
    for model in args.models:
        report["models"][Path(model).name] = run(model, args)
        show(Path(model).name, report["models"][Path(model).name])
    stamp = report["machine"]["date"][:16].replace(":", "").replace("T", "-")
    output = args.output or HERE / "results" / f"{report['kind']}-{stamp}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten: {output.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
