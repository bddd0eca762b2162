"""Tests histograms, timings and the metrics that Prometheus scrapes."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bert_serving.server.http.metrics import families
from bert_serving.server.monitoring.histogram import SECONDS, SEQUENCES, Histogram
from bert_serving.server.monitoring.statistics import Statistics
from bert_serving.server.monitoring.timing import Timing

times = st.floats(0, 1000)


@given(st.lists(times | st.sampled_from(SECONDS)))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    result = histogram.to_dict()
    edges = itertools.pairwise([-math.inf, *result["bounds"], math.inf])
    for (low, high), count in zip(edges, result["counts"], strict=True):
        assert count == sum(low < value <= high for value in values)
    assert math.isclose(result["sum"], sum(values), rel_tol=1e-9, abs_tol=1e-6)


@given(times, times, times, times)
def test_the_stages_of_a_request_add_up(arrived: float, tokenizing: float, began: float, rest: float) -> None:
    # A worker may begin before the last text is tokenized, but never ends before.
    tokenized = arrived + tokenizing
    done = max(tokenized, began) + rest
    timing = Timing.of(arrived, tokenized, began, done)
    stages = (timing.tokenize, timing.queue, timing.compute)
    assert min(stages) >= 0
    assert math.isclose(sum(stages), timing.total, rel_tol=1e-9, abs_tol=1e-9)
    assert timing.queue == 0 or math.isclose(timing.queue, began - tokenized, abs_tol=1e-9)


def exposed(status: dict[str, object]) -> dict[str, float]:
    """Returns the exported metrics of a status: values by name and label values."""

    class Collector:
        def collect(self) -> object:
            return families(status, is_up=True)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())  # type: ignore[arg-type]
    values = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            values[" ".join([sample.name, *sorted(sample.labels.values())])] = sample.value
    return values


def test_histograms_for_prometheus_are_cumulative() -> None:
    statistics = Statistics()
    for began in (0.0, 1.5, 100.0):
        statistics.record_timing(Timing.of(0, 0, began, began + 0.001))
    values = exposed({"times": statistics.times()})
    name = "bert_serving_request_stage_duration_seconds"
    assert values[f"{name}_bucket 0.0005 queue"] == 1
    assert values[f"{name}_bucket 1.0 queue"] == 1
    assert values[f"{name}_bucket 2.0 queue"] == 2
    assert values[f"{name}_bucket 60.0 queue"] == 2
    assert values[f"{name}_bucket +Inf queue"] == values[f"{name}_count queue"] == 3
    assert values[f"{name}_sum queue"] == 101.5


def test_every_histogram_is_exported_before_the_first_status() -> None:
    values = exposed({})
    for suffix in ("", " tokenize", " queue", " compute"):
        name = f"bert_serving_request_{'stage_' if suffix else ''}duration_seconds_bucket"
        assert values[f"{name} +Inf{suffix}"] == 0
        assert f"{name} {SECONDS[0]}{suffix}" in values
    assert values[f"bert_serving_batch_sequences_bucket {float(SEQUENCES[-1])}"] == 0
    assert values["bert_serving_padding_tokens_total"] == 0


def test_gpu_metrics_are_exported_for_workers_with_a_gpu() -> None:
    gpu = {"gpu_utilization": 0.25, "gpu_memory_used": 3, "gpu_memory_total": 8}
    instance = {
        "gpu_memory_used": 1,
        "gpu_memory_total": 2,
    }  # an instance of a partitioned GPU has no utilization of its own
    workers = [
        {"name": "worker-0.2", "device": "gpu: 0", **gpu},
        {"name": "worker-1.1", "device": "gpu: 1", **instance},
        {"name": "worker-2.1", "device": "cpu"},
    ]
    values = exposed({"workers": workers})
    assert {name: value for name, value in values.items() if "_gpu_" in name} == {
        "bert_serving_gpu_utilization_ratio gpu: 0 worker-0": 0.25,
        "bert_serving_gpu_memory_used_bytes gpu: 0 worker-0": 3,
        "bert_serving_gpu_memory_total_bytes gpu: 0 worker-0": 8,
        "bert_serving_gpu_memory_used_bytes gpu: 1 worker-1": 1,
        "bert_serving_gpu_memory_total_bytes gpu: 1 worker-1": 2,
    }


def test_drift_is_exported_with_a_reference() -> None:
    names = {name for name in exposed({"drift": {}}) if "drift" in name}
    assert len(names) == 5
    assert not any("drift" in name for name in exposed({}))
    values = exposed({"drift": {"texts": 7, "cosine_distance": None, "shift": 0.5}})
    assert values["bert_serving_drift_texts"] == 7
    assert math.isnan(values["bert_serving_drift_cosine_distance"])
    assert values["bert_serving_drift_shift"] == 0.5
