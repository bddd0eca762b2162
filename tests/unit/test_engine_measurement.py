"""Which engine a measurement selects, what a stored one is valid for, and how an engine is timed."""

from __future__ import annotations

import itertools
import json
import logging
import types
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server import engines
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines import measurement as measuring
from bert_serving.server.engines.base import Device, EngineError, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.measurement import Candidate, Measurement, Result, Timing, find_candidates
from bert_serving.server.engines.nvml import Gpu
from bert_serving.server.errors import ConfigError, StartError
from bert_serving.server.supervisor import engine_choice
from bert_serving.server.supervisor.engine_choice import make_choice, stored_choice
from bert_serving.server.supervisor.measuring import EngineTimer
from bert_serving.server.supervisor.placement import plan_workers
from bert_serving.server.supervisor.vector_space import vector_digest
from bert_serving.server.worker import measure
from servers import TINY

LOG = logging.getLogger("test")
AVX2, AMX = frozenset({"avx2"}), frozenset({"avx2", "amx_bf16", "avx512_bf16"})
seconds = st.floats(1e-9, 1e3)


@pytest.fixture(autouse=True)
def _all_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setenv("BERT_SERVING_CACHE", str(tmp_path / "cache"))


def config_of(**options: object) -> ServerConfig:
    return ServerConfig.from_dict({"model_dir": str(TINY), "cpu": True, **options})


def result(engine: str, dtype: str, text: float, batch: float) -> Result:
    return Result(engine, dtype, Timing(text, batch, 32))


def measurement(*results: Result) -> Measurement:
    return Measurement("a processor", 4, "2027-01-31", results)


# ---------------------------------------------------------------- the fastest


def test_the_fastest_is_that_of_both_speeds_and_one_line_has_the_ratios() -> None:
    found = measurement(
        result("onnx", "fp32", 0.004, 0.040),
        result("torch", "fp32", 0.002, 0.020),
        result("tensorflow", "fp32", 0.001, 0.400),
        Result("torch", "bf16", failure="killed by SIGILL"),
    )
    assert found.fastest is found.results[1]
    line = found.describe()
    assert "\n" not in line
    assert "engine torch, dtype fp32: the fastest measured on a processor, 4 threads: one text in 2.00 ms, " in line
    assert "1600 texts/s in a batch of 32" in line
    assert line.endswith("onnx fp32 0.50 and 0.50, tensorflow fp32 2.00 and 0.05, torch bf16 failed")


def test_of_equal_ones_the_first_is_taken_and_of_failed_ones_none() -> None:
    equal = measurement(result("onnx", "fp32", 0.002, 0.02), result("torch", "fp32", 0.002, 0.02))
    assert equal.fastest is equal.results[0]
    failed = measurement(Result("onnx", "fp32", failure="broken"))
    assert failed.fastest is None
    with pytest.raises(ValueError, match="all candidates failed"):
        failed.describe()


@given(st.lists(st.one_of(st.none(), st.tuples(seconds, seconds)), min_size=1, max_size=6))
def test_no_candidate_is_faster_in_both_than_the_chosen_one(timings: list[tuple[float, float] | None]) -> None:
    found = measurement(
        *(
            Result(f"e{number}", "fp32", failure="broken") if each is None else result(f"e{number}", "fp32", *each)
            for number, each in enumerate(timings)
        )
    )
    if found.fastest is None:
        assert not any(timings)
        return
    best = found.fastest.timing
    assert best is not None
    for each in filter(None, timings):
        assert not (each[0] < best.text_seconds and each[1] < best.batch_seconds)
    assert found.describe().count("failed") == timings.count(None)


# ---------------------------------------------------------------- candidates


