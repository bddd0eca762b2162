"""Exports Prometheus metrics: those of the service, read from its status, and those of the HTTP server.

Every metric is exported from the start with the value 0. Exceptions: GPU metrics need a GPU, drift metrics a drift
reference, metrics of names ``-http_keys``, and the metrics that end in ``_info`` a first status. While the service does
not reply, ``bert_serving_up`` is 0 and the other metrics keep their last values.
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
    ("sequences", "num_total_seq", "Accepted texts"),
    ("tokens", "num_total_token", "Tokens of accepted texts, including special tokens"),
    ("unknown_tokens", "num_unknown_token", "Tokens for unknown text, such as [UNK], of accepted texts"),
    ("truncated_texts", "num_truncated", "Accepted texts truncated to max_seq_len"),
]
#: Name, section and key of the status, help.
_GAUGES = [
    ("queue_requests", "queue", "requests", "Accepted requests without a reply yet"),
    ("queue_sequences", "queue", "sequences", "Texts queued for a worker"),
    ("queue_tokens", "queue", "tokens", "Tokens queued for a worker"),
    ("queue_bytes", "queue", "bytes", "Memory of requests in progress"),
    ("queue_unread_bytes", "queue", "unread_bytes", "Bytes of messages that the server has not read yet"),
    ("results_assembling_bytes", "results", "assembling", "Memory of results under assembly"),
    ("results_queued_bytes", "results", "queued", "Memory of results that wait for their readers"),
    ("results_in_pipes_bytes", "results", "in_pipes", "Memory of large results that ZeroMQ sends"),
    ("results_waiting_requests", "results", "waiting_requests", "Requests that wait for memory of results"),
    ("batches_in_flight", "queue", "batches_in_flight", "Batches that workers are computing or have queued"),
    ("active_clients", "statistic", "num_active_client", "Clients with a data request within the last 180 seconds"),
]
#: Name, key of the status' ``cache``, help.
_CACHE_COUNTERS = [
    ("cache_hits", "hits", "Texts whose vector the cache had"),
    ("cache_misses", "misses", "Texts computed for the cache; 0 without a cache"),
    ("cache_evictions", "evictions", "Vectors that the cache dropped for others"),
    ("coalesced_texts", "coalesced", "Texts that got the vector of an equal text in computation"),
]
_CACHE_GAUGES = [
    ("cache_entries", "entries", "Vectors in the cache"),
    ("cache_bytes", "bytes", "Memory of the cache, with its tables"),
    ("cache_max_bytes", "max_bytes", "Limit of the memory of the cache; 0 without a cache"),
]
_WORKER_COUNTERS = [
    ("worker_batches", "batches", "Batches computed by the worker"),
    ("worker_sequences", "sequences", "Texts computed by the worker"),
    ("worker_tokens", "tokens", "Tokens computed by the worker"),
]

_TOKENIZER_COUNTERS = [
    ("tokenizer_texts", "texts", "Texts tokenized by the process"),
    ("tokenizer_busy_seconds", "busy_seconds", "Time in which the process tokenized; its rate is the busy share"),
]

#: Roles of the child processes that the supervisor restarts.
_ROLES = ("worker", "ventilator", "sink", "http", "jobs", "tokenizer")
#: Stages of a request, in order.
_STAGES = ("tokenize", "queue", "compute")
#: Name, key of a worker's status, help.
_GPU_GAUGES = [
    ("gpu_utilization_ratio", "gpu_utilization", "Share of time in which the GPU of the worker was busy"),
    ("gpu_memory_used_bytes", "gpu_memory_used", "GPU memory in use by all processes"),
    ("gpu_memory_total_bytes", "gpu_memory_total", "Total GPU memory"),
]
#: Engine: library and its distribution packages.
_LIBRARIES = {
    "onnx": ("onnxruntime", ("onnxruntime", "onnxruntime-gpu")),
    "tensorflow": ("tensorflow", ("tensorflow", "tensorflow-cpu")),
    "torch": ("torch", ("torch",)),
}
#: Name, key of the status' ``drift``, help.
_DRIFT_GAUGES = [
    ("drift_texts", "texts", "Texts in the drift window"),
    ("drift_cosine_distance", "cosine_distance", "1 - cosine similarity of the mean vectors of window and reference"),
    ("drift_shift", "shift", "Distance of the mean vectors divided by the spread of the reference vectors"),
    ("drift_length_psi", "length_psi", "Population stability index of text lengths in tokens"),
    (
        "drift_unknown_token_difference",
        "unknown_share_difference",
        "Share of tokens for unknown text minus that of the reference",
    ),
]
#: Name, key of a share in the status, help.
_SHARE_COUNTERS = [
    ("share_requests", "requests", "Accepted requests of the name"),
    ("share_texts", "texts", "Accepted texts of the name"),
    ("share_tokens", "tokens", "Tokens of accepted texts of the name, including special tokens"),
    ("share_refused", "refused", "Requests of the name over one of its limits"),
]


#: Name, key of a model's status, help.
_MODEL_COUNTERS = [
    ("model_sequences", "sequences", "Texts computed by the workers of the model"),
    ("model_tokens", "tokens", "Tokens computed by the workers of the model"),
]
_MODEL_GAUGES = [
    ("model_queue_sequences", "sequences", "Texts queued for a worker of the model"),
    ("model_queue_tokens", "tokens", "Tokens queued for a worker of the model"),
    ("model_batches_in_flight", "batches_in_flight", "Batches that workers of the model are computing or have queued"),
]


class StatusCollector:
    """Requests the status of the service on each scrape and converts it into metrics."""

    def __init__(self, health: HealthChecker) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        try:
            status, is_up = self._health.status(), True
        except BertServingError:
            status, is_up = self._health.last_status, False
        yield from families(status, is_up)


def families(status: dict[str, Any], is_up: bool) -> Iterator[Metric]:
    """Yields the metrics of one status, which may be empty."""
    statistic: dict[str, Any] = status.get("statistic", {})
    workers: list[dict[str, Any]] = status.get("workers", [])
    ready = is_up and status.get("state") in SERVING_STATES
    yield GaugeMetricFamily("bert_serving_up", "1 if the service replies", int(is_up))
    yield GaugeMetricFamily("bert_serving_ready", "1 if the service is ready or degraded", int(ready))

    requests = CounterMetricFamily("bert_serving_requests", "Accepted requests by type", labels=["type"])
    requests.add_metric(["data"], statistic.get("num_data_request", 0))
    requests.add_metric(["system"], statistic.get("num_sys_request", 0))
    yield requests
    errors = CounterMetricFamily("bert_serving_errors", "Error replies by type", labels=["type"])
    counted = statistic.get("num_error", {})
    for error_type in sorted({*ERROR_TYPES, *counted}):
        errors.add_metric([error_type], counted.get(error_type, 0))
    yield errors
    for name, key, text in _COUNTERS:
        yield CounterMetricFamily(f"bert_serving_{name}", text, statistic.get(key, 0))
    yield from _requests_and_batches(status)
    for name, section, key, text in _GAUGES:
        yield GaugeMetricFamily(f"bert_serving_{name}", text, status.get(section, {}).get(key, 0))

    yield from _cache(status.get("cache", {}))
    yield _restarts(status)
    yield from _workers(workers)
    yield from _tokenizers(status)
    yield from _machines(status.get("joined", {}))
    yield _engines(status)
    yield _vector_space(status)
    yield _task(status)
    yield from _drift(status.get("drift"), status.get("by_model", {}))
    if "shares" in status:
        yield from _shares(status["shares"])
    if "by_model" in status:
        yield from _models(status["by_model"])


def _cache(figures: dict[str, Any]) -> Iterator[Metric]:
    for name, key, text in _CACHE_COUNTERS:
        yield CounterMetricFamily(f"bert_serving_{name}", text, figures.get(key, 0))
    for name, key, text in _CACHE_GAUGES:
        yield GaugeMetricFamily(f"bert_serving_{name}", text, figures.get(key, 0))


def _restarts(status: dict[str, Any]) -> Metric:
    restarts = CounterMetricFamily("bert_serving_restarts", "Restarts of child processes by role", labels=["process"])
    counts = status.get("restarts", {})
    for role in dict.fromkeys([*_ROLES, *counts]):
        restarts.add_metric([role], counts.get(role, 0))
    return restarts


def _workers(workers: list[dict[str, Any]]) -> Iterator[Metric]:
    yield GaugeMetricFamily("bert_serving_workers", "Workers that accept batches", len(workers))
    for name, key, text in _WORKER_COUNTERS:
        family = CounterMetricFamily(f"bert_serving_{name}", text, labels=["worker"])
        for worker in workers:
            family.add_metric([_stable_name(worker)], worker.get(key, 0))
        yield family
    latest = GaugeMetricFamily(
        "bert_serving_worker_last_batch_seconds", "Duration of the last batch", labels=["worker"]
    )
    for worker in workers:
        latest.add_metric([_stable_name(worker)], worker.get("last_batch_seconds", 0))
    yield latest
    for name, key, text in _GPU_GAUGES:
        gauge = GaugeMetricFamily(f"bert_serving_{name}", text, labels=["worker", "gpu"])
        for worker in workers:
            if key in worker:
                gauge.add_metric([_stable_name(worker), str(worker["device"])], worker[key])
        yield gauge


def _tokenizers(status: dict[str, Any]) -> Iterator[Metric]:
    share = status.get("ventilator", {}).get("busy_share", 0)
    yield GaugeMetricFamily(
        "bert_serving_ventilator_busy_ratio", "Share of time in which the ventilator is busy, over a second", share
    )
    tokenizers: list[dict[str, Any]] = status.get("tokenizers", [])
    yield GaugeMetricFamily("bert_serving_tokenizers", "Tokenizer processes that accept texts", len(tokenizers))
    for name, key, text in _TOKENIZER_COUNTERS:
        family = CounterMetricFamily(f"bert_serving_{name}", text, labels=["tokenizer"])
        for tokenizer in tokenizers:
            family.add_metric([_stable_name(tokenizer)], tokenizer.get(key, 0))
        yield family


def _machines(joined: dict[str, Any]) -> Iterator[Metric]:
    yield GaugeMetricFamily("bert_serving_machines", "Joined machines", len(joined.get("machines", ())))
    yield CounterMetricFamily("bert_serving_machine_joins", "Machines that joined", joined.get("num_joins", 0))
    yield CounterMetricFamily("bert_serving_machine_losses", "Joined machines lost", joined.get("num_losses", 0))


def _drift(drift: dict[str, Any] | None, models: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    named = {model: figures["drift"] for model, figures in models.items() if "drift" in figures}
    for name, key, text in _DRIFT_GAUGES:
        gauge = GaugeMetricFamily(f"bert_serving_{name}", text, labels=[])
        of_models = GaugeMetricFamily(f"bert_serving_model_{name}", f"{text}, of each model", labels=["model"])
        for family, labels, found in (
            *((gauge, [], each) for each in (drift,) if each is not None),
            *((of_models, [model], each) for model, each in named.items()),
        ):
            value = found.get(key)
            family.add_metric(labels, nan if value is None else value)
        yield from (gauge, of_models)


def _models(models: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    for name, key, text in _MODEL_COUNTERS:
        counter = CounterMetricFamily(f"bert_serving_{name}", text, labels=["model"])
        for model, figures in models.items():
            counter.add_metric([model], figures.get(key, 0))
        yield counter
    for name, key, text in _MODEL_GAUGES:
        gauge = GaugeMetricFamily(f"bert_serving_{name}", text, labels=["model"])
        for model, figures in models.items():
            gauge.add_metric([model], figures.get("queue", {}).get(key, 0))
        yield gauge
    workers = GaugeMetricFamily(
        "bert_serving_model_workers", "Workers of the model that accept batches", labels=["model"]
    )
    for model, figures in models.items():
        workers.add_metric([model], figures.get("num_ready_worker", 0))
    yield workers


def _shares(shares: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    for name, key, text in _SHARE_COUNTERS:
        counter = CounterMetricFamily(f"bert_serving_{name}", text, labels=["name"])
        for owner, share in shares.items():
            counter.add_metric([owner], share.get(key, 0))
        yield counter
    text = "Tokens of requests of the name without a reply"
    gauge = GaugeMetricFamily("bert_serving_share_waiting_tokens", text, labels=["name"])
    for owner, share in shares.items():
        gauge.add_metric([owner], share.get("waiting_tokens", 0))
    yield gauge


def _requests_and_batches(status: dict[str, Any]) -> Iterator[Metric]:
    times, empty = status.get("times", {}), Counts(SECONDS).to_dict()
    durations = HistogramMetricFamily(
        "bert_serving_request_duration_seconds", "Time from the arrival of a request until its last vector is computed"
    )
    _add_histogram(durations, [], times.get("total") or empty)
    yield durations
    stages = HistogramMetricFamily(
        "bert_serving_request_stage_duration_seconds", "Time of a request in each stage", labels=["stage"]
    )
    for stage in _STAGES:
        _add_histogram(stages, [stage], times.get(stage) or empty)
    yield stages
    batches = status.get("batches", {})
    sizes = HistogramMetricFamily("bert_serving_batch_sequences", "Texts per computed batch")
    _add_histogram(sizes, [], batches.get("sequences") or Counts(SEQUENCES).to_dict())
    yield sizes
    text = "Padding tokens needed to make each text of a batch as long as the longest one"
    yield CounterMetricFamily("bert_serving_padding_tokens", text, batches.get("padding", 0))


def _engines(status: dict[str, Any]) -> Metric:
    """Returns an info metric: the constant 1, with the facts in its labels."""
    labels = ["engine", "dtype", "library", "library_version"]
    family = GaugeMetricFamily("bert_serving_engine_info", "Engines in use and their libraries", labels=labels)
    for engine in filter(None, str(status.get("engine_in_use", "")).split(", ")):
        library, packages = _LIBRARIES.get(engine, ("", ()))
        family.add_metric([engine, str(status.get("dtype_in_use", "")), library, _version(*packages)], 1)
    return family


def _vector_space(status: dict[str, Any]) -> Metric:
    family = GaugeMetricFamily(
        "bert_serving_vector_space_info", "Space of the vectors of requests without options", labels=["vector_space"]
    )
    if space := status.get("vector_space"):
        family.add_metric([space], 1)
    return family


def _task(status: dict[str, Any]) -> Metric:
    """Returns an info metric; ``labels`` is the number of labels of a classifier, 0 for vectors."""
    names = ["task", "labels", "problem_type", "activation"]
    family = GaugeMetricFamily(
        "bert_serving_task_info", "Task of the server, and the scores that it gives", labels=names
    )
    if task := status.get("task"):
        labels = len(status.get("labels") or ())
        scores = [str(status.get(name) or "") for name in names[2:]]
        family.add_metric([task, str(labels), *scores], 1)
    return family


@cache
def _version(*packages: str) -> str:
    """Returns the version of the first installed package. Workers run in the environment of this process."""
    for package in packages:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _add_histogram(family: HistogramMetricFamily, labels: list[str], counts: dict[str, Any]) -> None:
    """Adds the result of `Counts.to_dict`. Prometheus' buckets are cumulative."""
    bounds = [*map(floatToGoString, counts["bounds"]), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts["counts"]), strict=True))
    family.add_metric(labels, buckets, counts["sum"])


