"""Prometheus metrics: names and units by its conventions."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from pyllm.errors import PyllmError

if TYPE_CHECKING:
    from prometheus_client import Metric

    from pyllm.server.exchange import Exchange

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)

# Of the engine's counters: (its name, ours, what it is, whether it only grows).
_ENGINE = (
    ("running", "pyllm_requests_running", "Answers being computed.", False),
    ("waiting", "pyllm_requests_waiting", "Answers waiting in the engine.", False),
    ("blocks_total", "pyllm_kv_blocks", "KV blocks of 16 tokens.", False),
    ("blocks_free", "pyllm_kv_blocks_free", "KV blocks that hold nothing.", False),
    ("blocks_cached", "pyllm_kv_blocks_cached", "KV blocks kept for prompts that begin alike.", False),
    ("prefix_hit_tokens", "pyllm_prefix_cache_hit_tokens", "Tokens taken from the prefix cache.", True),
    ("preemptions", "pyllm_preemptions", "Answers interrupted for lack of KV blocks.", True),
    ("steps", "pyllm_engine_steps", "Steps of the engine.", True),
    ("tokens_computed", "pyllm_engine_tokens", "Tokens computed, of prompts and of answers.", True),
)


class Metrics:
    """The server's metrics in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "pyllm_requests", "Requests answered.", ["path", "method", "status"], registry=self.registry
        )
        self._duration = self._histogram("pyllm_request_duration_seconds", "From arrival to the last byte.")
        self._queue = self._histogram("pyllm_request_queue_seconds", "Waiting before the prompt is computed.")
        self._first = self._histogram("pyllm_time_to_first_token_seconds", "From arrival to the first token.")
        self._prompt = self._counter("pyllm_prompt_tokens", "Tokens of prompts.")
        self._cached = self._counter("pyllm_prompt_cached_tokens", "Of them, not computed again.")
        self._generated = self._counter("pyllm_generation_tokens", "Tokens of answers.")
        self._rows = self._counter("pyllm_batch_rows", "Rows of jobs that were answered.")
        self._failed_rows = self._counter("pyllm_batch_rows_failed", "Rows of jobs that failed.")
        self._left = Counter(
            "pyllm_clients_left", "Requests whose client did not wait for the answer.", registry=self.registry
        )
        self._loads = self._counter("pyllm_model_loads", "Times that a model was loaded.")
        self._load_failures = self._counter("pyllm_model_load_failures", "Times that it could not be loaded.")
        self._load_s = Gauge("pyllm_model_load_seconds", "Of its last load.", ["model"], registry=self.registry)
        self._gaps = _Gaps()
        self.registry.register(self._gaps)
        self._engines = _Engines()
        self.registry.register(self._engines)
        ProcessCollector(registry=self.registry)

    # -- models ------------------------------------------------------------------------------------------------

    def watch(self, model: str, stats: Callable[[], dict[str, int] | None]) -> None:
        """Shows a model and its engine's own counters; `stats` has none while it is not loaded."""
        self._engines.watch(model, stats)
        self._loads.labels(model)
        self._load_failures.labels(model)

    def gaps(self, model: str) -> Callable[[float], None]:
        """To be told the seconds between two pieces of an answer: called for each, so it is quick."""
        return self._gaps.observer(model)

    def loaded(self, model: str, seconds: float) -> None:
        self._loads.labels(model).inc()
        self._load_s.labels(model).set(seconds)

    def load_failed(self, model: str) -> None:
        self._load_failures.labels(model).inc()

    def unloaded(self, model: str) -> None:
        """Before it is: its counters go on from here when it is loaded again."""
        self._engines.keep(model)

    # -- requests ----------------------------------------------------------------------------------------------

    def finished(self, exchange: Exchange, path: str) -> None:
        """Counts a request. `path`: a route's, or one word for all that are none."""
        self._requests.labels(path, exchange.method, str(exchange.status)).inc()
        self._left.inc(exchange.status == 499)
        model = exchange.model
        if not model:
            return
        self._duration.labels(model).observe(time.perf_counter() - exchange.started)
        self._count_tokens(exchange)
        if exchange.queue_s is not None:
            self._queue.labels(model).observe(exchange.queue_s)
        if exchange.first_token_s is not None:
            self._first.labels(model).observe(exchange.first_token_s)

    def row(self, exchange: Exchange, failed: bool) -> None:
        """Counts a row of a job; how long it took says nothing, as it runs when there is room."""
        (self._failed_rows if failed else self._rows).labels(exchange.model).inc()
        self._count_tokens(exchange)

    def _count_tokens(self, exchange: Exchange) -> None:
        self._prompt.labels(exchange.model).inc(exchange.prompt_tokens)
        self._cached.labels(exchange.model).inc(exchange.cached_tokens)
        self._generated.labels(exchange.model).inc(exchange.completion_tokens)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, ["model"], registry=self.registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, ["model"], buckets=_SECONDS, registry=self.registry)


class _Gaps:
    """A histogram for one thread: no lock, one addition per token."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[list[int], list[float]]] = {}  # model -> (counts, [sum])

    def observer(self, model: str) -> Callable[[float], None]:
        counts, total = self._of.setdefault(model, ([0] * (len(_GAPS) + 1), [0.0]))

        def observe(seconds: float) -> None:
            counts[bisect_left(_GAPS, seconds)] += 1
            total[0] += seconds

        return observe

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "pyllm_inter_token_latency_seconds", "Between two pieces of an answer.", labels=["model"]
        )
        for model, (counts, total) in self._of.items():
            ends = [*map(str, _GAPS), "+Inf"]
            family.add_metric([model], list(zip(ends, accumulate(counts), strict=True)), total[0])
        yield family


class _Engines:
    """The engines' own counters. Those of a model that is unloaded keep their values, its gauges are 0."""

    def __init__(self) -> None:
        self._stats: dict[str, Callable[[], dict[str, int] | None]] = {}
        self._before: dict[str, dict[str, int]] = {}  # counted by engines that have ended

    def watch(self, model: str, stats: Callable[[], dict[str, int] | None]) -> None:
        self._stats[model] = stats

    def keep(self, model: str) -> None:
        self._before[model] = self._now(model)[1]

    def _now(self, model: str) -> tuple[bool, dict[str, int]]:
        """Whether it is loaded, and its counts."""
        try:
            stats = self._stats[model]()
        except PyllmError:  # it has ended
            stats = None
        before = self._before.get(model, {})
        counts = {}
        for name, _, _, grows in _ENGINE:
            counts[name] = (stats or {}).get(name, 0) + (before.get(name, 0) if grows else 0)
        return stats is not None, counts

    def collect(self) -> Iterator[Metric]:
        now = {model: self._now(model) for model in self._stats}
        loaded = GaugeMetricFamily("pyllm_model_loaded", "1 while the model is loaded.", labels=["model"])
        for model, (is_loaded, _) in now.items():
            loaded.add_metric([model], is_loaded)
        yield loaded
        for name, ours, about, grows in _ENGINE:
            family = (CounterMetricFamily if grows else GaugeMetricFamily)(ours, about, labels=["model"])
            for model, (_, counts) in now.items():
                family.add_metric([model], counts[name])
            yield family
        used = GaugeMetricFamily(
            "pyllm_kv_usage_ratio",
            "KV blocks that hold something, of answers or for reuse, 0 to 1.",
            labels=["model"],
        )
        for model, (_, counts) in now.items():
            total = counts["blocks_total"]
            used.add_metric([model], (total - counts["blocks_free"]) / total if total else 0.0)
        yield used
