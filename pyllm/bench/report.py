"""A bench from its first measurement to its report: whatever was measured when it was interrupted counts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyllm import _core
from pyllm.bench.machine import describe, machine
from pyllm.bench.memory import peak_resident_bytes, reset_peak
from pyllm.bench.speed import Speed, Test
from pyllm.bench.start import Start, measure_start
from pyllm.bench.work import Work

if TYPE_CHECKING:
    from pyllm.llm import LLM

Tell = Callable[[str], None]  # what is being measured now


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {key: round(value, digits) for key, value in figures.items()}


@dataclass
class Bench:
    """A model's tests and what they have shown so far."""

    name: str
    path: Path
    tests: Sequence[Test]
    threads: int
    repeat: int
    with_start: bool = True
    where: Mapping[str, Any] = field(default_factory=dict)  # LLM's device and gpu_layers
    ceilings: dict[str, float] = field(default_factory=dict)
    starts: list[Start] = field(default_factory=list)
    rates: dict[Test, list[float]] = field(default_factory=dict)
    run_peak_bytes: int = 0
    work: Work | None = None
    placed: str = "cpu"

    def run(self, tell: Tell) -> None:
        """Measures everything, into the fields above; interrupted, they hold what there is."""
        self._plan()
        tell("ceilings")
        self._measure_ceilings()
        tell("first start")  # fills the page cache and keeps the packed weights
        measure_start(self.path, self.threads, self.where)
        for repeat in range(self.repeat if self.with_start else 0):
            tell(f"start, {repeat + 1} of {self.repeat}")
            self.starts.append(measure_start(self.path, self.threads, self.where))
        if self.tests:
            tell("loading")
            self._measure_speed(tell)
        tell("ceilings")
        self._measure_ceilings()

    def _plan(self) -> None:
        """PyllmError at once when the device is not there, or the layers do not fit."""
        from pyllm.plan import Demand, plan_model

        demand = Demand(self.where.get("gpu_layers"))
        self.placed = plan_model(_core.GgufFile(self.path), self.where.get("device", "auto"), demand).describe()

    def _measure_speed(self, tell: Tell) -> None:
        with self._open() as llm:
            self.work = Work.of(_core.GgufFile(self.path), llm.config.kv_bytes_per_token)
            speed = Speed(llm)
            for test in self.tests:
                speed.check(test)
            try:
                for test in self.tests:
                    tell(f"{test}, warming up")
                    speed.warm_up(test)
                    for repeat in range(self.repeat):
                        tell(f"{test}, {repeat + 1} of {self.repeat}")
                        rate = speed.rate(test)
                        self.rates.setdefault(test, []).append(rate)
            finally:
                self.run_peak_bytes = peak_resident_bytes()

    def _measure_ceilings(self) -> None:
        """Before and after everything else, and the better counts: a neighbour may slow down one of them.

        The CPU's are no measure of what runs on a GPU: there are none then.
        """
        if self.placed != "cpu":
            return
        for name, value in _core.measure_ceilings(self.threads).items():
            self.ceilings[name] = max(value, self.ceilings.get(name, 0.0))
        reset_peak()  # its buffers are not the model's

    def _open(self) -> LLM:
        from pyllm.llm import LLM

        llm = LLM(
            self.path,
            threads=self.threads,
            context=max(test.length for test in self.tests),
            max_sequences=max(test.batch for test in self.tests),
            **self.where,
        )
        self.placed = llm.device
        llm.settle()
        return llm

    def report(self) -> dict[str, Any]:
        """The JSON document of `pyllm bench`."""
        about = machine()
        document: dict[str, Any] = {
            "model": self.name,
            "threads": self.threads,
            "isa": _core.active_isa(),
            "device": describe(about) if self.placed == "cpu" else self.placed,
            "machine": about,
            "repeat": self.repeat,
            "ceilings": {key: round(value, 3) for key, value in self.ceilings.items()},
            "results": [self._result(test, rates) for test, rates in self.rates.items()],
        }
        if self.starts:
            document["start"] = {
                key: spread([getattr(start, key) for start in self.starts], 4)
                for key in ("ready_s", "first_token_s", "load_s")
            }
        document["memory"] = self._memory()
        return document

    def _result(self, test: Test, rates: list[float]) -> dict[str, Any]:
        assert self.work is not None
        median = statistics.median(rates)
        if test.test == "prompt":
            need = self.work.prompt(test.tokens, test.context)
        else:
            need = self.work.decode(test.tokens, test.batch, test.context)
        return {
            "test": test.test,
            "tokens": test.tokens,
            "batch": test.batch,
            "context": test.context,
            "tokens_per_second": spread(rates),
            "of_ceiling": need.shares(test.batch * test.tokens / median, self.ceilings)
            if self.ceilings
            else {},
        }

    def _memory(self) -> dict[str, int]:
        memory = {"file_bytes": _core.GgufFile(self.path).file_bytes}
        if self.work is not None:
            memory["kv_bytes_per_token"] = self.work.kv_bytes_per_token
        if self.starts:
            memory["start_peak_bytes"] = max(start.peak_bytes for start in self.starts)
        if self.run_peak_bytes:
            memory["run_peak_bytes"] = self.run_peak_bytes
        return memory
