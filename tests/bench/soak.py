"""Mixed traffic against `pyllm serve` for a while: in the end it must hold what it held in the beginning.

    python tests/bench/soak.py smollm2-135m --minutes 20 --clients 64

Clients stream, ask for whole answers, leave in the middle, send nonsense, and are more than the server takes at
once. Prints one JSON document: answers by status, how soon a refusal came; memory, file descriptors, running
answers and KV blocks before and after. Exit code 1 when any answer was a 5xx or something was not given back.
The KV pool is small, so that all of it has been used, and counts as memory, before the count begins.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
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
from serve import WORDS, start_server

NONSENSE = (
    b"{",
    b"[]",
    b'{"prompt": 3}',
    b'{"prompt": "x", "max_tokens": -1}',
    b'{"prompt": "x", "temperature": "warm"}',
    b'{"prompt": ' + b"[" * 3000,
    b"\xff\xfe" * 100,
)


async def one(port: int, source: random.Random) -> tuple[str, float]:
    """One client: (status, or what it did itself, seconds to the first byte)."""
    kind = source.choices(("stream", "whole", "leave", "nonsense", "half"), (40, 25, 20, 10, 5))[0]
    text = " ".join(source.choice(WORDS) for _ in range(source.randint(1, 120)))
    fields = {"prompt": text, "max_tokens": source.randint(1, 64), "ignore_eos": True}
    fields |= {"n": source.choice((1, 1, 1, 2)), "stream": kind != "whole", "priority": source.randint(-1, 1)}
    body = source.choice(NONSENSE) if kind == "nonsense" else json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    data = head.encode() + b"Connection: close\r\n\r\n" + body
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data[: len(data) // 2] if kind == "half" else data)
        if kind == "half":
            await asyncio.sleep(source.random() * 0.2)
            return "left", 0.0
        first = await reader.readline()
        seconds = time.perf_counter() - started
        if kind == "leave":
            await asyncio.sleep(source.random() * 0.5)
            return "left", 0.0
        while await reader.read(65536):
            pass
        return first.split(b" ")[1].decode() if first else "closed", seconds
    finally:
        writer.transport.abort()


async def traffic(port: int, clients: int, until: float) -> tuple[collections.Counter[str], list[float]]:
    statuses: collections.Counter[str] = collections.Counter()
    refused: list[float] = []

    async def client(number: int) -> None:
        source = random.Random(number)
        while time.monotonic() < until:
            try:
                status, seconds = await one(port, source)
            except OSError as error:
                status, seconds = type(error).__name__, 0.0
            statuses[status] += 1
            if status == "429":
                refused.append(seconds)
                await asyncio.sleep(source.random() * 0.2)

    await asyncio.gather(*(client(number) for number in range(clients)))
    return statuses, refused


def holds(pid: int, port: int) -> dict[str, float]:
    """What the server holds now."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        text = reply.read().decode()

    def metric(name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else -1.0

    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+)", status)
    return {
        "rss_mb": round(int(resident[1]) / 1024, 1) if resident else -1.0,
        "descriptors": min(descriptors(pid) for _ in range(5)),
        "running": metric("pyllm_requests_running") + metric("pyllm_requests_waiting"),
        "blocks_held": metric("pyllm_kv_blocks")
        - metric("pyllm_kv_blocks_free")
        - metric("pyllm_kv_blocks_cached"),
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
    parser.add_argument("serve", nargs="*", help="options of pyllm serve, after --")
    args = parser.parse_args()
    bounds = ["--max-sequences", "16", "--max-queue", "16", "--kv-memory", "128MiB"]
    server, port = start_server(args.model, [*bounds, *args.serve])
    try:
        warm = min(10.0, args.minutes * 6)
        asyncio.run(traffic(port, args.clients, time.monotonic() + warm))  # what grows once has grown
        time.sleep(2)
        before = holds(server.pid, port)
        statuses, refused = asyncio.run(traffic(port, args.clients, time.monotonic() + args.minutes * 60))
        time.sleep(2)
        after = holds(server.pid, port)
    finally:
        server.terminate()
        code = server.wait()
    report: dict[str, Any] = {"answers": dict(statuses.most_common()), "before": before, "after": after}
    if refused:
        report["refusal_ms"] = {
            "median": round(statistics.median(refused) * 1000, 2),
            "p99": round(sorted(refused)[int(len(refused) * 0.99)] * 1000, 2),
        }
    report["exit_code"] = code
    failed = [status for status in statuses if status.startswith("5")]
    lost = after["running"] or after["blocks_held"] or after["descriptors"] > before["descriptors"]
    print(json.dumps(report, indent=2))
    sys.exit(1 if failed or lost or code else 0)


if __name__ == "__main__":
    main()
