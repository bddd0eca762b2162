"""Tests the health checker and the metrics with a fake clock and a fake service."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bert_serving.client import RequestTimeoutError
from bert_serving.server.http.concurrency_limit import ConcurrencyLimiter
from bert_serving.server.http.health import FAILURE_CACHE_SECONDS, PROBE_INTERVAL, HealthChecker
from bert_serving.server.http.metrics import Metrics, families


class Service:
    """Fake client of a service with a given state and given vectors."""

    def __init__(self) -> None:
        self.now = 100.0
        self.state: str | None = "ready"
        self.batches = 0
        self.vectors: np.ndarray | None = np.zeros((1, 4))
        self.num_status_requests = self.num_encoded = 0
        self.outputs: list[str] | None = None  # an older server does not name them

    def clock(self) -> float:
        self.now += 0.001  # time always advances
        return self.now

    @property
    def server_status(self) -> dict[str, Any]:
        self.num_status_requests += 1
        if self.state is None:
            raise RequestTimeoutError("no answer")
        named = {} if self.outputs is None else {"outputs": self.outputs}
        return {"state": self.state, "workers": [{"name": "worker-0.1", "batches": self.batches}], **named}

    def encode(self, texts: list[str], outputs: list[str] | None = None) -> np.ndarray:
        self.num_encoded += 1
        assert outputs == (self.outputs if self.outputs and "dense" not in self.outputs else None)
        if self.vectors is None:
            raise RequestTimeoutError("no answer")
        return self.vectors


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def health(service: Service) -> HealthChecker:
    return HealthChecker(service, service.clock)  # type: ignore[arg-type]


def test_success_is_cached_for_the_probe_interval(service: Service, health: HealthChecker) -> None:
    assert health.not_ready_reason() == ""
    assert health.not_ready_reason() == ""
    assert service.num_encoded == 1
    service.now += PROBE_INTERVAL
    assert health.not_ready_reason() == ""
    assert service.num_encoded == 2


def test_completed_batches_count_as_success(service: Service, health: HealthChecker) -> None:
    health.record_success()
    assert health.not_ready_reason() == ""
    for _ in range(5):
        service.now += PROBE_INTERVAL
        service.batches += 1
        assert health.not_ready_reason() == ""
    assert service.num_encoded == 0


@pytest.mark.parametrize("state", ["starting", "draining", "stopped", None])
def test_not_ready_in_a_state_that_does_not_serve(service: Service, health: HealthChecker, state: str | None) -> None:
    service.state = state
    assert (state or "does not reply") in health.not_ready_reason()


def test_degraded_still_serves(service: Service, health: HealthChecker) -> None:
    service.state = "degraded"
    assert health.not_ready_reason() == ""


@pytest.mark.parametrize("vectors", [None, np.array([[np.nan]]), np.array([[np.inf]])])
def test_not_ready_without_finite_vectors(service: Service, health: HealthChecker, vectors: np.ndarray | None) -> None:
    service.vectors = vectors
    assert "vectors" in health.not_ready_reason()
    assert "vectors" in health.not_ready_reason()
    assert service.num_encoded == 1  # the second call uses the cached failure
    service.vectors = np.zeros((1, 4))
    service.now += FAILURE_CACHE_SECONDS
    assert health.not_ready_reason() == ""


@pytest.mark.parametrize("outputs", [["sparse"], ["dense", "sparse"]])
def test_the_probe_asks_for_outputs_that_the_server_has(
    service: Service, health: HealthChecker, outputs: list[str]
) -> None:
    service.outputs = outputs
    assert health.not_ready_reason() == ""
    assert service.num_encoded == 1


def test_a_status_is_never_older_than_the_call(service: Service, health: HealthChecker) -> None:
    for batches in range(3):
        service.batches = batches
        assert health.status()["workers"][0]["batches"] == batches


def test_failed_status_request_is_cached(service: Service, health: HealthChecker) -> None:
    service.state = None
    for _ in range(5):
        with pytest.raises(RequestTimeoutError):
            health.status()
    assert service.num_status_requests == 1
    service.state = "ready"
    service.now += FAILURE_CACHE_SECONDS
    assert health.status()["state"] == "ready"


def test_metrics_of_an_empty_status_are_zeros() -> None:
    values = {sample.name: sample.value for family in families({}, False) for sample in family.samples}
    assert values["bert_serving_up"] == 0
    assert set(values.values()) == {0}


def test_metrics_of_a_status() -> None:
    status = {
        "state": "degraded",
        "num_restarts": 3,
        "restarts": {"worker": 2, "sink": 1},
        "statistic": {"num_total_token": 10, "num_unknown_token": 4, "num_error": {"internal": 2, "new_type": 1}},
        "workers": [{"name": "worker-1.7", "batches": 5, "last_batch_seconds": 0.25}],
        "queue": {"tokens": 9},
    }
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families(status, True)
        for sample in family.samples
    }
    assert values["bert_serving_ready",] == 1
    assert values["bert_serving_unknown_tokens_total",] == 4
    assert values["bert_serving_errors_total", "internal"] == 2
    assert values["bert_serving_errors_total", "new_type"] == 1
    assert values["bert_serving_worker_batches_total", "worker-1"] == 5
    roles = ("worker", "ventilator", "sink", "http", "jobs", "tokenizer")
    assert [values["bert_serving_restarts_total", role] for role in roles] == [2, 0, 1, 0, 0, 0]
    assert values["bert_serving_queue_tokens",] == 9


def test_metrics_keep_their_values_while_the_service_is_unreachable(service: Service, health: HealthChecker) -> None:
    service.batches = 7
    metrics = Metrics(health, ConcurrencyLimiter(1, 1, 1))
    assert b'bert_serving_worker_batches_total{worker="worker-0"} 7.0' in metrics.render()
    service.state = None
    text = metrics.render()
    assert b"bert_serving_up 0.0" in text
    assert b'bert_serving_worker_batches_total{worker="worker-0"} 7.0' in text
