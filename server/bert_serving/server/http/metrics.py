"""Numbers for Prometheus: those of the service, read from its status, and those of HTTP itself.

Every name is there from the start, with zeros; those of GPUs and of drift where there is a GPU, and a reference, and
that of the engine once the service has told it. While the service is away ``bert_serving_up`` is 0 and its numbers
stand still.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import accumulate
from math import nan
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from bert_serving.client import BertServingError
from bert_serving.client.protocol import ERROR_TYPES

from ..monitoring.histogram import SECONDS, SEQUENCES
from ..monitoring.histogram import Histogram as Counts
from .concurrency_limit import ConcurrencyLimiter
from .health import SERVING_STATES, HealthChecker

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

#: Name, key of the status' ``statistic``, help.
_COUNTERS = [
    ("sequences", "num_total_seq", "Texts that were accepted"),
    ("tokens", "num_total_token", "Tokens of the accepted texts, special ones included"),
    ("unknown_tokens", "num_unknown_token", "Tokens that were [UNK]"),
    ("truncated_texts", "num_truncated", "Texts that were cut to max_seq_len"),
]
#: Name, section and key of the status, help.
_GAUGES = [
    ("queue_requests", "queue", "requests", "Requests accepted and not answered yet"),
    ("queue_sequences", "queue", "sequences", "Texts that wait for a worker"),
    ("queue_tokens", "queue", "tokens", "Tokens that wait for a worker"),
    ("batches_in_flight", "queue", "batches_in_flight", "Batches that workers have and have not done"),
    ("active_clients", "statistic", "num_active_client", "Clients that sent texts within the last three minutes"),
]
_OF_WORKER = [
    ("worker_batches", "batches", "Batches computed"),
    ("worker_sequences", "sequences", "Texts computed"),
    ("worker_tokens", "tokens", "Tokens computed"),
]

#: What the supervisor replaces; ``proxy`` is the process of HTTP.
_PARTS = ("worker", "ventilator", "sink", "proxy")

#: Stage of a request's way, help.
_STAGES = [
    ("tokenize", "From the arrival of a request until its texts were tokenized"),
    ("queue", "From then until a worker began with the request"),
    ("compute", "From then until the last vector was there"),
    ("total", "From the arrival of a request until its last vector was there"),
]
#: Name, key of a worker's facts, help.
_OF_GPU = [
    ("gpu_utilization_ratio", "gpu_utilization", "Share of the time in which the GPU of a worker was busy"),
    ("gpu_memory_used_bytes", "gpu_memory_used", "Memory of the GPU that is in use, by all programs"),
    ("gpu_memory_total_bytes", "gpu_memory_total", "Memory of the GPU"),
]
#: Library of an engine, and the packages that it may come from.
_LIBRARIES = {
    "onnx": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "tensorflow": ("tensorflow", ("tensorflow", "tensorflow-cpu")),
    "torch": ("torch", ("torch",)),
}
#: Name, key of the status' ``drift``, help.
_DRIFT = [
    ("drift_texts", "texts", "Texts that the drift looks back on"),
    ("drift_cosine_distance", "cosine_distance", "1 - cosine of the mean vector and that of the reference"),
    ("drift_shift", "shift", "Distance of the two means in units of the spread of the reference's vectors"),
    ("drift_length_psi", "length_psi", "Population stability index of the lengths in tokens"),
    ("drift_unknown_token_difference", "unknown_share_difference", "Share of [UNK] less that of the reference"),
]


class ServiceCollector:
    """Translates the status of the service, at the moment it is asked for."""

    def __init__(self, readiness: HealthChecker) -> None:
        self._readiness = readiness

    def collect(self) -> Iterator[Metric]:
        try:
            status, is_up = self._readiness.status(), True
        except BertServingError:
            status, is_up = self._readiness.last_status, False
        yield from families(status, is_up)


def families(status: dict[str, Any], is_up: bool) -> Iterator[Metric]:
    """The metrics of one status, which may be empty."""
    statistic: dict[str, Any] = status.get("statistic", {})
    workers: list[dict[str, Any]] = status.get("workers", [])
    ready = is_up and status.get("state") in SERVING_STATES
    yield GaugeMetricFamily("bert_serving_up", "1 if the service answers", int(is_up))
    yield GaugeMetricFamily("bert_serving_ready", "1 if the service says that it serves", int(ready))

    requests = CounterMetricFamily("bert_serving_requests", "Requests of clients, by kind", labels=["kind"])
    requests.add_metric(["data"], statistic.get("num_data_request", 0))
    requests.add_metric(["system"], statistic.get("num_sys_request", 0))
    yield requests
    errors = CounterMetricFamily("bert_serving_errors", "Requests answered with an error, by kind", labels=["kind"])
    counted = statistic.get("num_error", {})
    for kind in sorted({*ERROR_TYPES, *counted}):
        errors.add_metric([kind], counted.get(kind, 0))
    yield errors
    for name, key, text in _COUNTERS:
        yield CounterMetricFamily(f"bert_serving_{name}", text, statistic.get(key, 0))
    yield from _requests_and_batches(status)
    share = statistic.get("num_unknown_token", 0) / max(1, statistic.get("num_total_token", 0))
    yield GaugeMetricFamily("bert_serving_unknown_token_ratio", "Share of [UNK] in all tokens so far", share)
    for name, section, key, text in _GAUGES:
        yield GaugeMetricFamily(f"bert_serving_{name}", text, status.get(section, {}).get(key, 0))

    restarts = CounterMetricFamily("bert_serving_restarts", "Parts that were replaced, by part", labels=["part"])
    replaced = status.get("restarts", {})
    for part in dict.fromkeys([*_PARTS, *replaced]):
        restarts.add_metric([part], replaced.get(part, 0))
    yield restarts
    yield GaugeMetricFamily("bert_serving_workers", "Workers that can be given batches", len(workers))
    yield _engines(status)
    for name, key, text in _OF_WORKER:
        family = CounterMetricFamily(f"bert_serving_{name}", text, labels=["worker"])
        for worker in workers:
            family.add_metric([_plain_name(worker)], worker.get(key, 0))
        yield family
    latest = GaugeMetricFamily("bert_serving_worker_last_batch_seconds", "Time of the last batch", labels=["worker"])
    for worker in workers:
        latest.add_metric([_plain_name(worker)], worker.get("last_batch_seconds", 0))
    yield latest
    for name, key, text in _OF_GPU:
        gauge = GaugeMetricFamily(f"bert_serving_{name}", text, labels=["worker", "gpu"])
        for worker in workers:
            if key in worker:
                gauge.add_metric([_plain_name(worker), str(worker["device"])], worker[key])
        yield gauge
    drift = status.get("drift")
    for name, key, text in _DRIFT:
        gauge = GaugeMetricFamily(f"bert_serving_{name}", text, labels=[])
        if drift is not None:
            value = drift.get(key)
            gauge.add_metric([], nan if value is None else value)
        yield gauge


def _requests_and_batches(status: dict[str, Any]) -> Iterator[Metric]:
    times = status.get("times", {})
    for stage, text in _STAGES:
        yield _histogram(f"request_{stage}_seconds", text, times.get(stage) or Counts(SECONDS).to_dict())
    batches = status.get("batches", {})
    sizes = batches.get("sequences") or Counts(SEQUENCES).to_dict()
    yield _histogram("batch_sequences", "Texts in a batch, of the batches that are done", sizes)
    padding = batches.get("padding", 0)
    text = "Tokens of padding that it would take to make each batch as long as its longest text"
    yield CounterMetricFamily("bert_serving_padding_tokens", text, padding)
    share = padding / max(1, padding + batches.get("tokens", 0))
    yield GaugeMetricFamily("bert_serving_padding_ratio", "Share of that padding in all such batches so far", share)


def _engines(status: dict[str, Any]) -> Metric:
    """Always 1, with what is to be known in its labels, as Prometheus wants it of facts that are no numbers."""
    labels = ["engine", "dtype", "library", "library_version"]
    family = GaugeMetricFamily("bert_serving_engine_info", "Engines that compute, and their libraries", labels=labels)
    for engine in filter(None, str(status.get("engine_in_use", "")).split(", ")):
        library, packages = _LIBRARIES.get(engine, ("", ()))
        family.add_metric([engine, str(status.get("dtype_in_use", "")), library, _version(*packages)], 1)
    return family


@cache
def _version(*packages: str) -> str:
    """Of the first of them that is installed. The workers run in the environment of this process."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _histogram(name: str, text: str, counts: dict[str, Any]) -> Metric:
    """Of what :meth:`~..histogram.Histogram.to_dict` gave: Prometheus wants each count to include those before."""
    bounds = [*map(floatToGoString, counts["bounds"]), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts["counts"]), strict=True))
    family = HistogramMetricFamily(f"bert_serving_{name}", text)
    family.add_metric([], buckets, counts["sum"])
    return family


