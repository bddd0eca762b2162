"""The rows of a corpus: those of a part are the same whether a reader begins there or goes on, in every format."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client._cli import line_reader, rows
from bert_serving.client._cli.corpus import CorpusError
from bert_serving.client._cli.inputs import digest_of, find_inputs
from bert_serving.client._cli.json_columns import kind_of, merged, merged_columns, values_of
from bert_serving.client._cli.parts import plan
from bert_serving.client._cli.readers import open_reader, survey
from bert_serving.client._cli.rows import ReadOptions

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

OPTIONS = ReadOptions("text", "vector", "null", 3, 5, True)
TEXT = st.text(st.characters(exclude_characters="\r\n\ufeff", codec="utf-8"), max_size=6)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def write(path: Path, texts: list[str | None], row_group: int = 4) -> str:
    """Writes texts in the format that the name stands for."""
    name = path.name
    if name.endswith(".parquet"):
        table = pa.table({"text": pa.array(texts, pa.string()), "id": pa.array(range(len(texts)), pa.int64())})
        pq.write_table(table, path, row_group_size=row_group)
        return str(path)
    lines = texts if ".txt" in name else [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    content = "".join(f"{line or ''}\n" for line in lines).encode()
    path.write_bytes(COMPRESS[path.suffix if path.suffix in COMPRESS else ""](content))
    return str(path)


def read_all(path: str, options: ReadOptions = OPTIONS) -> list[str | None]:
    known = survey(path, options, lambda size: None)
    reader = open_reader(path, known, options)
    texts = [text for found in reader.rows(0, known.rows) for text in found.texts] if known.rows else []
    reader.close()
    return texts


NAMES = ["a.parquet", *(f"a{ending}{packed}" for ending in (".txt", ".jsonl") for packed in COMPRESS)]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40)
@given(st.lists(st.one_of(st.none(), TEXT), max_size=23), st.integers(1, 9), st.data())
def test_parts_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, name: str, texts: list[str | None], group: int, data: st.DataObject
) -> None:
    path = write(tmp_path_factory.mktemp("corpus") / name, texts, group)
    wanted = [text if text and not text.isspace() else None for text in texts]
    known = survey(path, OPTIONS, lambda size: None)
    assert known.rows == len(texts)
    assert (known.bytes, known.digest) == digest_of(path, lambda size: None)
    order = data.draw(st.permutations(plan([known.rows], OPTIONS.part_rows)))
    for parts in (sorted(order), order):
        reader = open_reader(path, known, OPTIONS)
        for part in parts:
            position = part.first
            for found in reader.rows(part.first, part.rows):
                assert found.first == position
                assert 1 <= len(found.texts) <= OPTIONS.batch_size
                assert len(found.content) == len(found.texts)
                assert found.texts == wanted[position : position + len(found.texts)]
                if ".txt" not in name:
                    content: Any = found.content
                    rows = content if isinstance(content, list) else content.to_pylist()
                    assert [row["id"] for row in rows] == list(range(position, position + len(rows)))
                position += len(found.texts)
            assert position == part.first + part.rows
        reader.close()


def test_an_abandoned_part_does_not_shift_the_next(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.txt", "a.txt.gz"):
        path = write(tmp_path / name, [f"text {i}" for i in range(20)])
        reader = open_reader(path, survey(path, OPTIONS, lambda size: None), OPTIONS)
        next(iter(reader.rows(0, 5)))
        assert [text for found in reader.rows(5, 5) for text in found.texts] == [f"text {i}" for i in range(5, 10)]
        assert [text for found in reader.rows(0, 5) for text in found.texts] == [f"text {i}" for i in range(5)]
        reader.close()


def test_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    for content in (b"\xef\xbb\xbfone\r\ntwo\r\nthree", b"one\ntwo\nthree\n"):
        (tmp_path / "a.txt").write_bytes(content)
        assert read_all(str(tmp_path / "a.txt")) == ["one", "two", "three"]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "a\\u2028b\\ud83d\\ude00"}')
    assert read_all(str(tmp_path / "a.jsonl")) == ["one", "a\u2028b\U0001f600"]


def test_rows_in_one_batch_are_limited_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (line_reader, rows):
        monkeypatch.setattr(module, "MAX_BATCH_BYTES", 1000)
    monkeypatch.setattr("bert_serving.client._cli.parquet_reader.MAX_BATCH_BYTES", 1000)
    options = OPTIONS._replace(batch_size=100, part_rows=100)
    texts: list[str | None] = [f"{i:<300}." for i in range(20)] + ["x" * 5000, "y"]
    for name in ("a.txt", "a.jsonl", "a.parquet", "a.txt.gz"):
        path = write(tmp_path / name, texts, 100)
        known = survey(path, options, lambda size: None)
        reader = open_reader(path, known, options)
        batches = [found.texts for found in reader.rows(0, known.rows)]
        reader.close()
        assert [text for batch in batches for text in batch] == texts
        assert all(len(batch) == 1 or sum(len(text or "") for text in batch) <= 1000 for batch in batches)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\n\xff\xfe\n", r"a.txt, line 2: not UTF-8"),
        ("a.txt", "one".encode("utf-16"), r"a.txt, line 1: not UTF-8"),
        ("a.txt", b"x" * 2000, r"a.txt, line 1 has more than 0 MiB"),
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl, line 2 is not JSON \(Expecting value"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"}\n', r"a.jsonl, line 2 is not JSON \(it is blank\)"),
        ("a.jsonl", b'["a"]\n', r"a.jsonl, line 1 is not a JSON object, but list"),
        ("a.jsonl", b"[" * 900 + b"\n", r"a.jsonl, line 1 is not JSON"),
        ("a.jsonl", b'{"text": 5}\n', r"a.jsonl, line 1: 'text' is int, not a string"),
        ("a.jsonl", b'{"text": "\\ud83d"}\n', r"a.jsonl, line 1 has half of a surrogate pair"),
        ("a.jsonl", b'{"body": "a"}\n', r"a.jsonl has no column 'text'; .* Its columns: body"),
        ("a.jsonl", b"{}\n{}\n", r"a.jsonl has no column 'text'"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"vector": 1}\n',
            r"a.jsonl, line 2 has a column 'vector' already; .* -vector",
        ),
        ("a.jsonl.gz", b"no gzip", r"a.jsonl.gz is damaged, or not what its ending says"),
        ("a.txt.gz", gzip.compress(b"one\n" * 100, mtime=0)[:-9], r"a.txt.gz is damaged"),
        ("a.txt.bz2", b"no bzip2", r"a.txt.bz2 is damaged"),
        ("a.txt.bz2", bz2.compress(b"one\n" * 100)[:-9], r"a.txt.bz2 is damaged"),
        ("a.txt.xz", b"no xz", r"a.txt.xz is damaged"),
        ("a.txt.xz", lzma.compress(b"one\n" * 100)[:-9], r"a.txt.xz is damaged"),
        ("a.txt.zst", b"no zstd", r"a.txt.zst is damaged"),
        ("a.txt.zst", pa.compress(b"one\n" * 100, codec="zstd", asbytes=True)[:-3], r"a.txt.zst is damaged"),
        ("a.parquet", b"", r"a.parquet is damaged"),
        ("a.parquet", b"no parquet", r"a.parquet is damaged"),
    ],
)
def test_invalid_inputs_are_located(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, message: str
) -> None:
    monkeypatch.setattr(line_reader, "MAX_LINE_BYTES", 1000)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        survey(str(tmp_path / name), OPTIONS, lambda size: None)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_blank_texts(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ["one", " \t", "two"])
    assert read_all(path, OPTIONS._replace(blank="null")) == ["one", None, "two"]
    assert read_all(path, OPTIONS._replace(blank="zeros")) == ["one", "", "two"]
    with pytest.raises(CorpusError, match=r"(line|row) 2 is blank, .* use -blank null"):
        survey(path, OPTIONS._replace(blank="error"), lambda size: None)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["a"]}, r"has no column 'text'; .* Its columns: body"),
        ({"text": [1]}, r"the column 'text' is int64, not a string"),
        ({"text": [b"a"]}, r"the column 'text' is binary, not a string"),
        ({"text": [["a"]]}, r"the column 'text' is list<.*>, not a string"),
        ({"text": ["a"], "vector": [1]}, r"has a column 'vector' already; .* -vector_column"),
    ],
)
def test_columns_of_parquet(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.table(columns), path)
    with pytest.raises(CorpusError, match=message):
        survey(path, OPTIONS, lambda size: None)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(CorpusError, match="has 2 columns 'text'"):
        survey(path, OPTIONS, lambda size: None)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.null()])
def test_types_of_texts(tmp_path: Path, kind: pa.DataType) -> None:
    path = str(tmp_path / "a.parquet")
    texts = [None, None] if kind == pa.null() else ["a", None, "b"]
    pq.write_table(pa.table({"text": pa.array(texts).cast(kind)}), path)
    assert read_all(path) == texts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), JSON), max_size=6))
def test_json_columns_hold_every_value(objects: list[dict[str, Any]]) -> None:
    kinds: dict[str, str] = {}
    for row in objects:
        kinds = merged_columns([kinds, {name: kind_of(value) for name, value in row.items()}])
    types = {"null": pa.null(), "bool": pa.bool_(), "int": pa.int64(), "int64": pa.int64(), "double": pa.float64()}
    for name, kind in kinds.items():
        array = pa.array(values_of(objects, name, kind), types.get(kind, pa.string()))
        stored = [json.loads(value) if kind == "json" and value is not None else value for value in array.to_pylist()]
        assert stored == [row.get(name) for row in objects]


def test_kinds_do_not_depend_on_the_order() -> None:
    kinds = ["null", "bool", "int", "int64", "double", "string", "json"]
    for one in kinds:
        for other in kinds:
            assert merged(one, other) == merged(other, one)
            for third in kinds:
                assert merged(merged(one, other), third) == merged(one, merged(other, third))


def test_which_files_are_read(tmp_path: Path) -> None:
    for name in ("b.txt", "a.jsonl.gz", "c/d.parquet", "c/e.NDJSON", ".hidden.txt", "_tmp/f.txt", "g.csv", "h"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    told: list[str] = []
    found = find_inputs([str(tmp_path)], told.append)
    assert [str(Path(path).relative_to(tmp_path)) for path in found] == [
        "a.jsonl.gz",
        "b.txt",
        "c/d.parquet",
        "c/e.NDJSON",
    ]
    assert "with another ending, which are not read: " in told[0]
    assert "g.csv" in told[0]
    assert find_inputs([str(tmp_path / "h")], told.append) == [str(tmp_path / "h")]
    with pytest.raises(CorpusError, match="is named twice"):
        find_inputs([str(tmp_path), str(tmp_path / "b.txt")], told.append)
    with pytest.raises(CorpusError, match="has no file that ends in"):
        find_inputs([str(empty(tmp_path))], told.append)
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        find_inputs([str(tmp_path / "none.txt")], told.append)
    with pytest.raises(CorpusError, match="is not a regular file"):
        find_inputs(["/dev/null"], told.append)
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(CorpusError, match="loop is a link to a folder; name that folder itself"):
        find_inputs([str(tmp_path)], told.append)
    (tmp_path / "z.parquet.gz").write_bytes(b"")
    with pytest.raises(CorpusError, match="a compressed Parquet file cannot be read in pieces"):
        find_inputs([str(tmp_path / "z.parquet.gz")], told.append)


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"
