"""The server's Prometheus instruments, on a registry passed by the caller.

Labels come from closed sets (methods, status codes, reasons, served models), never from what a client sent, since a
label's values live as long as the process. `docs/metrics.md` is generated from this file.
"""

import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from threading import Lock

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cache import Store

REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150, 300)
STAGE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1, 5)
BATCH_TOKENS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class Description:
    """An instrument's documentation; `name` is the full name as scraped."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


CACHE_DESCRIPTIONS = (
    Description(
        "octavo_cache_events_total",
        "counter",
        ("event", "kind"),
        "Cache events; kind: state, result or tokens. A look-up is a memory_hit, a disk_hit or a miss.",
    ),
    Description(
        "octavo_cache_faults_total",
        "counter",
        ("fault",),
        "Faults of the cache's disk; they do not fail calls.",
    ),
    Description(
        "octavo_cache_entries", "gauge", ("tier", "kind"), "Cache entries; tier: disk (by kind), memory or queue."
    ),
    Description("octavo_cache_bytes", "gauge", ("tier", "kind"), "Bytes of cache entries."),
    Description("octavo_cache_disk_usable", "gauge", (), "0 while the cache's disk is disabled, else 1."),
)


class CacheCollector(Collector):
    """Reads a store's counters at each scrape."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Yield the store's current counts and sizes."""
        events, faults, entries, sizes, usable = (_family(description) for description in CACHE_DESCRIPTIONS)
        stats = self._store.stats()
        for (event, kind), count in stats.events.items():
            events.add_metric([event, kind.label], count)
        for fault, count in stats.faults.items():
            faults.add_metric([fault], count)
        for kind, usage in stats.disk.items():
            entries.add_metric(["disk", kind.label], usage.entries)
            sizes.add_metric(["disk", kind.label], usage.bytes)
        entries.add_metric(["memory", ""], stats.memory_entries)
        sizes.add_metric(["memory", ""], stats.memory_bytes)
        entries.add_metric(["queue", ""], stats.queued_entries)
        sizes.add_metric(["queue", ""], stats.queued_bytes)
        usable.add_metric([], stats.disk_usable)
        yield from (events, faults, entries, sizes, usable)


def _family(description: Description) -> CounterMetricFamily | GaugeMetricFamily:
    family = CounterMetricFamily if description.kind == "counter" else GaugeMetricFamily
    return family(description.name, description.meaning, labels=description.labels)


class Metrics:
    """The instruments, named without `octavo_` and unit. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.descriptions: list[Description] = []
        self._worst_lag = 0.0
        self._worst_lag_lock = Lock()

        self.requests = self._counter(
            "requests_total",
            "Calls answered, by method (over HTTP: its verb and path), gRPC status code and ErrorInfo reason.",
            "method code reason",
        )
        self.request_seconds = self._histogram(
            "request_duration_seconds", "Time from a call's arrival to its last message.", REQUEST_SECONDS, "method"
        )
        self.requests_in_flight = self._gauge("requests_in_flight", "Calls in progress.", "method")

        self.request_bytes_in_flight = self._gauge("request_bytes_in_flight", "Bytes of requests in progress.")
        self.charged_tokens = self._counter(
            "charged_tokens_total", "Tokens charged to clients, cached ones at their price.", "client"
        )
        self.limit_storage_up = self._gauge(
            "limit_storage_up", "1 while the Redis that counts limits answers; 0 if it does not or is not configured."
        )
        self.limit_storage_faults = self._counter(
            "limit_storage_faults_total", "Times that the Redis for limits did not answer."
        )

        self.documents = self._counter("documents_total", "Documents started.", "model")
        self.processed_tokens = self._counter(
            "processed_tokens_total",
            "Tokens of segments, including special tokens and prefix; source: computed, or cached if no layer ran.",
            "model source",
        )
        self.segments = self._counter(
            "segments_total", "Segments answered; source: computed, cached, or kept by the caller.", "model source"
        )
        # Used hundreds of times per document: looking up a label's counter costs more than counting.
        self._of_segments = cache(
            lambda *labels: (self.segments.labels(*labels), self.processed_tokens.labels(*labels))
        )

        self.queue_depth = self._gauge("queue_depth_segments", "Segments waiting to be computed.")
        self.queue_tokens = self._gauge(
            "queue_depth_tokens", "Tokens of waiting segments, without those of clients that have no credit."
        )
        self.queue_wait = self._histogram("queue_wait_seconds", "Time that a segment waited.", STAGE_SECONDS)
        self.tokenize_seconds = self._histogram(
            "tokenize_seconds", "Time to tokenise and cut one step of a document.", STAGE_SECONDS
        )
        self.batch_tokens = self._histogram("batch_tokens", "Tokens per run of the encoder.", BATCH_TOKENS)
        self.compute_seconds = self._histogram(
            "segment_compute_seconds", "A run's time divided by its segments.", STAGE_SECONDS, "model"
        )

        self.descriptions += CACHE_DESCRIPTIONS
        self.cache_verified = self._counter(
            "cache_verified_total", "Cached answers that were recomputed; outcome: agrees or disagrees.", "outcome"
        )

        self.background_faults = self._counter(
            "background_faults_total", "Errors that a background loop survived.", "loop"
        )
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds",
            "How late the event loop ran a 20 ms timer; up to 1 ms when idle.",
            LAG_SECONDS,
        )
        self.loop_lag_max = self._gauge(
            "event_loop_lag_max_seconds", "Maximum event loop lag since the previous scrape."
        )
        self.loop_lag_max.set_function(self._take_worst_lag)

        self.model = self._gauge(
            "model_info", "Always 1; one series per served model.", "model version fingerprint scheme kernels device"
        )
        build = self._gauge("build_info", "Always 1; labels are the running versions.", "version python torch")
        build.labels(version("octavo"), platform.python_version(), version("torch")).set(1)
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)

    def observe_request(self, method: str, code: str, reason: str, seconds: float) -> None:
        """Count one answered call; `reason` is "" on success."""
        self.requests.labels(method, code, reason).inc()
        self.request_seconds.labels(method).observe(seconds)

    def segment(self, model: str, processed_tokens: int, *, computed: bool) -> None:
        """Count an answered segment."""
        segments, tokens = self._of_segments(model, "computed" if computed else "cached")
        segments.inc()
        tokens.inc(processed_tokens)

    def kept_segment(self, model: str) -> None:
        """Count a segment whose vector the caller holds."""
        self.segments.labels(model, "kept").inc()

    def limit_storage(self, *, up: bool) -> None:
        """Set whether the storage of limits answers, and count each time that it does not."""
        self.limit_storage_up.set(up)
        if not up:
            self.limit_storage_faults.inc()

    def register_cache(self, store: Store) -> None:
        """Export the layer cache's counters."""
        self.registry.register(CacheCollector(store))

    def lagged(self, seconds: float) -> None:
        """Record one delay of the event loop."""
        self.loop_lag.observe(seconds)
        with self._worst_lag_lock:
            self._worst_lag = max(self._worst_lag, seconds)

    def _take_worst_lag(self) -> float:
        with self._worst_lag_lock:
            worst, self._worst_lag = self._worst_lag, 0.0
            return worst

    def _counter(self, name: str, meaning: str, labels: str = "") -> Counter:
        name = self._describe(name, "counter", labels, meaning)
        return Counter(name, meaning, labels.split(), registry=self.registry)

    def _gauge(self, name: str, meaning: str, labels: str = "") -> Gauge:
        name = self._describe(name, "gauge", labels, meaning)
        return Gauge(name, meaning, labels.split(), registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...], labels: str = "") -> Histogram:
        name = self._describe(name, "histogram", labels, meaning)
        return Histogram(name, meaning, labels.split(), buckets=buckets, registry=self.registry)

    def _describe(self, name: str, kind: str, labels: str, meaning: str) -> str:
        self.descriptions.append(Description(f"octavo_{name}", kind, tuple(labels.split()), meaning))
        return f"octavo_{name}"
