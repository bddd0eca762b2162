"""The parts of a corpus: every row is in exactly one part, and every part is done exactly once."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import OptionError
from bert_serving.client._cli.corpus import CorpusError
from bert_serving.client._cli.inputs import InputFile
from bert_serving.client._cli.manifest import MANIFEST, RECORDS, Manifest, OutputFolder
from bert_serving.client._cli.part_files import PartRecord
from bert_serving.client._cli.parts import Holder, PartQueue, plan
from bert_serving.client._fronts import Front, parse_front


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 12))
def test_every_row_is_in_exactly_one_part(rows: list[int], size: int) -> None:
    parts = plan(rows, size)
    assert [part.number for part in parts] == list(range(len(parts)))
    covered = [(part.file, row) for part in parts for row in range(part.first, part.first + part.rows)]
    assert covered == [(file, row) for file, total in enumerate(rows) for row in range(total)]
    assert all(1 <= part.rows <= size and part.first % size == 0 for part in parts)


def test_names_sort_like_parts() -> None:
    names = [part.name("npy") for part in plan([11], 1)]
    assert names == sorted(names)
    assert names[10] == "part-000010.npy"


@given(
    st.integers(0, 8),
    st.sets(st.integers(0, 7)),
    st.lists(st.tuples(st.sampled_from(["take", "done", "release"]), st.integers(0, 2)), max_size=60),
)
def test_a_part_has_one_holder_until_it_is_done(count: int, done: set[int], steps: list[tuple[str, int]]) -> None:
    parts = plan([count], 1)
    done &= {part.number for part in parts}
    queue = PartQueue(parts, done)
    holders = [Holder() for _ in range(3)]
    finished = set(done)
    for action, place in steps:
        holder = holders[place]
        held = {number for other in holders for number in other.parts}
        if action == "release":
            queue.release(holder)
            holders[place] = Holder()
        elif action == "done" and holder.parts:
            number = min(holder.parts)
            queue.done(holder, parts[number])
            finished.add(number)
        elif action == "take" and len(held | finished) < count:  # otherwise it blocks
            part = queue.take(holder)
            assert part is not None
            assert part.number == min(set(range(count)) - held - finished)
    assert queue.is_complete == (len(finished) == count)
    for holder in holders:
        queue.release(holder)
    rest = Holder()
    while not queue.is_complete:
        part = queue.take(rest)
        assert part is not None
        assert part.number not in finished
        finished.add(part.number)
        queue.done(rest, part)
    assert finished == set(range(count))
    assert queue.take(rest) is None


@pytest.mark.parametrize("end", ["done", "stop", "own release"])
def test_take_waits_for_parts_of_other_holders(end: str) -> None:
    queue = PartQueue(plan([1], 1))
    first, second = Holder(), Holder()
    part = queue.take(first)
    assert part is not None
    taken: list[object] = []
    thread = threading.Thread(target=lambda: taken.append(queue.take(second)))
    thread.start()
    {"done": lambda: queue.done(first, part), "stop": queue.stop, "own release": lambda: queue.release(second)}[end]()
    thread.join(60)
    assert taken == [None]


def test_released_parts_go_to_others() -> None:
    queue = PartQueue(plan([3], 1))
    lost, other = Holder(), Holder()
    taken = [queue.take(lost), queue.take(lost)]
    queue.release(lost)
    assert queue.take(lost) is None
    assert [queue.take(other), queue.take(other)] == taken


@pytest.mark.parametrize(
    ("text", "front"),
    [
        ("gpu1", Front("gpu1", 5555, 5556)),
        ("10.0.0.7:7000", Front("10.0.0.7", 7000, 7001)),
        ("gpu1:7000:8000", Front("gpu1", 7000, 8000)),
        ("[::1]", Front("::1", 5555, 5556)),
        ("[fe80::1]:7000", Front("fe80::1", 7000, 7001)),
        ("[::1]:7000:8000", Front("::1", 7000, 8000)),
    ],
)
def test_front(text: str, front: Front) -> None:
    assert parse_front(text) == front
    assert parse_front(str(front)) == front


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "gpu1:", "gpu1:x", "gpu1:0", "gpu1:65535", "gpu1:65536", "gpu1:1:2:3", "gpu1:1:", "::1", "a b"),
        *("[::1", "[::1]7000", "[::1]:", "[]", "[]:1", "[x]:1", "tcp://gpu1:5555"),
    ],
)
def test_front_that_is_no_address(text: str) -> None:
    with pytest.raises(OptionError, match=r"is not HOST\[:PORT\[:PORT_OUT\]\]"):
        parse_front(text)


def manifest() -> Manifest:
    return Manifest({"-format": "npy"}, [0.5], [InputFile("a.txt", "text", 4, "00", 2, [0], {})])


def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with OutputFolder(out, resume=False, overwrite=False) as folder:
        with pytest.raises(CorpusError, match="another run writes into"):
            OutputFolder(out, resume=False, overwrite=False)
        manifest().save(out)
        folder.add(PartRecord(0, 4, "00"))
        for mode in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
            with pytest.raises(CorpusError, match="another run writes into"):
                OutputFolder(out, **mode)
    with OutputFolder(out, resume=True, overwrite=False) as folder:
        assert folder.manifest == manifest()


def test_a_run_that_writes_nothing_leaves_nothing(tmp_path: Path) -> None:
    with OutputFolder(str(tmp_path / "new" / "out"), resume=False, overwrite=False):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "new"]
    (tmp_path / "there").mkdir()
    with OutputFolder(str(tmp_path / "there"), resume=True, overwrite=False):
        pass
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize("name", ["part-000000.npy", "notes.txt", "_SUCCESS", "part-000000-c000.parquet"])
@pytest.mark.parametrize("has_run", [False, True])
def test_files_of_others_are_never_replaced(tmp_path: Path, name: str, has_run: bool) -> None:
    if has_run:
        manifest().save(str(tmp_path))
    (tmp_path / name).write_text("precious")
    if has_run and name == "part-000000.npy":  # a part of the run
        with OutputFolder(str(tmp_path), resume=False, overwrite=True) as folder:
            folder.clear()
        assert list(tmp_path.iterdir()) == []
        return
    for mode in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
        with pytest.raises(CorpusError, match=f"not of an earlier run: {name}"):
            OutputFolder(str(tmp_path), **mode)
    assert (tmp_path / name).read_text() == "precious"


@settings(max_examples=40)
@given(st.integers(0, 230))
def test_records_of_a_killed_run(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """A record counts if it is whole, wherever a kill has cut the file."""
    out = tmp_path_factory.mktemp("out")
    parts = plan([5], 1)
    for part in parts:
        (out / part.name("npy")).write_bytes(b"")
    lines = b"".join(
        b'{"number": %d, "bytes": 0, "digest": "cae66941d9efbd404e4d88758ea67670"}\n' % number for number in range(3)
    )
    manifest().save(str(out))
    (out / RECORDS).write_bytes(lines[:cut])
    for _ in range(2):
        with OutputFolder(str(out), resume=True, overwrite=False) as folder:
            done = folder.verified(parts, "npy", print, lambda rows: None)
            whole = set(range(len([line for line in lines[:cut].split(b"\n") if line.endswith(b"}")])))
            assert done - {3} == whole
            folder.add(PartRecord(3, 0, "cae66941d9efbd404e4d88758ea67670"))
    assert done == {*whole, 3}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 2}', b"\xff", b'{"version": 1, "inputs": [{}]}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(CorpusError, match=r"_manifest.json cannot be read .* start over with -overwrite"):
        OutputFolder(str(tmp_path), resume=True, overwrite=False)
    with OutputFolder(str(tmp_path), resume=False, overwrite=True) as folder:
        folder.clear()
