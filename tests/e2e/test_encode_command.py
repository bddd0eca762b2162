"""``bert-serving-encode``: a text file is encoded into a file of vectors, in one run or in several."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.client._cli.encode import get_parser, main
from servers import DATA, TINY_TUNED, Server, free_ports, serving, wait_until

WORDS = [word for word in (DATA / "golden" / "models" / "tiny" / "vocab.txt").read_text().split() if word.isalpha()]


def some_texts(count: int, seed: int = 1) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 20))) for _ in range(count)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def expected(server: Server, texts: list[Any], is_tokenized: bool = False) -> np.ndarray:
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
        return np.asarray(client.encode(texts, is_tokenized=is_tokenized))


def at(server: Server) -> list[str]:
    return ["-port", str(server.port), "-port_out", str(server.port_out)]


def command(*args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bert_serving.client._cli.encode", *args], **kwargs)


def test_file_to_npy(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = some_texts(100)
    out = tmp_path / "vectors.npy"
    assert main([write(tmp_path / "corpus.txt", texts), "-o", str(out), "-batch_size", "7", *at(server)]) == 0
    vectors = np.load(out)
    np.testing.assert_allclose(vectors, expected(server, texts), atol=1e-5)
    assert vectors.dtype == np.float32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.txt", "vectors.npy"]
    assert f"100 vectors in {out}, each [32] float32" in capfd.readouterr().err


def test_npy_can_be_memory_mapped(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "vectors.npy"
    assert main([write(tmp_path / "corpus.txt", some_texts(5)), "-o", str(out), "-quiet", *at(server)]) == 0
    assert np.load(out, mmap_mode="r").shape == (5, 32)


def test_stdin_to_json_lines(server: Server) -> None:
    texts = ["hello ||| world", '"quoted" \\ ünïcode', "你好"]
    done = command("-", "-batch_size", "2", *at(server), stdin=-1, stdout=-1, stderr=-1)
    out, err = done.communicate("\r\n".join(texts).encode(), timeout=120)
    assert done.returncode == 0, err
    rows = [json.loads(line) for line in out.decode("utf-8").splitlines()]
    assert [(row["line"], row["text"]) for row in rows] == list(enumerate(texts, 1))
    vectors = np.array([row["vector"] for row in rows], np.float32)
    np.testing.assert_allclose(vectors, expected(server, texts), atol=1e-5)
    assert rows[0]["tokens"][0] == "[CLS]"  # the server shows them
    assert [len(row["tokens"]) for row in rows] == [5, len(rows[1]["tokens"]), 4]


def test_json_restores_each_float32(server: Server, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.txt", some_texts(20))
    for name in ("a.npy", "a.jsonl"):
        assert main([corpus, "-o", str(tmp_path / name), *at(server)]) == 0
    rows = [json.loads(line)["vector"] for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(np.array(rows, np.float32), np.load(tmp_path / "a.npy"), atol=1e-6)


def test_tokens(server: Server, tmp_path: Path) -> None:
    texts = some_texts(9)
    out = tmp_path / "vectors.npy"
    assert main([write(tmp_path / "corpus.txt", texts), "-o", str(out), "-is_tokenized", *at(server)]) == 0
    wanted = expected(server, [text.split() for text in texts], is_tokenized=True)
    np.testing.assert_allclose(np.load(out), wanted, atol=1e-5)


def test_resume_after_kill(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = some_texts(200)
    corpus, out, sidecar = tmp_path / "corpus.txt", tmp_path / "vectors.npy", tmp_path / "vectors.npy.progress"
    options = ["-o", str(out), "-batch_size", "8", *at(server)]
    first = command("-", *options, stdin=-1, stderr=-1)
    assert first.stdin is not None
    first.stdin.write("".join(f"{text}\n" for text in texts[:60]).encode())
    first.stdin.flush()  # the pipe stays open: the command waits for more input
    wait_until(lambda: sidecar.exists() and json.loads(sidecar.read_text())["rows"] >= 40, what="rows")
    first.kill()
    first.communicate(timeout=60)

    so_far = np.load(out)  # valid although the process was killed
    np.testing.assert_allclose(so_far, expected(server, texts[: len(so_far)]), atol=1e-5)
    with open(out, "ab") as file:
        file.write(b"half a row")  # as if the process was killed during a write

    write(corpus, texts)
    assert main([str(corpus), *options]) == 1
    assert "is incomplete: -resume continues it" in capfd.readouterr().err
    assert main([str(corpus), *options, "-resume"]) == 0
    assert not sidecar.exists()
    np.testing.assert_allclose(np.load(out), expected(server, texts), atol=1e-5)

    assert main([str(corpus), *options, "-resume"]) == 0
    assert "is complete" in capfd.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("name", ["v.npy", "v.jsonl"])
def test_full_disk_of_one_file(server: Server, tmp_path: Path, name: str) -> None:
    import resource

    texts = some_texts(100)
    out = tmp_path / name
    args = [write(tmp_path / "in.txt", texts), "-o", str(out), "-batch_size", "10", *at(server)]
    limit = resource.RLIMIT_FSIZE
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it writes files
    size = (8000, 8000)
    run = command(*args, stderr=subprocess.PIPE, env=plain, preexec_fn=lambda: resource.setrlimit(limit, size))
    told = run.communicate(timeout=60)[1].decode()
    assert run.returncode == 1
    assert f"bert-serving-encode: {out}: File too large" in told
    assert f"rows are in {out}; -resume continues from there" in told
    assert "Traceback" not in told
    assert main([*args, "-resume"]) == 0


def interrupted(server: Server, folder: Path, texts: list[str], *options: str, name: str = "v.npy") -> list[str]:
    """Returns the arguments that resume a run which stopped at a blank last line."""
    corpus = write(folder / "corpus.txt", [*texts, ""])
    args = [corpus, "-o", str(folder / name), "-batch_size", "4", *options]
    assert main([*args, *at(server)]) == 1
    write(folder / "corpus.txt", [*texts, "hello"])
    return [*args, "-resume"]


def test_resume_json_lines(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = some_texts(30)
    args = interrupted(server, tmp_path, texts, name="v.jsonl")
    assert "28 rows are in" in capfd.readouterr().err
    assert main([*args, *at(server)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 32))
    assert [row["text"] for row in rows] == [*texts, "hello"]


def test_resume_rejects_changed_options_model_and_input(
    server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    texts = some_texts(30)
    args = interrupted(server, tmp_path, texts)
    out = tmp_path / "v.npy"
    size = out.stat().st_size

    def rejected(*more: str) -> str:
        capfd.readouterr()
        assert main([*args, *more]) == 1
        assert out.stat().st_size == size
        return capfd.readouterr().err

    assert "-blank was error and is now skip" in rejected("-blank", "skip", *at(server))
    with serving("-tuned_model_dir", TINY_TUNED, "-ckpt_name", "model.ckpt-343") as other:
        assert "the vector space was" in rejected(*at(other))
    write(tmp_path / "corpus.txt", ["changed", *texts[1:]])
    assert "differs from the input of the interrupted run: its first 28 lines" in rejected(*at(server))
    write(tmp_path / "corpus.txt", texts[:10])
    assert "differs from the input" in rejected(*at(server))
    write(tmp_path / "corpus.txt", texts)
    os.truncate(out, 200)
    size = 200
    assert "is shorter than" in rejected(*at(server))
    (tmp_path / "v.npy.progress").write_text("{")
    assert "cannot be read" in rejected(*at(server))
    assert main([*args[:-1], "-overwrite", *at(server)]) == 0
    assert len(np.load(out)) == 30


@pytest.mark.parametrize(("blank", "lines"), [("skip", [2, 3, 6]), ("zeros", [1, 2, 3, 4, 5, 6, 7])])
def test_blank_lines(server: Server, tmp_path: Path, blank: str, lines: list[int]) -> None:
    texts = ["", "hello", "world", " \t", "", "good day", ""]
    corpus = write(tmp_path / "corpus.txt", texts)
    options = ["-blank", blank, "-batch_size", "1", *at(server)]
    for name in ("v.npy", "v.jsonl"):
        assert main([corpus, "-o", str(tmp_path / name), *options]) == 0
    vectors = np.load(tmp_path / "v.npy")
    filled = [row for row, line in enumerate(lines) if texts[line - 1].strip()]
    np.testing.assert_allclose(vectors[filled], expected(server, ["hello", "world", "good day"]), atol=1e-5)
    assert not np.delete(vectors, filled, 0).any()
    rows = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == lines
    np.testing.assert_allclose(np.array([row["vector"] for row in rows]), vectors, atol=1e-5)


@pytest.mark.parametrize(("content", "shape"), [(b"", (0, 32)), (b"\n \n", (2, 32)), (b"\xef\xbb\xbfhello", (1, 32))])
def test_empty_blank_and_bom_files(server: Server, tmp_path: Path, content: bytes, shape: tuple[int, int]) -> None:
    (tmp_path / "corpus.txt").write_bytes(content)
    out = tmp_path / "v.npy"
    assert main([str(tmp_path / "corpus.txt"), "-o", str(out), "-blank", "zeros", *at(server)]) == 0
    assert np.load(out).shape == shape


def test_token_vectors(tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.txt", ["hello", "hello world hello world"])
    with serving("-pooling_strategy", "NONE", "-max_seq_len", "8") as server:
        assert main([corpus, "-o", str(tmp_path / "v.npy"), *at(server)]) == 0
    assert np.load(tmp_path / "v.npy").shape == (2, 8, 32)


def test_token_vectors_of_variable_length(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "corpus.txt", ["hello", "hello world hello world"])
    with serving("-pooling_strategy", "NONE", "-max_seq_len", "NONE") as server:
        assert main([corpus, "-o", str(tmp_path / "v.npy"), *at(server)]) == 1
        assert "lines 1 to 2 have vectors of shape" in capfd.readouterr().err
        assert main([corpus, "-o", str(tmp_path / "v.jsonl"), *at(server)]) == 0


def test_errors_name_the_remedy(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = tmp_path / "corpus.txt"

    def stderr_of(*args: str, code: int = 1) -> str:
        try:
            assert main([*args, *at(server)]) == code
        except SystemExit as end:
            assert end.code == code
        return capfd.readouterr().err

    out = str(tmp_path / "v.npy")
    assert "No such file" in stderr_of(str(corpus), "-o", out)
    corpus.write_bytes(b"hello\n\nworld\n")
    told = stderr_of(str(corpus), "-o", out, "-overwrite")
    assert "line 2 is blank" in told
    assert f"{out} has no rows; -overwrite starts over" in told
    corpus.write_bytes(b"hello\n\xff\n")
    assert "line 2: not UTF-8" in stderr_of(str(corpus), "-o", out, "-overwrite")
    corpus.write_bytes(b"hello\n")
    assert "No such file" in stderr_of(str(corpus), "-o", str(tmp_path / "none" / "v.npy"))
    assert "is unknown: name it .npy or .jsonl" in stderr_of(str(corpus), "-o", "vectors", code=2)
    assert "name a file with -o" in stderr_of(str(corpus), "-format", "npy", code=2)
    assert "exclude each other" in stderr_of(str(corpus), "-o", out, "-resume", "-overwrite", code=2)
    assert "above 0" in stderr_of(str(corpus), "-batch_size", "0", code=2)


@pytest.mark.parametrize("mode", ["-overwrite", "-resume", None])
def test_input_is_never_written(mode: str | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The command refuses an output that is its input, by whichever name, before it connects to a server."""
    content = "hello\nworld\n"
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(content)
    (tmp_path / "symlink.jsonl").symlink_to(corpus)
    os.link(corpus, tmp_path / "hardlink.jsonl")
    os.link(corpus, tmp_path / "v.npy.progress")
    os.link(corpus, tmp_path / "w.npy.progress.new")
    flags = ["-connect_timeout", "100", "-port", "1", *([mode] if mode else [])]
    for output in ("corpus.jsonl", "symlink.jsonl", "hardlink.jsonl", "v.npy", "w.npy"):
        assert main([str(corpus), "-o", str(tmp_path / output), *flags]) == 1
        assert f"is the same file as the input {corpus}; name another output with -o" in capfd.readouterr().err
        assert corpus.read_text() == content
    with open(corpus) as source:
        done = command("-", "-o", str(corpus), *flags, stdin=source, stderr=-1)
        assert b"is the same file as the input the standard input" in done.communicate(timeout=60)[1]
    if not mode:
        with open(corpus, "a") as output_stream:
            done = command(str(corpus), *flags, stdout=output_stream, stderr=-1)
            assert b"the standard output is the same file as the input" in done.communicate(timeout=60)[1]
    assert corpus.read_text() == content


