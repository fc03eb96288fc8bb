"""Jobs over a model that answers by rule, at once or after a while: what pyllm/batch does alone."""

from __future__ import annotations

import asyncio
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyllm.batch.forms import Forms
from pyllm.batch.job import Counts, Job, Plan, recovered
from pyllm.batch.output import Output
from pyllm.batch.reading import read_lines
from pyllm.batch.row import Row, RowError
from pyllm.batch.source import rows_left
from pyllm.batch.window import Ready

NAME = "0123abcd"


class Rule:
    """Answers a prompt with its capitals. "fail" fails, "bad" is never ready, "long" takes its time."""

    def __init__(self, pause: Callable[[], float] = lambda: 0.0) -> None:
        self.pause = pause
        self.asked: list[int] = []
        self.answered: list[int] = []
        self.before: Callable[[Row], None] = lambda row: None

    def prepare(self, row: Row) -> Ready:
        prompt = row.body["prompt"]
        if prompt == "bad":
            raise RowError("context_length_exceeded", "prompt: 9 tokens are more than the 4 of the context")
        return Ready(row, None, list(prompt.encode()), len(prompt) + row.body["max_tokens"])

    async def answer(self, ready: Ready) -> dict[str, Any]:
        self.asked.append(ready.row.number)
        self.before(ready.row)
        await asyncio.sleep(30.0 if ready.row.body["prompt"] == "long" else self.pause())
        prompt = ready.row.body["prompt"]
        if prompt == "fail":
            raise RowError("generation_failed", "logits: expected numbers, got NaN", 500)
        self.answered.append(ready.row.number)
        text = prompt.upper() * 3
        chance = random.random()
        return {
            "id": f"cmpl-{chance}",
            "created": chance,
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 3,
                "prompt_tokens_details": chance,
            },
            "timings": {"decode_s": chance},
        }


def jsonl(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def prompts(count: int) -> bytes:
    return jsonl(
        *({"custom_id": f"row {i}", "prompt": f"prompt {i} " + "x" * (i * 7 % 40)} for i in range(count))
    )


def run_job(
    data: bytes,
    output: Path,
    rule: Rule | None = None,
    *,
    errors: Path | None = None,
    ordered: bool = False,
    forms: Forms | None = None,
    overwrite: bool = False,
    name: str = NAME,
    slots: int = 8,
    watch: Callable[[Job], None] = lambda job: None,
) -> Counts:
    """A job as the command runs it."""
    files = [Output(path, name, overwrite) for path in (output, errors) if path is not None]
    try:
        plan = Plan(
            lambda: read_lines(io.BytesIO(data)),
            forms or Forms(),
            files[0],
            name,
            files[1] if errors else None,
            ordered,
            lambda: slots,
        )
        done = recovered(plan)
        if not rows_left(plan.records, done):
            return Counts(skipped=done.count, finished=True)

        async def run() -> Counts:
            job = Job(plan, done, rule or Rule())
            watch(job)
            return await job.run()

        return asyncio.run(run())
    finally:
        for file in files:
            file.close()


def lines(path: Path) -> list[bytes]:
    data = path.read_bytes()
    assert not data or data.endswith(b"\n")
    return data.splitlines()