@pytest.mark.parametrize(
    ("options", "features", "expected"),
    [
        ({}, AVX2, ["onnx fp32", "tensorflow fp32", "torch fp32"]),
        ({"dtype": "bf16"}, AMX, ["torch bf16", "tensorflow bf16"]),
        ({"dtype": "int8"}, AMX, ["onnx int8"]),
        ({"dtype": "auto"}, AVX2, ["onnx int8", "onnx fp32", "tensorflow fp32", "torch fp32"]),
        ({"dtype": "auto"}, AMX,
         ["torch bf16", "onnx fp32", "tensorflow fp32", "torch fp32", "tensorflow bf16", "onnx int8"]),
        ({"dtype": "auto", "deterministic": True}, AMX, ["onnx int8"]),
        ({"xla": True}, AVX2, ["tensorflow fp32"]),
        ({"fp16": True}, AVX2, ["onnx fp32", "tensorflow fp32", "torch fp32"]),
        ({"threads": 3}, AVX2, ["onnx fp32", "tensorflow fp32", "torch fp32"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["auto", "measure"])
def test_the_first_candidate_is_that_of_auto_and_the_chosen_one_computes(
    engine: str, options: dict[str, object], features: frozenset[str], expected: list[str]
) -> None:
    seen: list[list[str]] = []
    devices: list[Device] = []

    def take_last(candidates: Sequence[Candidate], device: Device) -> Candidate:
        seen.append([str(each) for each in candidates])
        devices.append(device)
        return candidates[-1]

    config = config_of(engine=engine, num_worker=2, **options)
    plans = plan_workers(config, LOG, features=features, choose=take_last)
    assert seen == [expected]
    assert {f"{plan.engine} {plan.dtype}" for plan in plans} == {expected[-1]}
    assert {plan.device for plan in plans} == set(devices)
    table = plan_workers(config, LOG, features=features, choose=lambda *_: None)
    assert {f"{plan.engine} {plan.dtype}" for plan in table} == {expected[0]}
    assert table == plan_workers(config_of(num_worker=2, **options), LOG, features=features)


def test_a_missing_library_is_no_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "torch" else object())
    assert find_candidates("auto", ["fp32"]) == [Candidate("onnx", "fp32"), Candidate("tensorflow", "fp32")]


def test_a_gpu_has_the_engine_of_the_table_and_the_log_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "choose", lambda name, *_: {"auto": "torch"}[name])

    def refuse(*_: object) -> Candidate:
        raise AssertionError("a GPU was measured")

    config = config_of(engine="measure", cpu=False)
    with caplog.at_level(logging.INFO):
        [plan] = plan_workers(config, LOG, lambda: [Gpu(0, 0.0, 0.0)], choose=refuse)
    assert (plan.device.kind, plan.engine) == ("gpu", "torch")
    assert "nothing is measured on GPUs, which use engine torch" in caplog.text


def test_a_front_without_workers_has_nothing_to_measure() -> None:
    with pytest.raises(ConfigError, match="give it to bert-serving-join"):
        config_of(engine="measure", num_worker=0, join_port=6000)


def test_the_engine_that_timing_selects_does_not_change_the_vector_space() -> None:
    model = config_of().read_model()
    spaces = set()
    for engine, number in itertools.product(("auto", "measure"), range(3)):
        config = config_of(engine=engine)
        choose = lambda candidates, _, number=number: candidates[number]  # noqa: E731
        plans = plan_workers(config, LOG, features=AVX2, choose=choose)
        spaces.add(vector_digest(config, model, plans))
    assert len(spaces) == 1


# ---------------------------------------------------------------- the store


class Timer:
    """Counts measurements, in which the last candidate is the fastest."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        monkeypatch.setattr(EngineTimer, "measure", lambda _, *args: self.measure(*args))

    def measure(self, candidates: Sequence[Candidate], device: Device) -> Measurement:
        self.count += 1
        results = [result(each.engine, each.dtype, 1 / n, 1 / n) for n, each in enumerate(candidates, 1)]
        return Measurement("a processor", device.threads, "2027-01-31", tuple(results))


def choose(
    engine: str, names: Sequence[str] = ("onnx", "torch"), threads: int = 2, digest: str = "d", **options: object
) -> Candidate | None:
    config = config_of(engine=engine, **options)
    candidates = [Candidate(name, "fp32") for name in names]
    found = make_choice(config, config.read_model(), digest, LOG)
    return None if found is None else found(candidates, Device("cpu", 0, threads))


def test_a_measurement_is_made_once_and_auto_takes_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timer = Timer(monkeypatch)
    caplog.set_level(logging.INFO)
    assert choose("auto") is None
    assert timer.count == 0
    assert choose("measure") == choose("measure") == choose("auto") == Candidate("torch", "fp32")
    assert timer.count == 1
    assert "measured on 2027-01-31, kept in " in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "other"},
        {"threads": 3},
        {"names": ("onnx", "tensorflow", "torch")},
        {"names": ("tensorflow", "torch")},
        {"pooling_layer": [-1]},
        {"pooling_strategy": "CLS_POOLED"},
        {"max_seq_len": 8},
    ],
)
def test_a_measurement_of_something_else_is_not_taken(
    change: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    timer = Timer(monkeypatch)
    choose("measure")
    assert choose("auto", **change) is None  # type: ignore[arg-type]
    choose("measure", **change)  # type: ignore[arg-type]
    assert timer.count == 2


@pytest.mark.parametrize("name", ["describe_processor", "library_version"])
def test_another_processor_or_library_is_measured_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    timer = Timer(monkeypatch)
    choose("measure")
    monkeypatch.setattr(engine_choice, name, lambda *_: "another one")
    assert choose("auto") is None
    assert choose("measure") == Candidate("torch", "fp32")
    assert timer.count == 2


def test_one_candidate_needs_no_measurement(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    timer = Timer(monkeypatch)
    caplog.set_level(logging.INFO)
    assert choose("measure", ["onnx"]) == Candidate("onnx", "fp32")
    assert timer.count == 0
    assert "only engine onnx with dtype fp32 can compute this model here" in caplog.text


@pytest.mark.parametrize("engine", ["onnx", "torch", "zeros", "my.engine"])
def test_a_named_engine_looks_at_no_measurement(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Timer(monkeypatch)
    choose("measure")
    assert make_choice(config_of(engine=engine), config_of().read_model(), "d", LOG) is None


def test_a_damaged_measurement_is_ignored_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    timer = Timer(monkeypatch)
    choose("measure")
    [path] = tmp_path.glob("cache/measurement-*/measurement.json")
    content = json.loads(path.read_text())
    length = len(path.read_text())
    content["results"][0]["timing"]["text_seconds"] = -1
    path.write_text(json.dumps(content).ljust(length))
    assert choose("auto") is None
    assert f"the measurement in {path.parent} is damaged" in caplog.text
    assert choose("measure") == Candidate("torch", "fp32")
    assert timer.count == 2
    assert choose("auto") == Candidate("torch", "fp32")  # it was written again


def test_a_folder_that_cannot_be_written_loses_the_measurement_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Timer(monkeypatch)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    assert choose("measure") == Candidate("torch", "fp32")
    assert "the measurement is not kept" in caplog.text


def test_check_measures_nothing_and_shows_what_is_stored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timer = Timer(monkeypatch)
    config = config_of(engine="measure")
    model = config.read_model()
    candidates = [Candidate(name, "fp32") for name in ("onnx", "torch")]
    found = stored_choice(config, model, LOG)
    assert found is not None
    assert found(candidates, Device("cpu", 0, 2)) is None
    assert "the start times onnx fp32, torch fp32, and takes the fastest" in caplog.text
    digest = engine_choice.Cache().model_digest(model)
    choose("measure", digest=digest)
    assert found(candidates, Device("cpu", 0, 2)) == Candidate("torch", "fp32")
    assert timer.count == 1


# ---------------------------------------------------------------- timing


class Engine:
    """Takes its seconds from a list, on a clock of its own."""

    def __init__(self, durations: Sequence[float], value: float = 1.0) -> None:
        self.now, self.batches = 0.0, [0]
        self._durations, self._value = itertools.cycle(durations), value

    def encode(self, batch: Batch) -> np.ndarray:
        self.now += next(self._durations)
        self.batches.append(batch.num_sequences)
        assert batch.input_ids.max() < 10
        assert batch.lengths.sum() == batch.num_tokens
        return np.full((batch.num_sequences, 2), self._value, np.float32)

    def close(self) -> None: ...


def spec_of(longest: int) -> EngineSpec:
    model = types.SimpleNamespace(vocab_size=10, max_tokens=512)
    return EngineSpec(model, "", max_seq_len=longest)  # type: ignore[arg-type]


@pytest.mark.parametrize("longest", [4, 25, 512])
def test_the_shortest_time_after_the_first_run_counts(longest: int) -> None:
    engine = Engine([0.001, 0.4, 0.3, 0.5, 0.002, 0.6, 0.2, 0.3])
    timing = measure.time_engine(engine, spec_of(longest), lambda: engine.now)
    assert timing.text_seconds == pytest.approx(0.3)
    assert timing.batch_seconds == pytest.approx(0.2)
    assert set(engine.batches) == {0, 1, timing.batch_texts}


def test_a_slow_call_is_timed_once() -> None:
    engine = Engine([100.0])
    assert measure.time_engine(engine, spec_of(25), lambda: engine.now).batch_seconds == 100
    assert len(engine.batches) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_engine_whose_numbers_are_not_finite_fails(value: float) -> None:
    with pytest.raises(EngineError, match="not finite"):
        measure.time_engine(Engine([1.0], value), spec_of(25))


def test_the_reasons_are_named_if_all_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EngineTimer, "_time", lambda _, each, device: Result(each.engine, each.dtype, None, "it broke"))
    config = config_of(engine="measure")
    timer = EngineTimer(config, config.read_model(), LOG, lambda: False)
    with pytest.raises(StartError, match=r"-engine measure: all of onnx fp32, torch fp32 failed: it broke$"):
        timer.measure([Candidate("onnx", "fp32"), Candidate("torch", "fp32")], Device("cpu", 0, 1))


@pytest.mark.parametrize(("load", "warns"), [(0.1, False), (7.9, True)])
def test_other_load_is_named(
    load: float, warns: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr(EngineTimer, "_time", lambda _, each, device: result(each.engine, each.dtype, 1.0, 1.0))
    config = config_of(engine="measure")
    timer = EngineTimer(config, config.read_model(), LOG, lambda: False)
    timer.measure([Candidate("onnx", "fp32")], Device("cpu", 0, 1))
    assert ("other programs use 100 % of the processor" in caplog.text) is warns


def test_each_engine_of_the_table_names_its_library() -> None:
    assert set(engines.PREFERENCE["cpu"]) == set(measuring._DISTRIBUTIONS)
