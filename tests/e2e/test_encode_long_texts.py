"""``bert-serving-encode -long``: long texts in corpora are averaged, or become rows with the id of their text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.client._cli.encode import main
from servers import Server

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LONG = " ".join(["Hello world, it is good.", "The morning é\u0301 猫が座った。", "What is it?"] * 8)
TEXTS: list[str | None] = [LONG, "hello world", None, LONG[::-1], " ", "good\tday", LONG + " end"]


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    lines = [json.dumps({"text": text, "id": f"a{number}"}) + "\n" for number, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("".join(lines))
    columns = {"id": [f"b{number}" for number in range(len(TEXTS))], "text": pa.array(TEXTS).dictionary_encode()}
    pq.write_table(pa.table(columns), folder / "b.parquet")
    (folder / "c.txt").write_text("".join(f"{text or ''}\n" for text in TEXTS))
    return folder


def at(server: Server, blank: str = "null") -> list[str]:
    return ["-port", str(server.port), "-port_out", str(server.port_out), "-blank", blank, "-quiet"]


def wanted_of(server: Server, texts: list[str | None]) -> list[tuple[int, int | None, int | None, Any]]:
    """Returns number of the text, offsets and vector of each row."""
    usable = [text for text in texts if text is not None and text.strip()]
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
        result = client.encode(usable, long="chunks")
    rows: list[tuple[int, int | None, int | None, Any]] = []
    number = -1
    for index, text in enumerate(texts):
        if text is None or not text.strip():
            rows.append((index, None, None, None))
            continue
        number += 1
        for vector, part in zip(result.embedding, result.parts, strict=True):
            if part.text == number:
                rows.append((index, part.start, part.stop, vector))
    return rows


def test_rows_of_parts_have_the_id_of_their_text(server: Server, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = [str(inputs), "-o", f"{out}/", "-long", "chunks", "-part_rows", "3", "-batch_size", "2", *at(server)]
    assert main(args) == 0
    wanted = wanted_of(server, TEXTS)
    assert len(wanted) > len(TEXTS) + 10
    tables = [pq.read_table(path) for path in sorted(out.glob("part-*"))]
    assert len(tables) == 9
    for place, name in enumerate(("a", "b", "c")):
        found = pa.concat_tables([table.unify_dictionaries() for table in tables[3 * place : 3 * place + 3]])
        rows = found.to_pylist()
        assert [row["vector_row"] for row in rows] == [each[0] for each in wanted]
        assert [(row["vector_start"], row["vector_stop"]) for row in rows] == [each[1:3] for each in wanted]
        for row, (index, start, stop, vector) in zip(rows, wanted, strict=True):
            assert name == "c" or row["id"] == f"{name}{index}"
            text = TEXTS[index] if name != "c" else TEXTS[index] or ""
            assert row["text"] == (text if start is None else (text or "")[start:stop])
            if vector is None:
                assert row["vector"] is None
            else:
                np.testing.assert_allclose(row["vector"], vector, atol=1e-5)
    # A damaged part is computed again, with the same rows.
    before = tables[0]
    path = min(out.glob("part-*"))
    path.write_bytes(b"damaged")
    assert main([*args, "-resume"]) == 0
    assert pq.read_table(path).drop_columns("vector") == before.drop_columns("vector")


def test_options_are_those_of_the_interrupted_run(
    server: Server, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = [str(inputs / "c.txt"), "-o", f"{out}/", *at(server)]
    assert main([*args, "-long", "mean", "-format", "npy"]) == 0
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
        mean = client.encode([LONG, "hello world"], long="mean")
    np.testing.assert_allclose(np.load(min(out.glob("part-*")))[:2], mean, atol=1e-5)
    assert main([*args, "-format", "npy", "-resume"]) == 1
    assert "cannot resume: -long was mean and is now None" in capfd.readouterr().err


def test_json_lines_of_parts(server: Server, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.jsonl"
    assert main([str(inputs / "c.txt"), "-o", str(out), "-long", "chunks", *at(server, "zeros")]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = wanted_of(server, TEXTS)
    assert [row["line"] for row in rows] == [index + 1 for index, *_ in wanted]
    assert [(row["start"], row["stop"]) for row in rows] == [(start or 0, stop or 0) for _, start, stop, _ in wanted]
    for row, (index, start, stop, vector) in zip(rows, wanted, strict=True):
        assert row["text"] == ("" if start is None else (TEXTS[index] or "")[start:stop])
        assert len(row["tokens"]) <= 25
        np.testing.assert_allclose(row["vector"], np.zeros(32) if vector is None else vector, atol=1e-5)


def test_late_parts(server: Server, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "vectors.jsonl"
    assert main([str(inputs / "c.txt"), "-o", str(out), "-long", "late", *at(server, "zeros")]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = wanted_of(server, TEXTS)
    assert [(row["line"], row["start"], row["stop"]) for row in rows] == [
        (index + 1, start or 0, stop or 0) for index, start, stop, _ in wanted
    ]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "out.npy", "-long", "chunks"], "npy cannot hold"),
        (["-o", "out/", "-format", "npy", "-long", "chunks"], "npy cannot hold"),
        (["-o", "out.npy", "-long", "mean", "-no_truncate"], "-no_truncate is -long error, but -long is mean"),
        (["-o", "out.npy", "-long", "mean", "-is_tokenized"], "-is_tokenized sends tokens"),
    ],
)
def test_contradictions(args: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["corpus.txt", *args])
    assert message in capfd.readouterr().err


def test_columns_of_parts_must_be_free(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "vector_start": 1}\n')
    args = [str(tmp_path / "a.jsonl"), "-o", f"{tmp_path / 'out'}/", *at(server)]
    assert main([*args, "-long", "chunks"]) == 1
    assert "has a column 'vector_start' already" in capfd.readouterr().err
    assert main(args) == 0