def _stable_name(worker: dict[str, Any]) -> str:
    """Returns ``worker-0`` for ``worker-0.3``, its third start, so that the series continues after a restart."""
    return str(worker.get("name", "")).rpartition(".")[0]


class Metrics:
    """Holds the registry and counts the HTTP requests."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, health: HealthChecker, limiter: ConcurrencyLimiter) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(StatusCollector(health))
        self._requests = Counter(
            "bert_serving_http_requests",
            "HTTP requests by path and status code",
            ["path", "code"],
            registry=self._registry,
        )
        self._durations = Histogram(
            "bert_serving_http_request_duration_seconds",
            "Time to handle an HTTP request, including its time in the queue",
            ["path"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        in_progress = Gauge(
            "bert_serving_http_requests_in_progress", "HTTP requests that hold a slot", registry=self._registry
        )
        in_progress.set_function(lambda: limiter.running)
        queued = Gauge("bert_serving_http_requests_queued", "HTTP requests queued for a slot", registry=self._registry)
        queued.set_function(lambda: limiter.queued)

    def init_labels(self, path: str) -> None:
        """Exports a path before its first request."""
        self._requests.labels(path, "200")
        self._durations.labels(path)

    def observe_request(self, path: str, code: int, seconds: float) -> None:
        """Counts a finished request. ``path`` is the route, so that the number of series is bounded."""
        self._requests.labels(path, str(code)).inc()
        self._durations.labels(path).observe(seconds)

    def count_rejected(self, code: int) -> None:
        """Counts a request that reached no route: malformed, or larger than ``-http_max_body``."""
        self._requests.labels("other", str(code)).inc()

    def render(self) -> bytes:
        return generate_latest(self._registry)
