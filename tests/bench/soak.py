"""Mixed traffic against `pyllm serve` for a while: in the end it must hold what it held in the beginning.

    python tests/bench/soak.py smollm2-135m --minutes 20 --clients 64
    python tests/bench/soak.py smollm2-135m --minutes 10 --clients 320    # ten times what the server takes
    python tests/bench/soak.py smollm2-135m --only leave,half --answers 10000    # disconnects

Clients stream, ask for whole answers, call tools, go on with earlier responses, read slowly or not, leave in
the middle, send nonsense, and are more than the server takes at once. Prints one JSON document: answers by
status, how soon a refusal came; memory, file descriptors, threads, running answers and KV blocks before and
after, and memory over time. Exit code 1 when any answer was a 5xx, something was not given back, or memory has
grown by more than --grown-mb since the first third: what grows only until its bound has reached it by then.
Memory is the process's own. Pages of the model's file count apart: they come as rows of the embedding are read
for the first time, and the system takes them back when it likes. The KV pool is small: soon all of it is used.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import math
import os
import random
import re
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from serve import start_server
from words import WORDS

NONSENSE = (
    b"{",
    b"[]",
    b'{"prompt": 3}',
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "x", "temperature": "warm"}',
    b'{"prompt": ' + b"[" * 3000,
    b"\xff\xfe" * 100,
)


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
KINDS = {
    "stream": 30,
    "whole": 15,
    "tools": 10,
    "messages": 5,
    "responses": 10,
    "slow": 5,
    "deaf": 2,
    "leave": 15,
}
KINDS |= {"nonsense": 5, "half": 3}
kept: list[str] = []  # ids of responses to go on with


def request_of(kind: str, source: random.Random) -> tuple[str, dict[str, Any]]:
    """A path and a body."""
    text = " ".join(source.choice(WORDS) for _ in range(source.randint(1, 120)))
    tokens = source.randint(1, 64)
    messages = [{"role": "user", "content": text}]
    if kind == "tools":
        return "/v1/chat/completions", {
            "messages": messages,
            "tools": [WEATHER],
            "max_tokens": tokens,
            "stream": source.random() < 0.5,
        }
    if kind == "messages":
        return "/v1/messages", {"messages": messages, "max_tokens": tokens, "stream": source.random() < 0.5}
    if kind == "responses":
        before = {"previous_response_id": source.choice(kept[-20:])} if kept and source.random() < 0.5 else {}
        return "/v1/responses", {"input": text[:50], "max_output_tokens": 16, **before}
    fields = {"prompt": text, "max_tokens": tokens, "ignore_eos": True, "priority": source.randint(-1, 1)}
    fields |= {"n": source.choice((1, 1, 1, 2)), "stream": kind != "whole"}
    if kind == "deaf":
        fields |= {"n": 4, "max_tokens": 400}
    return "/v1/completions", fields


async def one(port: int, source: random.Random, kinds: dict[str, int]) -> tuple[str, float]:
    """One client: (status, or what it did itself, seconds to the first byte)."""
    kind = source.choices(tuple(kinds), tuple(kinds.values()))[0]
    path, fields = request_of(kind, source)
    body = source.choice(NONSENSE) if kind == "nonsense" else json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    data = head.encode() + b"Connection: close\r\n\r\n" + body
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024 if kind == "deaf" else 1 << 16)
    try:
        writer.write(data[: len(data) // 2] if kind == "half" else data)
        if kind == "half":
            await asyncio.sleep(source.random() * 0.2)
            return "left", 0.0
        first = await reader.readline()
        seconds = time.perf_counter() - started
        if kind in ("leave", "deaf"):
            await asyncio.sleep(source.random() * (0.5 if kind == "leave" else 4))
            return "left", 0.0
        answer = b""
        while piece := await reader.read(100 if kind == "slow" else 65536):
            answer = piece if kind != "responses" else answer + piece
            if kind == "slow":
                await asyncio.sleep(0.01)
        if kind == "responses" and (found := re.search(rb'"id":"(resp_\w+)"', answer)):
            kept.append(found[1].decode())
            del kept[:-1000]
        return first.split(b" ")[1].decode() if first else "closed", seconds
    finally:
        writer.transport.abort()


async def traffic(
    pid: int, port: int, clients: int, seconds: float, kinds: dict[str, int], answers: float = math.inf
) -> tuple[collections.Counter[str], list[float], list[float]]:
    """(answers by status, seconds to each refusal, own memory in MB over time)."""
    statuses: collections.Counter[str] = collections.Counter()
    refused: list[float] = []
    memory = [own_mb(pid)]
    until = time.monotonic() + seconds

    async def client(number: int) -> None:
        source = random.Random(number)
        while time.monotonic() < until and statuses.total() < answers:
            try:
                status, seconds = await one(port, source, kinds)
            except OSError as error:
                status, seconds = type(error).__name__, 0.0
            statuses[status] += 1
            if status == "429":
                refused.append(seconds)
                await asyncio.sleep(source.random() * 0.2)

    async def watch() -> None:
        while len(memory) < 31 and statuses.total() < answers:
            await asyncio.sleep(seconds / 30)
            memory.append(own_mb(pid))

    await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    return statuses, refused, memory


def status_of(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) if found else -1


def own_mb(pid: int) -> float:
    return round(status_of(pid, "RssAnon") / 1024, 1)


def holds(pid: int, port: int) -> dict[str, float]:
    """What the server holds now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()

    def metric(name: str) -> float:
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)))

    return {
        "own_mb": own_mb(pid),
        "of_files_mb": round(status_of(pid, "RssFile") / 1024, 1),
        "descriptors": min(descriptors(pid) for _ in range(5)),
        "threads": status_of(pid, "Threads"),
        "running": metric("pyllm_requests_running") + metric("pyllm_requests_waiting"),
        "blocks_free_or_cached": metric("pyllm_kv_blocks_free") + metric("pyllm_kv_blocks_cached"),
    }


