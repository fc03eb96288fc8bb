"""llama.cpp's side of compare.py, through llama-cpp-python's low-level binding. Needs nothing of pyllm itself.

Reads one JSON request a line, answers with one JSON line. A setting is {"fused": fused attention or not,
"ubatch": tokens computed at once, "threads"}. Contexts stay open with their depth computed, until "keep" names
the settings that are still wanted. With --start it measures a start instead, by the lines that
pyllm/bench/start.py reads.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
from llama_cpp_calls import decode, load, rows

SEED_TOKENS = 1  # in front of what is decoded


class Context:
    """Room for `batch` sequences of `length` tokens, each with `depth` tokens computed."""

    def __init__(self, model: Any, setting: dict[str, Any], batch: int, depth: int, length: int) -> None:
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = batch * -(-length // 256) * 256
        options.n_batch = max(512, setting["ubatch"])
        options.n_ubatch = setting["ubatch"]
        options.n_seq_max = batch
        options.kv_unified = batch == 1
        options.n_threads = options.n_threads_batch = setting["threads"]
        options.flash_attn_type = int(setting["fused"])
        self._context = llama_cpp.llama_init_from_model(model, options)
        if not self._context:
            raise SystemExit(f"llama.cpp cannot make a context of {options.n_ctx} tokens with {setting}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._room = options.n_batch
        self._entries = llama_cpp.llama_batch_init(self._room, 0, 1)
        self._depth, self._batch = depth, batch
        self._source = random.Random(0)
        for sequence in range(batch):
            self._read(self._tokens(depth), 0, sequence)

    def run(self, test: str, tokens: int, threads: int) -> float:
        """Seconds that the sequences take for `tokens` tokens after the depth."""
        llama_cpp.llama_set_n_threads(self._context, threads, threads)
        for sequence in range(self._batch):
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, self._depth, -1)
        if test == "prompt":
            prompt = self._tokens(tokens)
            started = time.perf_counter()
            self._read(prompt, self._depth, 0)
            self._best(1)
            return time.perf_counter() - started
        first = [(token, self._depth, s, True) for s, token in enumerate(self._tokens(self._batch))]
        self._decode(first)
        best = self._best(self._batch)
        started = time.perf_counter()
        for step in range(tokens):
            at = self._depth + SEED_TOKENS + step
            self._decode([(int(best[s]), at, s, True) for s in range(self._batch)])
            best = self._best(self._batch)
        return time.perf_counter() - started

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._entries)
        llama_cpp.llama_free(self._context)

    def _tokens(self, count: int) -> list[int]:
        return [self._source.randrange(self._vocab) for _ in range(count)]

    def _read(self, tokens: list[int], start: int, sequence: int) -> None:
        last = start + len(tokens) - 1
        for first in range(0, len(tokens), self._room):
            part = enumerate(tokens[first : first + self._room], start + first)
            self._decode([(token, at, sequence, at == last) for at, token in part])

    def _decode(self, entries: list[tuple[int, int, int, bool]]) -> None:
        decode(self._context, self._entries, entries)

    def _best(self, count: int) -> np.ndarray:
        """Most probable tokens of the last step, [count]. Waits for the step."""
        return rows(self._context, count, self._vocab).argmax(axis=1)


def start(path: str, threads: int) -> None:
    began = time.perf_counter()
    model = load(path)
    context = Context(model, {"fused": True, "ubatch": 512, "threads": threads}, 1, 0, 2048)
    load_s = time.perf_counter() - began
    print("ready", flush=True)
    context.run("prompt", 2, threads)
    print("token", flush=True)
    peak = 0
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            peak = int(line.split()[1]) * 1024
    print(json.dumps({"load_s": load_s, "peak_bytes": peak}))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--start", action="store_true")
    args = parser.parse_args()
    if args.start:
        start(args.model, args.threads)
        return
    model = load(args.model)
    contexts: dict[tuple[Any, ...], Context] = {}

    def answer(request: dict[str, Any]) -> object:
        if request["do"] == "about":
            built = llama_cpp.llama_print_system_info().decode()
            return {"version": llama_cpp.__version__, "system": built}
        if request["do"] == "keep":
            wanted = [(setting["fused"], setting["ubatch"]) for setting in request["settings"]]
            for key in [key for key in contexts if key[:2] not in wanted]:
                contexts.pop(key).close()
            return None
        test, setting = request["test"], request["setting"]
        key = (setting["fused"], setting["ubatch"], test["batch"], test["context"], request["length"])
        if key not in contexts:
            contexts[key] = Context(model, setting, test["batch"], test["context"], request["length"])
        tokens = test["tokens"]
        if request["do"] == "warm_up":
            tokens = tokens if test["test"] == "prompt" else min(tokens, 4)
        seconds = contexts[key].run(test["test"], tokens, setting["threads"])
        return test["batch"] * tokens / seconds

    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        raise SystemExit(str(error)) from None
