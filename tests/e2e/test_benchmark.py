"""Tests ``bert-serving-benchmark``: tables, files, exits codes, and that no process remains."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client import BertClient, ServerUnreachableError
from bert_serving.server.benchmark import experiments
from bert_serving.server.benchmark.corpus import COMMON, SentenceSource
from bert_serving.server.benchmark.load import (
    CLIENTS_PER_PROCESS,
    LoadError,
    Repeats,
    Request,
    closed_loop,
    open_loop,
    poisson_arrivals,
)
from bert_serving.server.benchmark.managed_server import free_ports
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.benchmark.report import Row, Table, format_number
from bert_serving.server.benchmark.runner import make_requests
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.model.config import load_model_config
from bert_serving.server.tokenization.factory import make_tokenizer
from servers import CACHE, READY_LINE, TINY, serving, wait_until

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmark"
QUICK = ["-engine", "zeros", "-cpu", "-num_repeat", "3", "-min_seconds", "0", "-max_seconds", "5"]


def start(folder: Path, *flags: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bert_serving.server.benchmark.cli", "-model_dir", TINY, *QUICK, *flags]
    return spawn(folder, command)


def spawn(folder: Path, command: list[str | Path]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, "BERT_SERVING_CACHE": CACHE, "XDG_CACHE_HOME": CACHE},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def benchmark(folder: Path, *flags: str | Path) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr of a run in an empty folder."""
    return finish(start(folder, *flags))


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Returns exit code, stdout and stderr; after a time-out, kills the process group."""
    try:
        out, err = process.communicate(timeout=150)
    finally:
        kill_group(process)
    return process.returncode, out, err


def kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # usually, all of it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)


def result(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "bert-serving-benchmark" / "result.json").read_text("utf-8"))
    return found


def test_each_test_writes_a_table_a_plot_and_json(tmp_path: Path) -> None:
    code, out, err = benchmark(
        tmp_path, "-test_client_batch_size", "1", "64", "-test_num_client", "8", "-test_pooling_layer", "-1", "-1,-2",
        "-test_max_seq_len", "16", "-test_max_batch_size", "32", "-open_loop", "100", "-max_seconds", "1",
    )  # fmt: skip
    assert code == 0, err
    document = result(tmp_path)
    assert [e["parameter"] for e in document["experiments"]] == [
        "max_seq_len", "client_batch_size", "num_client", "max_batch_size", "pooling_layer", "open_loop",
    ]  # fmt: skip
    rows = {e["parameter"]: e["rows"] for e in document["experiments"]}
    assert [row["value"] for row in rows["pooling_layer"]] == ["-1", "-1,-2"]
    assert [row["client_batch_size"] for row in rows["client_batch_size"]] == [1, 64]
    assert rows["num_client"][0]["num_client"] == 8
    for row in (row for table in rows.values() for row in table):
        assert row["sentences_per_second"] > 0
        assert row["tokens_per_second"] > row["sentences_per_second"]
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    # Without -texts each sequence has the length of -max_seq_len, by default 40.
    assert rows["max_seq_len"][0]["num_tokens"] == 16 * rows["max_seq_len"][0]["num_sentences"]
    assert rows["max_batch_size"][0]["num_tokens"] == 40 * rows["max_batch_size"][0]["num_sentences"]
    assert document["engine"] == "zeros"
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["bert-serving-server"]
    assert "-test_pooling_layer -1 -1,-2" in document["command"]
    folder = tmp_path / "bert-serving-benchmark"
    markdown = (folder / "result.md").read_text("utf-8")
    for name, table in rows.items():
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        for text in (markdown, out):
            assert f"### {name}\n" in text
            assert f"| {table[0]['value']} | " in text
    assert READY_LINE in (folder / "server.log").read_text("utf-8")
    assert "all set" not in err


def test_real_engine_with_texts_of_a_file(tmp_path: Path) -> None:
    lines = ["short", "a sentence that is somewhat longer than the other one"]
    (tmp_path / "texts.txt").write_text("\n\n".join(lines) + "\n", "utf-8")
    code, _, err = benchmark(
        tmp_path, "-engine", "auto", "-texts", "texts.txt", "-test_client_batch_size", "4", "-out", "here"
    )
    assert code == 0, err
    row = json.loads((tmp_path / "here" / "result.json").read_text("utf-8"))["experiments"][0]["rows"][0]
    tokenizer = make_tokenizer(config(), load_model_config(TINY))
    assert row["num_tokens"] / row["num_sentences"] == np.mean(tokenizer.encode(lines).lengths)


def test_failed_setting_does_not_stop_the_others(tmp_path: Path) -> None:
    code, out, err = benchmark(tmp_path, "-test_max_seq_len", "100000", "16")
    assert code == 1, err
    failed, measured = result(tmp_path)["experiments"][0]["rows"]
    assert "-max_seq_len 100000 is more than the" in failed["failure"]
    assert measured["sentences_per_second"] > 0
    assert "| 100000 | failed |" in out
    assert "100000 failed: -max_seq_len 100000" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-texts", "nowhere.txt"], "nowhere.txt"),
        (["-texts", "empty.txt"], "-texts empty.txt contains no text"),
        (["-client_vocab_file", "empty.txt"], "-client_vocab_file empty.txt contains no words"),
        (["-model_dir", "nowhere"], "nowhere"),
        (["-test_pooling_layer", "last"], "'last' is neither a layer"),
        (["-open_loop", "0"], "must be above 0"),
    ],
)
def test_invalid_options_fail_fast(tmp_path: Path, flags: list[str], words: str) -> None:
    (tmp_path / "empty.txt").touch()
    code, _, err = benchmark(tmp_path, *flags)
    assert code == 2
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_the_server(tmp_path: Path, number: int) -> None:
    process = start(tmp_path, "-test_client_batch_size", "256", "-min_seconds", "100", "-max_seconds", "100")
    try:
        family = psutil.Process(process.pid)

        log = tmp_path / "bert-serving-benchmark" / "server.log"
        wait_until(lambda: log.exists() and READY_LINE in log.read_text("utf-8"), 90, "the server")
        children = family.children(recursive=True)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted; the results so far are in" in err
        _, alive = psutil.wait_procs(children, timeout=60)
        assert len(children) >= 3
        assert not alive
    finally:
        kill_group(process)


# -- Scripts of the repository ----------------------------------------------------------------------------------------


def script(folder: Path, name: str, *flags: str) -> str:
    """Returns the stdout of a script in ``benchmark/``."""
    code, out, err = finish(spawn(folder, [sys.executable, SCRIPTS / name, *flags]))
    assert code == 0, err
    return out


@pytest.mark.slow
def test_the_comparison_with_peers_runs(tmp_path: Path) -> None:
    """Runs only the rows that need no installation: the server of this project, its engine, and its products."""
    words = ["this served fp32", "this, engine alone loop fp32", "products alone limit fp32 onnx"]
    out, systems = compare_peers(tmp_path, "minilm", words)
    rows = [("this, engine alone", "loop"), ("matrix products alone", "limit"), ("this", "served")]
    assert [(one["system"], one["how"]) for one in systems] == rows
    assert "- fp32, bulk: this / its engine alone: " in out
    assert "- fp32, bulk: matrix products alone / this: " in out


@pytest.mark.minutes
def test_the_comparison_of_rerankers_runs(tmp_path: Path) -> None:
    _, systems = compare_peers(tmp_path, "reranker", ["products alone limit fp32", "this served fp32", "this, HTTP"])
    names = ["matrix products alone", "matrix products alone", "this", "this, HTTP"]
    assert [one["system"] for one in systems] == names


def compare_peers(folder: Path, model: str, words: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """Returns the output of the comparison of these systems in fp32, and their figures."""
    out = script(folder, "peers/run.py", "--quick", "--model", model, "--only", *words, "--out", "peers")
    systems: list[dict[str, Any]] = json.loads((folder / "peers" / "peers.json").read_text("utf-8"))["models"][0][
        "systems"
    ]
    for one in systems:
        assert one["dtype"] == "fp32"
        assert one["how"] == "limit" or one["worst_cosine"] > 0.999
        loads = ("bulk", "single", "groups") + (("many",) if one["how"] == "served" else ())
        assert min(one[load] for load in loads) > 0
        assert one["memory_mib"] > 50
        assert set(one["processor_ms"]) == set(loads)
    assert "- Where this is not ahead: nowhere." in out
    assert (folder / "peers" / "peers.md").read_text("utf-8") in out
    return out, systems


@pytest.mark.minutes
@pytest.mark.slow
def test_cost_script_runs(tmp_path: Path) -> None:
    quick = ["-num_repeat", "1", "-min_seconds", "0", "-max_seconds", "0.1"]
    script(tmp_path, "cost.py", "-engine", "zeros", "-cpu", *quick, "-out", "cost")
    tables = json.loads((tmp_path / "cost" / "result.json").read_text("utf-8"))["experiments"]
    assert {table["parameter"]: [table["rows"][0]["value"], table["rows"][-1]["value"]] for table in tables} == {
        "length": ["8", "512"], "clients": ["1", "256"], "request size": ["1", "8192"],
    }  # fmt: skip
    assert all("failure" not in row for table in tables for row in table["rows"])
    for name in ("length", "clients", "request_size"):
        assert (tmp_path / "cost" / f"{name}.png").is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-test_num_client", "4"], "the tests are fixed"),
        (["-open_loop", "4"], "the tests are fixed"),
        (["-num_client", "4"], "the tests are fixed"),
        (["-model_dir", "nowhere"], "nowhere"),
        (["-texts", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_cost_script_rejects_invalid_options(tmp_path: Path, flags: list[str], words: str) -> None:
    command = [sys.executable, str(SCRIPTS / "cost.py"), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


# -- Load -------------------------------------------------------------------------------------------------------------


def test_each_client_sends_its_own_requests() -> None:
    with serving("-engine", "zeros") as server:
        mine = [[Request([f"client {i} request {k}"], 5) for k in range(3)] for i in range(4)]
        connect = {"port": server.port, "port_out": server.port_out}
        measured = closed_loop(connect, mine, Repeats(3, 0, 0.0, 60.0))
        assert len(measured.latencies) == measured.num_sentences == 12
        assert measured.num_tokens == 60
        times = np.linspace(0, 0.2, 10)
        measured = open_loop(connect, mine[0], times)
        assert len(measured.latencies) == measured.num_sentences == 10
        assert measured.seconds >= 0.2
        assert min(measured.latencies) > 0


def test_failed_request_raises() -> None:
    port, port_out = free_ports(2)

    connect = {"port": port, "port_out": port_out, "ignore_all_checks": True, "connect_timeout": 200}
    requests = [[Request(["a"], 3)]] * 3
    with pytest.raises(LoadError, match="no server connected"):
        closed_loop(connect, requests, Repeats(1, 0, 0.0, 60.0))
    with pytest.raises(ServerUnreachableError):
        open_loop(connect, requests[0], np.array([0.0]))


def test_many_clients_run_in_several_processes() -> None:
    with serving("-engine", "zeros") as server:
        requests = [[Request([f"client {i}"], 4)] for i in range(CLIENTS_PER_PROCESS + 3)]
        connect = {"port": server.port, "port_out": server.port_out}
        measured = closed_loop(connect, requests, Repeats(2, 1, 0.0, 60.0))
        assert measured.num_sentences == 2 * len(requests)
        with BertClient(**connect) as client:
            assert client.server_status["statistic"]["num_data_request"] == 2 * len(requests) + 1


@pytest.mark.parametrize(
    ("done", "elapsed", "should_continue"),
    [
        (0, 99.0, True),  # at least one
        (7, 9.0, True),
        (8, 9.0, False),
        (8, 1.0, True),  # -min_seconds
        (7, 20.0, False),  # -max_seconds
    ],
)
def test_client_continues_until_its_limits(done: int, elapsed: float, should_continue: bool) -> None:
    assert Repeats(8, 2, 2.0, 20.0).should_continue(done, elapsed) is should_continue


@given(st.floats(0.1, 1000), st.floats(0.1, 20), st.integers(0, 2**31))
def test_arrivals_are_ascending_and_in_time(rate: float, seconds: float, seed: int) -> None:
    times = poisson_arrivals(rate, seconds, seed)
    assert len(times) >= 1
    assert (np.diff(times) >= 0).all()
    assert len(times) == 1 or times[-1] < seconds
    np.testing.assert_array_equal(times, poisson_arrivals(rate, seconds, seed))


def test_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    times = poisson_arrivals(100, 1000, 0)
    assert len(times) == pytest.approx(100_000, rel=0.02)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.02)


# -- Options, texts, tables -------------------------------------------------------------------------------------------


def config(*flags: str) -> ServerConfig:
    return ServerConfig.from_args(read_args(["-model_dir", str(TINY), *flags]))


def settings(*flags: str) -> dict[str, list[str]]:
    args = read_args(["-model_dir", str(TINY), *flags])
    found = experiments.from_args(args, ServerConfig.from_args(args), load_model_config(TINY))
    return {experiment.parameter: [setting.value for setting in experiment.settings] for experiment in found}


def test_default_tests_are_the_five_of_1_10() -> None:
    assert settings() == {
        "max_seq_len": ["32", "64", "128", "256"],
        "client_batch_size": ["1", "16", "256", "4096"],
        "num_client": ["1", "4", "16", "64"],
        "max_batch_size": ["8", "32", "128", "512"],
        "pooling_layer": ["-1", "-2", "-3", "-4"],
    }


def test_only_named_tests_run() -> None:
    assert settings("-test_pooling_layer", "-4", "-1,-2", "0") == {"pooling_layer": ["-4", "-1,-2", "0"]}
    assert settings("-open_loop", "0.5", "20") == {"open_loop": ["0.5", "20"]}
    assert settings("--test-max-seq-len", "NONE", "8") == {"max_seq_len": ["NONE", "8"]}


def test_server_flags_are_passed_on() -> None:
    assert config().max_seq_len == 40
    assert config("-max_seq_len", "30", "-num_worker", "2").max_seq_len == 30


def test_random_sentences_have_the_length_and_depend_on_the_seed() -> None:
    source = SentenceSource(None, COMMON, 0)
    sentences = source.sentences(50, 38)
    assert sentences == SentenceSource(None, COMMON, 0).sentences(50, 38)
    assert sentences != source.sentences(50, 38, client=1)
    assert sentences != SentenceSource(None, COMMON, 1).sentences(50, 38)
    assert all(len(sentence.split()) == 38 for sentence in sentences)


def test_common_words_are_one_token_each() -> None:
    vocabulary = set((TINY.parents[2] / "bert_uncased_vocab.txt").read_text("utf-8").split())
    assert set(COMMON) <= vocabulary
    assert len(set(COMMON)) == len(COMMON) > 150


def test_lines_of_a_file_are_used_in_a_cycle() -> None:
    lines = [str(number) for number in range(20)]
    sentences = SentenceSource(lines, COMMON, 0).sentences(30, 40)
    assert sorted(sentences[:20]) == sorted(lines)
    assert sentences[:20] != lines
    assert sentences[20:] == sentences[:10]


def test_token_counts_of_requests_match_the_server() -> None:
    tokenizer = make_tokenizer(config("-max_seq_len", "8"), load_model_config(TINY))
    texts = ["the", "of " * 20, "and", "to in"]
    assert [(r.texts, r.num_tokens) for r in make_requests(texts, 2, tokenizer)] == [
        (texts[:2], tokenizer.encode(texts[:2]).lengths.sum()),
        (texts[2:], tokenizer.encode(texts[2:]).lengths.sum()),
    ]


@pytest.mark.parametrize(("value", "text"), [(0.1234, "0.123"), (1.234, "1.23"), (37.44, "37.4"), (1234.5, "1,234")])
def test_format_number(value: float, text: str) -> None:
    assert format_number(value) == text


def test_table_has_a_column_per_number_of_workers() -> None:
    args = read_args(["-model_dir", str(TINY), "-test_num_client", "1", "8", "-test_num_worker", "1", "2", "4"])
    (found,) = experiments.from_args(args, ServerConfig.from_args(args), load_model_config(TINY))
    table = Table(found)
    for number, setting in enumerate(found.settings):
        metrics = {"sentences_per_second": 100.0 + number, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
        table.rows.append(Row(setting, metrics) if number != 5 else Row(setting, failure="no memory"))
    assert table.markdown().split("\n\n", 2)[2].splitlines() == [
        "| num_client, sentences/s | 1 worker | 2 workers | 4 workers |",
        "|---:|---:|---:|---:|",
        "| 1 | 100 | 102 | 104 |",
        "| 8 | 101 | 103 | failed |",
        "",
        "8, -num_worker 4 failed: no memory",
    ]


def test_table_of_tokenizers_and_workers() -> None:
    args = read_args(["-model_dir", str(TINY), "-test_num_tokenizer", "0", "2", "-test_num_worker", "1", "2"])
    (found,) = experiments.from_args(args, ServerConfig.from_args(args), load_model_config(TINY))
    settings = [(each.value, each.config.num_tokenizer, each.config.num_worker) for each in found.settings]
    assert settings == [("0", 0, 1), ("2", 2, 1), ("0", 0, 2), ("2", 2, 2)]


def test_workers_share_a_table(tmp_path: Path) -> None:
    code, out, err = benchmark(tmp_path, "-test_num_client", "1", "3", "-test_num_worker", "1", "2")
    assert code == 0, err
    rows = result(tmp_path)["experiments"][0]["rows"]
    assert [(row["value"], row["num_worker"]) for row in rows] == [("1", 1), ("3", 1), ("1", 2), ("3", 2)]
    assert "| num_client, sentences/s | 1 worker | 2 workers |" in out
    folder = tmp_path / "bert-serving-benchmark"
    assert "num_worker 1, 2; " in (folder / "result.md").read_text("utf-8")
    assert (folder / "num_client.png").is_file()


def test_table_shows_failures() -> None:
    setting = experiments.Setting("7", config(), experiments.Load())
    table = Table(experiments.Experiment("num_client", "About.", [setting]), [Row(setting, failure="no memory")])
    assert "| 7 | failed |" in table.markdown()
    assert "7 failed: no memory" in table.markdown()
    assert table.to_dict()["rows"][0]["failure"] == "no memory"
