"""Corpora for tests of ``bert-serving-encode``, and checks of the folders that it writes."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from servers import DATA, Server

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

WORDS = [word for word in (DATA / "golden" / "models" / "tiny" / "vocab.txt").read_text().split() if word.isalpha()]


def some_texts(count: int, seed: int = 1) -> list[str | None]:
    """Returns texts, and null for every seventh."""
    chooser = random.Random(seed)
    return [None if i % 7 == 3 else " ".join(chooser.choices(WORDS, k=chooser.randint(1, 12))) for i in range(count)]


def write_inputs(folder: Path, rows: int) -> list[str | None]:
    """Writes one file of each format, and returns the texts in the order of the names."""
    folder.mkdir()
    texts = [some_texts(rows, seed) for seed in range(3)]
    lines = [json.dumps({"text": text, "id": i, "tags": [i]}) + "\n" for i, text in enumerate(texts[0])]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    pq.write_table(
        pa.table({"id": range(rows), "text": texts[1], "nested": [{"a": [i]} for i in range(rows)]}),
        folder / "b.parquet",
        row_group_size=rows // 3,
    )
    (folder / "c.txt").write_bytes("".join(f"{text or ''}\r\n" for text in texts[2]).encode())
    (folder / "d.txt").write_bytes(b"")
    return [text for found in texts for text in found]


def vectors_in(out: Path) -> list[Any]:
    """Returns all vectors of a folder, ``None`` for null."""
    found: list[Any] = []
    for path in sorted(out.glob("part-*")):
        if path.suffix == ".npy":
            array = np.load(path)
            found += [None if np.isnan(row).all() else row for row in array]
        else:
            found += pq.read_table(path)["vector"].to_pylist()
    return found


def require_vectors(out: Path, texts: list[str | None], server: Server) -> None:
    """Checks that a folder has exactly one row for each text, with its vector."""
    found = vectors_in(out)
    assert [vector is None for vector in found] == [text is None for text in texts]
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
        wanted = client.encode([text for text in texts if text is not None])
    np.testing.assert_allclose(np.array([vector for vector in found if vector is not None]), wanted, atol=1e-5)


def at(server: Server) -> list[str]:
    return ["-port", str(server.port), "-port_out", str(server.port_out), "-blank", "null"]


def front(server: Server) -> list[str]:
    return ["-front", f"127.0.0.1:{server.port}:{server.port_out}"]


def command(*args: str, **kwargs: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "bert_serving.client._cli.encode", *args], **kwargs)


def num_records(out: Path) -> int:
    path = out / "_parts.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
