"""Histograms and timings: nothing lost, and what Prometheus reads of them."""

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
    said = histogram.to_dict()
    edges = itertools.pairwise([-math.inf, *said["bounds"], math.inf])
    for (low, high), count in zip(edges, said["counts"], strict=True):
        assert count == sum(low < value <= high for value in values)
    assert math.isclose(said["sum"], sum(values), rel_tol=1e-9, abs_tol=1e-6)


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
    """What Prometheus reads of a status: values by name, and by label where there is one."""

    class Collector:
        def collect(self) -> object:
            return families(status, is_up=True)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())  # type: ignore[arg-type]
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found[" ".join([sample.name, *sorted(sample.labels.values())])] = sample.value
    return found


def test_histograms_for_prometheus_are_cumulative() -> None:
    statistics = Statistics()
    for began in (0.0, 1.5, 100.0):
        statistics.record_timing(Timing.of(0, 0, began, began + 0.001))
    found = exposed({"times": statistics.times()})
    name = "bert_serving_request_stage_duration_seconds"
    assert found[f"{name}_bucket 0.0005 queue"] == 1
    assert found[f"{name}_bucket 1.0 queue"] == 1
    assert found[f"{name}_bucket 2.0 queue"] == 2
    assert found[f"{name}_bucket 60.0 queue"] == 2
    assert found[f"{name}_bucket +Inf queue"] == found[f"{name}_count queue"] == 3
    assert found[f"{name}_sum queue"] == 101.5


def test_every_histogram_is_exported_before_the_first_status() -> None:
    found = exposed({})
    for suffix in ("", " tokenize", " queue", " compute"):
        name = f"bert_serving_request_{'stage_' if suffix else ''}duration_seconds_bucket"
        assert found[f"{name} +Inf{suffix}"] == 0
        assert f"{name} {SECONDS[0]}{suffix}" in found
    assert found[f"bert_serving_batch_sequences_bucket {float(SEQUENCES[-1])}"] == 0
    assert found["bert_serving_padding_tokens_total"] == 0


def test_gpu_metrics_are_exported_for_workers_with_a_gpu() -> None:
    gpu = {"gpu_utilization": 0.25, "gpu_memory_used": 3, "gpu_memory_total": 8}
    slice_ = {"gpu_memory_used": 1, "gpu_memory_total": 2}  # a part of a partitioned GPU has no rate of its own
    workers = [
        {"name": "worker-0.2", "device": "gpu: 0", **gpu},
        {"name": "worker-1.1", "device": "gpu: 1", **slice_},
        {"name": "worker-2.1", "device": "cpu"},
    ]
    found = exposed({"workers": workers})
    assert {name: value for name, value in found.items() if "_gpu_" in name} == {
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
    found = exposed({"drift": {"texts": 7, "cosine_distance": None, "shift": 0.5}})
    assert found["bert_serving_drift_texts"] == 7
    assert math.isnan(found["bert_serving_drift_cosine_distance"])
    assert found["bert_serving_drift_shift"] == 0.5
