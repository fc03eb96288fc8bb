"""Streaming clients against `pyllm serve`, over loopback: how fast, how soon, and what the server itself costs.

    python tests/bench/serve.py smollm2-135m --clients 8,32 --gen 64

Prints one JSON document. Per number of clients: aggregate tokens per second over the whole run, prompts
included; decode tokens per second while all clients are decoding (from the last one's first token to the first
one's last); time to first token; and CPU time of the server's event loop per streamed token, requests included.
The clients are one process that only splits events; still they take some of the machine. Run it on a quiet one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from words import WORDS

# Not `-m pyllm`: from the repository's root that would find the source folder.
PYLLM = str(Path(sys.executable).with_name("pyllm"))


@dataclass
class Stream:
    """One client's request. Times in time.perf_counter() seconds."""

    sent: float = 0.0
    events: list[float] = field(default_factory=list)  # when each piece of text came
    text: bytes = b""


class Client(asyncio.Protocol):
    """Sends one request and notes when events come."""

    def __init__(self, request: bytes, done: asyncio.Future[Stream]) -> None:
        self._request = request
        self._done = done
        self._stream = Stream()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._stream.sent = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._stream.text += data
        self._stream.events += [now] * data.count(b'"delta":{"content":')

    def connection_lost(self, exc: Exception | None) -> None:
        if b"data: [DONE]" not in self._stream.text:
            self._done.set_exception(RuntimeError(self._stream.text[:500].decode("utf-8", "replace")))
        else:
            self._done.set_result(self._stream)


async def run_clients(port: int, count: int, generated: int, source: random.Random) -> list[Stream]:
    loop = asyncio.get_running_loop()
    waiting = []
    for _ in range(count):
        text = " ".join(source.choice(WORDS) for _ in range(source.randint(10, 70)))
        body = json.dumps(
            {
                "messages": [{"role": "user", "content": text}],
                "max_tokens": generated,
                "ignore_eos": True,
                "stream": True,
                "temperature": 0,
            }
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        done: asyncio.Future[Stream] = loop.create_future()
        request = head.encode() + b"Connection: close\r\n\r\n" + body
        await loop.create_connection(
            lambda request=request, done=done: Client(request, done), "127.0.0.1", port
        )
        waiting.append(done)
    return await asyncio.gather(*waiting)


def loop_cpu_s(pid: int) -> float:
    """CPU seconds of a process's main thread, where the event loop runs."""
    return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9


def measure(pid: int, port: int, clients: int, generated: int, source: random.Random) -> dict[str, float]:
    before = loop_cpu_s(pid)
    streams = asyncio.run(run_clients(port, clients, generated, source))
    time.sleep(0.2)
    cpu = loop_cpu_s(pid) - before
    tokens = clients * generated
    first = sorted(s.events[0] - s.sent for s in streams)
    whole = max(s.events[-1] for s in streams) - min(s.sent for s in streams)
    start, end = max(s.events[0] for s in streams), min(s.events[-1] for s in streams)
    decode = sum(start < event <= end for s in streams for event in s.events) / max(end - start, 1e-9)
    return {
        "tokens_per_second": tokens / whole,
        "decode_tokens_per_second": decode if end > start else 0.0,
        "first_token_s_median": statistics.median(first),
        "first_token_s_p99": first[min(len(first) - 1, int(len(first) * 0.99))],
        "loop_cpu_us_per_token": cpu / tokens * 1e6,
    }


def start_server(model: str, arguments: list[str]) -> tuple[subprocess.Popen[str], int]:
    command = [
        PYLLM,
        "serve",
        model,
        "--port",
        "0",
        "--log-format",
        "human",
        *arguments,
    ]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    port, said = 0, []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"listening on http://[^:]+:(\d+)", line):
            port = int(found[1])
        if "is ready" in line:
            break
    else:
        raise SystemExit(f"the server did not start:\n{''.join(said)}")
    # Its log must go on being read, by nobody who costs anything.
    subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
    return server, port


def bench(model: str, clients: list[int], generated: int) -> dict[int, float]:
    """`pyllm bench`'s batched decode, the measure for the others."""
    batches = ",".join(map(str, clients))
    command = [PYLLM, "bench", model, "--prompt", "64", "--batch", batches, "--json"]
    done = subprocess.run([*command, "--gen", str(generated), "--depth", "60"], capture_output=True, check=True)
    results = json.loads(done.stdout)["results"]
    return {r["batch"]: r["tokens_per_second"]["median"] for r in results if r["test"] == "decode"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--clients", default="8,32")
    parser.add_argument("--gen", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-bench", action="store_true", help="leave `pyllm bench` out")
    parser.add_argument("serve", nargs="*", help="options of pyllm serve, after --")
    args = parser.parse_args()
    clients = [int(count) for count in args.clients.split(",")]
    source = random.Random(0)
    server, port = start_server(args.model, args.serve)
    report: dict[str, object] = {"model": args.model, "cpus": os.cpu_count(), "results": []}
    try:
        measure(server.pid, port, max(clients), args.gen, source)  # not counted
        for count in clients:
            runs = [measure(server.pid, port, count, args.gen, source) for _ in range(args.repeat)]
            medians = {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}
            report["results"].append({"clients": count, **medians})  # type: ignore[attr-defined]
    finally:
        server.terminate()
        server.wait()
    if not args.no_bench:
        report["bench_decode_tokens_per_second"] = bench(args.model, clients, args.gen)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
