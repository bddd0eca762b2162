"""``bert-serving-encode`` into a folder: one row for each text, in one run or several, with one server or two."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.client._cli import part_pipeline
from bert_serving.client._cli.encode import main
from corpus_helpers import at, command, front, num_records, require_vectors, vectors_in, write_inputs
from servers import Server, free_ports, serving, wait_until

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def other() -> Iterator[Server]:
    """A server whose vectors are of another space: one for each token. It refuses long texts."""
    with serving("-pooling_strategy", "NONE", "-max_seq_len", "8", "-max_text_length", "300") as server:
        yield server


@pytest.mark.parametrize("output_format", ["parquet", "npy"])
def test_one_row_for_each_text(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], output_format: str
) -> None:
    texts = write_inputs(tmp_path / "in", 60)
    out = tmp_path / "new" / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "25", "-batch_size", "8", *at(server)]
    assert main([*args, "-format", output_format]) == 0
    told = capfd.readouterr().err
    assert f"inputs without rows: {tmp_path}/in/d.txt\n" in told
    assert f"180 rows in 9 parts in {out}/, each [32] float32, vector space" in told
    require_vectors(out, texts, server)
    if output_format == "npy":
        assert [np.load(path).shape for path in sorted(out.glob("part-*"))] == [(25, 32), (25, 32), (10, 32)] * 3
        return
    first, second, third = (pq.read_table(out / f"part-00000{number}.parquet") for number in (0, 3, 6))
    assert first.schema.names == ["text", "id", "tags", "vector"]
    assert first["id"].to_pylist() == list(range(25))
    assert first["tags"].to_pylist()[:2] == ["[0]", "[1]"]
    assert second.schema.names == ["id", "text", "nested", "vector"]
    assert second["nested"].to_pylist()[4] == {"a": [4]}
    assert third.schema.names == ["text", "vector"]
    assert third["text"].to_pylist() == [text or "" for text in texts[120:145]]
    assert third.schema.field("vector").type == pa.list_(pa.float32(), 32)
    assert len(first.schema.metadata[b"vector_space"]) == 16
    # A run into a complete folder changes nothing, and needs no server.
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(args) == 1
    assert "has the output of a run: -resume completes it" in capfd.readouterr().err
    assert main([*args[:-6], "-port", "1", "-blank", "null", "-resume"]) == 0
    assert "is complete: 180 rows in 9 parts" in capfd.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_readers_of_folders(server: Server, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    (tmp_path / "a.txt").write_text("hello\nworld\n")
    (tmp_path / "b.txt").write_text("good day\n")
    out = f"{tmp_path / 'out'}/"
    assert main([str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "-o", out, "-column", "body", *at(server)]) == 0
    table = pd.read_parquet(out)
    assert list(table.columns) == ["body", "vector"]
    assert list(table["body"]) == ["hello", "world", "good day"]


@pytest.mark.parametrize("output_format", ["parquet", "npy"])
def test_killed_client(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str], output_format: str) -> None:
    """A run that is killed loses no part that it has recorded, and the next run computes none of them again."""
    texts = write_inputs(tmp_path / "in", 400)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "10", "-batch_size", "5", "-format", output_format]
    args += at(server)
    first = command(*args, stderr=subprocess.DEVNULL)
    wait_until(lambda: num_records(out) >= 5, what="parts")
    first.kill()
    first.wait(60)
    records = (out / "_parts.jsonl").read_bytes().splitlines()
    whole = [json.loads(line)["number"] for line in records if line.endswith(b"}")]
    parts = {number: out / f"part-{number:06}.{output_format}" for number in whole}
    damaged, missing, *kept = whole
    times = {number: parts[number].stat().st_mtime_ns for number in kept}
    os.truncate(parts[damaged], 50)
    parts[missing].unlink()
    (out / ".part-000099.parquet.new").write_bytes(b"left by a killed run")
    assert main([*args, "-resume"]) == 0
    told = capfd.readouterr().err
    assert f"{parts[damaged].name} is damaged, and is computed again" in told
    assert f"{parts[missing].name} is missing, and is computed again" in told
    assert {number: parts[number].stat().st_mtime_ns for number in kept} == times
    assert not list(out.glob(".*"))
    require_vectors(out, texts, server)


@pytest.mark.parametrize("output_format", ["parquet", "npy"])
def test_full_disk(server: Server, tmp_path: Path, output_format: str) -> None:
    """A part that does not fit is an error that names it; the parts before it stay."""
    texts = write_inputs(tmp_path / "in", 60)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "60", "-format", output_format, *at(server)]
    limit = resource.RLIMIT_FSIZE
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it writes files
    run = command(*args, stderr=subprocess.PIPE, env=plain, preexec_fn=lambda: resource.setrlimit(limit, (7000, 7000)))
    told = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 1
    assert re.search(rf"{re.escape(str(out))}/\.part-00000.*: File too large", told), told
    assert "rows are in" in told
    assert "Traceback" not in told
    assert not list(out.glob(".*"))
    assert main([*args, "-resume"]) == 0
    require_vectors(out, texts, server)


def test_input_that_changes_during_the_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_inputs(tmp_path / "in", 60)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "60", *at(server)]
    state_of = part_pipeline.state_of
    monkeypatch.setattr(part_pipeline, "state_of", lambda path: (0, 0) if path.endswith("c.txt") else state_of(path))
    assert main(args) == 1
    told = capfd.readouterr().err
    assert f"{tmp_path}/in/c.txt was changed during the run; start over with -overwrite" in told
    assert "120 of 180 rows are in" in told


def test_second_run_is_refused(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path / "in", 400)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "10", "-batch_size", "1", *at(server)]
    first = command(*args, stderr=subprocess.DEVNULL)
    wait_until(lambda: num_records(out) >= 2, what="parts")
    for mode in ("-resume", "-overwrite"):
        assert main([*args, mode]) == 1
        assert f"another run writes into {out}/" in capfd.readouterr().err
    assert first.poll() is None
    first.kill()
    first.wait(60)


def test_changes_are_refused(server: Server, other: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_inputs(tmp_path / "in", 20)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "10"]
    assert main([*args, *at(server)]) == 0
    (out / "part-000001.parquet").unlink()  # so that the run is incomplete
    files = {path.name: path.read_bytes() for path in out.iterdir()}

    def refusal(*more: str, code: int = 1) -> str:
        capfd.readouterr()
        assert main([*args, "-resume", *more]) == code
        assert {path.name: path.read_bytes() for path in out.iterdir()} == files
        return capfd.readouterr().err

    assert "-part_rows was 10 and is now 20" in refusal(*at(server), "-part_rows", "20")
    assert "-normalize was None and is now on" in refusal(*at(server), "-normalize", "on")
    assert "-blank was null and is now zeros" in refusal(*at(server), "-blank", "zeros")
    assert "-format was parquet and is now npy" in refusal(*at(server), "-format", "npy")
    assert "the server's -max_seq_len was 25 and is now 8" in refusal(*at(other))
    assert main([*args, "-overwrite", "-blank", "null", *front(server), *front(other)]) == 1
    told = capfd.readouterr().err
    assert "all servers must have the same model and options: the server's -max_seq_len of 127.0.0.1:" in told
    assert f"127.0.0.1:{other.port}:{other.port_out}" in told
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    (tmp_path / "in" / "e.txt").write_text("hello\n")
    assert "the run began with 4 inputs" in refusal(*at(server))
    (tmp_path / "in" / "e.txt").unlink()
    content = (tmp_path / "in" / "c.txt").read_bytes()
    (tmp_path / "in" / "c.txt").write_bytes(content.swapcase())
    assert "c.txt has changed: " in refusal(*at(server))
    (tmp_path / "in" / "c.txt").write_bytes(content)
    shutil.move(tmp_path / "in", tmp_path / "moved")
    assert main([str(tmp_path / "moved"), *args[1:], "-resume", *at(server)]) == 0


def test_a_blank_text_is_found_before_the_first_request(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("hello\n" * 50 + " \n")
    (tmp_path / "b.txt").write_text("hello\n")
    args = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "-o", f"{tmp_path / 'out'}/"]
    assert main([*args, *at(server)[:4]]) == 1
    assert "a.txt, line 51 is blank" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    for blank, row in (("zeros", [0.0] * 32), ("null", None)):
        assert main([*args, *at(server), "-blank", blank, "-overwrite"]) == 0
        assert vectors_in(tmp_path / "out")[50] == row


def test_lost_front(server: Server, tmp_path: Path) -> None:
    """Two servers share the parts. Those of a server that is lost go to the other."""
    texts = write_inputs(tmp_path / "in", 700)
    out = tmp_path / "out"
    args = [str(tmp_path / "in"), "-o", f"{out}/", "-part_rows", "20", "-batch_size", "5", "-blank", "null"]
    with serving() as lost, BertClient(port=lost.port, port_out=lost.port_out, timeout=60_000) as client:

        def num_requests() -> int:
            return int(client.server_status["statistic"]["num_data_request"])

        before = num_requests()
        args += [*front(server), *front(lost), "-connect_timeout", "2000"]
        run = command(*args, stderr=subprocess.PIPE)
        wait_until(lambda: num_records(out) >= 5 and num_requests() > before + 5, what="parts of both")
        run.send_signal(signal.SIGSTOP)  # it does not end before the server does
        lost.kill()
        run.send_signal(signal.SIGCONT)
        told = run.communicate(timeout=120)[1].decode()
    assert run.returncode == 0, told
    assert f"127.0.0.1:{lost.port}:{lost.port_out} is lost, its parts go to the other servers" in told
    require_vectors(out, texts, server)


def test_token_vectors(other: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("hello\n\nhello world hello world\n")
    args = [str(tmp_path / "a.txt"), "-o", f"{tmp_path / 'out'}/"]
    assert main([*args, *at(other)]) == 1
    assert "Parquet holds one vector for each text" in capfd.readouterr().err
    assert main([*args, *at(other), "-format", "npy"]) == 0
    vectors = np.load(tmp_path / "out" / "part-000000.npy")
    assert vectors.shape == (3, 8, 32)
    assert np.isnan(vectors[1]).all()
    assert not np.isnan(vectors[[0, 2]]).any()


def test_refused_text_is_located(other: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("hello\n" * 13 + "long " * 100 + "\n" + "hello\n" * 6)
    args = [str(tmp_path / "a.txt"), "-o", f"{tmp_path / 'out'}/", "-part_rows", "10", "-batch_size", "5"]
    assert main([*args, *at(other), "-format", "npy"]) == 1
    told = capfd.readouterr().err
    assert "a.txt, rows 11 to 15: the server replied with" in told
    assert "10 of 20 rows are in" in told


def test_errors_name_the_remedy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_text('{"text": "hello"}\n')
    out = f"{tmp_path / 'out'}/"
    port, port_out = map(str, free_ports())

    def stderr_of(*args: str, code: int = 2) -> str:
        try:
            assert main([*args, "-port", port, "-port_out", port_out, "-connect_timeout", "200"]) == code
        except SystemExit as end:
            assert end.code == code
        return capfd.readouterr().err

    one = str(corpus)
    assert "name it with a slash, -o OUT/" in stderr_of(one, one, "-o", "v.npy")
    assert "name it with a slash, -o OUT/" in stderr_of(str(tmp_path), "-o", "v.npy")
    assert "name it with a slash, -o OUT/" in stderr_of(one, "-format", "parquet", "-o", "v.parquet")
    assert "-column is for a folder of parts" in stderr_of(one, "-o", "v.npy", "-column", "body")
    assert "-blank null is for a folder" in stderr_of(one, "-o", "v.npy", "-blank", "null")
    assert "a row for each text; use -blank null" in stderr_of(one, "-o", out, "-blank", "skip")
    assert "the standard input cannot" in stderr_of("-", "-o", out)
    assert "parquet or npy, not jsonl" in stderr_of(one, "-o", out, "-format", "jsonl")
    assert "exclude each other" in stderr_of(one, "-o", out, "-resume", "-overwrite")
    assert "give only -front" in stderr_of(one, "-o", out, "-front", "gpu1")
    assert "is not HOST[:PORT[:PORT_OUT]]" in stderr_of(one, "-o", out, "-front", "gpu1:x")
    with pytest.raises(SystemExit):
        main([one, "-o", "v.npy", "-front", "gpu1", "-front", "gpu1:5555"])
    assert "names a server twice" in capfd.readouterr().err
    assert "is not a text file by its ending" in stderr_of(one, "-o", str(tmp_path / "v.npy"), code=1)
    assert "no server connected" in stderr_of(one, "-o", out, code=1)
    assert "overlap" in stderr_of(one, "-o", f"{tmp_path}/", code=1)
    assert "overlap" in stderr_of(str(tmp_path), "-o", out, code=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_missing_pyarrow(tmp_path: Path) -> None:
    """The message is one line with the command that installs it; nothing else needs pyarrow."""
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not installed')")
    (tmp_path / "a.txt").write_text("hello\n")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    port = ["-port", "1", "-connect_timeout", "100"]
    done = command(str(tmp_path / "a.txt"), "-o", f"{tmp_path / 'out'}/", *port, stderr=subprocess.PIPE, env=env)
    told = done.communicate(timeout=60)[1].decode()
    assert 'needs pyarrow: pip install "bert-serving-client[corpus]"' in told
    assert told.count("\n") == 1
    npy = ["-o", f"{tmp_path / 'out'}/", "-format", "npy"]
    done = command(str(tmp_path / "a.txt"), *npy, *port, stderr=subprocess.PIPE, env=env)
    assert b"no server connected" in done.communicate(timeout=60)[1]


def test_example_of_the_docs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The blocks of the example run one after the other, and print what their comments show."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "corpora.md").read_text(encoding="utf-8")
    example = page.partition("## An example")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```", example, re.M | re.S):
        if language == "bash":
            assert main([*shlex.split(code)[1:], *at(server)[:4]]) == 0
        else:
            exec(compile(code, "corpora.md", "exec"), names)
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print.*  # (.*)$", example, re.M)