def test_no_warning_of_a_truncated_probe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "corpus.txt", ["hello"])
    with serving("-max_seq_len", "5") as server:
        assert main([corpus, *at(server)]) == 0
    assert "warning" not in capfd.readouterr().err


def test_unreachable_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    port, port_out = map(str, free_ports())
    corpus = write(tmp_path / "corpus.txt", ["hello"])
    ports = ["-port", port, "-port_out", port_out, "-connect_timeout", "200"]
    assert main([corpus, "-o", str(tmp_path / "v.npy"), *ports]) == 1
    error = capfd.readouterr().err
    assert "no server connected" in error
    assert "(milliseconds, now 200; " in error
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_rejected_text_is_located(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    texts = some_texts(20)
    texts[13] = "long " * 100
    corpus = write(tmp_path / "corpus.txt", texts)
    with serving("-max_text_length", "300") as server:
        assert main([corpus, "-o", str(tmp_path / "v.npy"), "-batch_size", "5", *at(server)]) == 1
    assert "lines 11 to 15: the server replied with" in capfd.readouterr().err


def test_truncation_warning(tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "corpus.txt", ["hello " * 50])
    assert main([corpus, *at(server)]) == 0
    assert "bert-serving-encode: warning: 1 of 1 texts are longer than" in capfd.readouterr().err


def test_closed_pipe(server: Server, tmp_path: Path) -> None:
    corpus = write(tmp_path / "corpus.txt", some_texts(2000))
    done = command(corpus, "-batch_size", "10", *at(server), stdout=-1, stderr=-1)
    assert done.stdout is not None
    assert done.stderr is not None
    assert json.loads(done.stdout.readline())["line"] == 1
    done.stdout.close()
    assert done.wait(120) == 1
    assert b"Traceback" not in done.stderr.read()
    done.stderr.close()


def test_docs_list_every_option() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    section = page.partition("## From the shell")[2].partition("\n## ")[0]
    for action in get_parser()._actions:
        if action.option_strings and action.dest not in ("help", "version"):
            assert re.search(rf"`{action.option_strings[0]}( [\w|\\]+)?`", section), action.option_strings[0]
