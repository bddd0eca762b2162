"""Tests the drift metrics of a running server, for texts similar to the reference and for others."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_serving.server.cli.drift import main
from bert_serving.server.model.default import default_model_dir
from http_calls import HttpServer, serving_http
from servers import Server, serving, wait_until
from version_1 import assert_serves_version_1

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmark"))
from texts import sts_rows

needs_default_model = pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")
WINDOW = 400


def sentences(genre: str) -> list[str]:
    """Returns the distinct sentences of a genre of the STS benchmark: image captions or news."""
    rows = [row for row in sts_rows("train") if row["genre"] == genre]
    return list(dict.fromkeys(row[name] for row in rows for name in ("sentence1", "sentence2")))


def make_reference(server: Server, texts: list[str], folder: Path) -> Path:
    sample, reference = folder / "sample.txt", folder / "reference.json"
    sample.write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    address = f"127.0.0.1:{server.port}:{server.port_out}"
    assert main([str(sample), "-o", str(reference), "-front", address]) == 0
    return reference


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    """Starts a server of the default model with a sample of captions as reference."""
    with serving(model_dir=None) as server:
        reference = make_reference(server, sentences("main-captions")[::6], tmp_path_factory.mktemp("drift"))
    with serving_http("-drift_reference", reference, "-drift_window", WINDOW, model_dir=None) as server:
        yield server


def drift(server: HttpServer) -> dict[str, float]:
    """Returns the gauges of /metrics."""
    lines = server.call("/metrics").body.decode().splitlines()
    found = [
        line.removeprefix("bert_serving_drift_").split() for line in lines if line.startswith("bert_serving_drift_")
    ]
    return {name: float(value) for name, value in found}


def drift_of(server: HttpServer, texts: list[str]) -> dict[str, float]:
    """Returns the drift after two windows of these texts."""
    texts = texts[: 2 * WINDOW]
    with server.zmq_client() as client:
        for start in range(0, len(texts), 100):
            client.encode(texts[start : start + 100])

        def is_told() -> bool:
            status = client.server_status
            return bool(status["drift"]["seen"] == status["statistic"]["num_total_seq"])

        wait_until(is_told, what="the drift of all texts")
    return drift(server)


@needs_default_model
def test_a_reference_of_the_same_vectors_gives_no_warning(watched: HttpServer) -> None:
    assert "-drift_reference was made with" not in watched.server.log


@needs_default_model
def test_drift_is_high_for_other_texts_and_low_for_similar_ones(watched: HttpServer) -> None:
    start = drift(watched)
    assert start.pop("texts") == 0
    assert len(start) == 4
    assert all(math.isnan(value) for value in start.values())

    alike = drift_of(watched, sentences("main-captions")[3::6])
    assert alike["texts"] >= WINDOW
    news = drift_of(watched, sentences("main-news")[::6])
    unknown = drift_of(watched, ["\u2603 \u265e \ua66e"] * 2 * WINDOW)
    assert alike["cosine_distance"] < 0.1 < 0.5 < news["cosine_distance"]
    assert alike["shift"] < 0.1 < 0.25 < news["shift"]
    assert alike["length_psi"] < 0.1 < 1 < unknown["length_psi"]
    assert abs(alike["unknown_token_difference"]) < 0.01
    assert unknown["unknown_token_difference"] == pytest.approx(0.6, abs=0.01)  # three of [CLS] x x x [SEP]
    assert unknown["cosine_distance"] > 0.5
    json_of_status = watched.call("/status/server").json["drift"]
    assert json_of_status["unknown_share_difference"] == unknown["unknown_token_difference"]


def test_mismatching_reference_is_rejected(server: Server, tmp_path: Path) -> None:
    """The reference is of the tiny model; the servers have other options, another dimension, or no pooling."""
    reference = make_reference(server, ["hello world", "the dog is hairy", "hey jack"], tmp_path)
    values = json.loads(reference.read_text())
    assert (values["num_texts"], len(values["mean"])) == (3, 32)
    with serving("-engine", "zeros", "-drift_reference", reference, "-max_seq_len", "20") as other:
        assert "-drift_reference was made with max_seq_len 25, but this server has 20" in other.log
        space = values["options"]["vector_space"]
        assert f"-drift_reference was made with vector_space {space}, but this server has" in other.log
    for options, code, words in (
        (["-pooling_strategy", "REDUCE_MEAN_MAX"], 3, "vectors of 32 numbers"),
        (["-pooling_strategy", "NONE"], 2, "needs one vector per text"),
    ):
        refused = Server("-engine", "zeros", "-drift_reference", reference, *options)
        try:
            assert refused.process.wait(60) == code, refused.log
            assert words in refused.log
            assert "Traceback" not in refused.log
        finally:
            refused.kill()


def test_command_reports_errors(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample, out = tmp_path / "sample.txt", str(tmp_path / "reference.json")
    ports = ["-port", str(server.port), "-port_out", str(server.port_out)]
    for content, words in ((b"one line\n\n", "the minimum is 2"), (b"\xff\xfe", "is not UTF-8")):
        sample.write_bytes(content)
        assert main([str(sample), "-o", out, *ports]) == 1
        assert words in capsys.readouterr().err
    assert main([str(tmp_path / "none.txt"), "-o", out, *ports]) == 1
    assert "none.txt" in capsys.readouterr().err
    assert not Path(out).exists()


def test_command_runs_as_a_module(server: Server, tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.txt", tmp_path / "reference.json"
    sample.write_text("hello world\nhey jack\n")
    command = [sys.executable, "-m", "bert_serving.server.cli.drift", sample, "-o", out]
    ports = ["-port", str(server.port), "-port_out", str(server.port_out)]
    done = subprocess.run([*map(str, command), *ports], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "2 texts" in done.stdout
    assert "noisy" in done.stderr
    assert json.loads(out.read_text())["num_texts"] == 2


def test_a_client_of_1_10(watched: HttpServer) -> None:
    assert_serves_version_1(watched.server, 384)