def descriptors(pid: int) -> int:
    """Open files and connections; the last connection takes a moment to go."""
    time.sleep(0.2)
    return len(os.listdir(f"/proc/{pid}/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--grown-mb", type=float, default=4, help="that are no leak yet")
    parser.add_argument("serve", nargs="*", help="options of pyllm serve, after --")
    parser.add_argument("--only", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--answers", type=float, default=math.inf, help="end when there were so many")
    args = parser.parse_args()
    kinds = {name: KINDS[name] for name in args.only.split(",")} if args.only else KINDS
    bounds = ["--max-sequences", "16", "--max-queue", "16", "--kv-memory", "128MiB"]
    server, port = start_server(args.model, [*bounds, *args.serve])
    try:
        warm = min(60.0, args.minutes * 6)
        asyncio.run(traffic(server.pid, port, args.clients, warm, KINDS))  # what grows once has grown
        time.sleep(2)
        before = holds(server.pid, port)
        statuses, refused, memory = asyncio.run(
            traffic(server.pid, port, args.clients, args.minutes * 60, kinds, args.answers)
        )
        time.sleep(5)
        after = holds(server.pid, port)
    finally:
        server.terminate()
        code = server.wait()
    report: dict[str, Any] = {"answers": dict(statuses.most_common()), "before": before, "after": after}
    report["own_mb_over_time"] = memory
    if refused:
        report["refusal_ms"] = {
            "median": round(statistics.median(refused) * 1000, 2),
            "p99": round(sorted(refused)[int(len(refused) * 0.99)] * 1000, 2),
        }
    report["exit_code"] = code
    failed = [status for status in statuses if status.startswith("5")]
    same = ("running", "blocks_free_or_cached", "threads")
    lost = any(after[name] != before[name] for name in same) or after["descriptors"] > before["descriptors"]
    third = -(-len(memory) // 3)
    grown = memory[-1] - max(memory[:third])
    print(json.dumps(report, indent=2))
    sys.exit(1 if failed or lost or code or grown > args.grown_mb else 0)


if __name__ == "__main__":
    main()