def _plain_name(worker: dict[str, Any]) -> str:
    """``worker-0`` of ``worker-0.3``, its third start: the series goes on, and Prometheus sees a reset."""
    return str(worker.get("name", "")).rpartition(".")[0]


class Metrics:
    """All metrics, and what the web application counts."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, readiness: HealthChecker, gate: ConcurrencyLimiter) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(ServiceCollector(readiness))
        self._requests = Counter(
            "bert_serving_http_requests", "HTTP requests answered", ["path", "code"], registry=self._registry
        )
        self._seconds = Histogram(
            "bert_serving_http_request_seconds",
            "Time to answer an HTTP request",
            ["path"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        running = Gauge("bert_serving_http_running", "HTTP requests worked on", registry=self._registry)
        running.set_function(lambda: gate.running)
        waiting = Gauge("bert_serving_http_waiting", "HTTP requests that wait for a place", registry=self._registry)
        waiting.set_function(lambda: gate.waiting)

    def expect(self, path: str) -> None:
        """Shows a path before its first request."""
        self._requests.labels(path, "200")
        self._seconds.labels(path)

    def saw(self, path: str, code: int, seconds: float) -> None:
        """Counts one answered request. ``path`` is the route, not what was asked for: its values are few."""
        self._requests.labels(path, str(code)).inc()
        self._seconds.labels(path).observe(seconds)

    def refused(self, code: int) -> None:
        """Counts a request that was no HTTP, or too large, and reached no route."""
        self._requests.labels("other", str(code)).inc()

    def render(self) -> bytes:
        return generate_latest(self._registry)
