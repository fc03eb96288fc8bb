"""Prometheus metrics: names and units by its conventions."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

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
        self._rows = Counter("pyllm_batch_rows", "Rows of jobs.", ["outcome"], registry=self.registry)
        self._left = self._counter("pyllm_clients_left", "Requests whose client did not wait for the answer.")
        self._gaps = _Gaps()
        self.registry.register(self._gaps)
        ProcessCollector(registry=self.registry)

    def gap(self, seconds: float) -> None:
        """Between two pieces of an answer: called for each, so it must be quick."""
        self._gaps.observe(seconds)

    def finished(self, exchange: Exchange, path: str) -> None:
        """Counts a request. `path`: a route's, or one word for all that are none."""
        self._requests.labels(path, exchange.method, str(exchange.status)).inc()
        self._left.inc(exchange.status == 499)
        if not exchange.model:
            return
        self._duration.observe(time.perf_counter() - exchange.started)
        self._count_tokens(exchange)
        if exchange.queue_s is not None:
            self._queue.observe(exchange.queue_s)
        if exchange.first_token_s is not None:
            self._first.observe(exchange.first_token_s)

    def row(self, exchange: Exchange, failed: bool) -> None:
        """Counts a row of a job; how long it took says nothing, as it runs when there is room."""
        self._rows.labels("failed" if failed else "answered").inc()
        self._count_tokens(exchange)

    def _count_tokens(self, exchange: Exchange) -> None:
        self._prompt.inc(exchange.prompt_tokens)
        self._cached.inc(exchange.cached_tokens)
        self._generated.inc(exchange.completion_tokens)

    def watch(self, stats: Callable[[], dict[str, int]]) -> None:
        """Shows an engine's own counters."""
        self.registry.register(_Engine(stats))

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, about: str) -> Counter:
        return Counter(name, about, registry=self.registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=_SECONDS, registry=self.registry)


class _Gaps:
    """A histogram for one thread: no lock, one addition per token."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_GAPS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(_GAPS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        buckets, total = [], 0
        for bound, count in zip((*_GAPS, float("inf")), self._counts, strict=True):
            total += count
            buckets.append((str(bound) if bound != float("inf") else "+Inf", total))
        family = HistogramMetricFamily("pyllm_inter_token_latency_seconds", "Between two pieces of an answer.")
        family.add_metric([], buckets, self._sum)
        yield family


class _Engine:
    def __init__(self, stats: Callable[[], dict[str, int]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        from pyllm.errors import PyllmError

        try:
            stats = self._stats()
        except PyllmError:
            return  # it has ended
        for name, ours, about, grows in _ENGINE:
            family = (CounterMetricFamily if grows else GaugeMetricFamily)(ours, about)
            family.add_metric([], stats[name])
            yield family
        total = stats["blocks_total"]
        used = GaugeMetricFamily(
            "pyllm_kv_usage_ratio", "KV blocks that hold something, of answers or for reuse, 0 to 1."
        )
        used.add_metric([], (total - stats["blocks_free"]) / total if total else 0.0)
        yield used
