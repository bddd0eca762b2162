"""Tests of the files that the supervisor keeps for its processes."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from bert_serving.server.model.cache import Cache, manifest
from bert_serving.server.supervisor import prepared_model
from bert_serving.server.supervisor.prepared_model import PreparedModel

CONTENT = {"a.bin": b"weights" * 1000, "b.json": b"{}"}


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    return Cache(tmp_path / "cache").add("kind", CONTENT)


@pytest.fixture
def prepared(entry: Path) -> Iterator[PreparedModel]:
    prepared = PreparedModel(logging.getLogger("test"))
    prepared.hold(entry, manifest(entry))
    yield prepared
    prepared.close()


def assert_whole(entry: Path) -> None:
    assert {name: (entry / name).read_bytes() for name in CONTENT} == CONTENT
    assert sorted(path.name for path in entry.iterdir()) == ["a.bin", "b.json", "files.json"]


def test_unchanged_files_are_not_written(prepared: PreparedModel, entry: Path) -> None:
    before = {path: path.stat().st_ino for path in entry.iterdir()}
    prepared.require()
    assert {path: path.stat().st_ino for path in entry.iterdir()} == before
    assert prepared.damage == ""


@pytest.mark.parametrize("removed", ["file", "entry", "cache"])
def test_removed_files_are_written_again(
    prepared: PreparedModel, entry: Path, removed: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):  # the second time from the files that were written the first time
        if removed == "file":
            (entry / "a.bin").unlink()
        else:
            shutil.rmtree(entry if removed == "entry" else entry.parent)
        prepared.require()
        assert_whole(entry)
    assert len(caplog.records) == 2
    assert prepared.damage == ""


def test_a_file_with_several_links_is_read_once(
    prepared: PreparedModel, entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [entry.with_name(f"variant-{number}") for number in range(3)]
    for other in others:
        other.mkdir()
        os.link(entry / "a.bin", other / "base.bin")
        prepared.hold(other, {"base.bin": manifest(entry)["a.bin"]})
    os.link(entry / "a.bin", entry.with_name("another"))  # which changes the stamp
    reads = []
    digest_of = prepared_model._digest_of
    monkeypatch.setattr(prepared_model, "_digest_of", lambda file: reads.append(file.name) or digest_of(file))
    for _ in range(2):
        prepared.require()
        assert len(reads) == 1
    (entry / "a.bin").write_bytes(b"another model")
    prepared.require()
    assert "was overwritten while the server ran" in prepared.damage


def test_a_replaced_file_is_written_again(prepared: PreparedModel, entry: Path) -> None:
    (entry / "other").write_bytes(b"another model")
    os.replace(entry / "other", entry / "a.bin")
    prepared.require()
    assert_whole(entry)
    assert prepared.damage == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither")
@pytest.mark.parametrize("other", ["pipe", "endless"])
def test_what_is_no_file_is_not_read_but_replaced(prepared: PreparedModel, entry: Path, other: str) -> None:
    (entry / "a.bin").unlink()
    if other == "pipe":
        os.mkfifo(entry / "a.bin")
    else:
        (entry / "a.bin").symlink_to("/dev/zero")
    prepared.require()
    assert_whole(entry)
    assert prepared.damage == ""


def test_a_copy_of_the_same_content_is_adopted(prepared: PreparedModel, entry: Path) -> None:
    shutil.copy(entry / "a.bin", entry / "copy")
    inode = (entry / "copy").stat().st_ino
    os.replace(entry / "copy", entry / "a.bin")
    os.utime(entry / "b.json", ns=(1, 1))
    prepared.require()
    assert (entry / "a.bin").stat().st_ino == inode
    assert_whole(entry)
    assert prepared.damage == ""


@pytest.mark.parametrize("is_removed_then", [False, True])
def test_a_file_that_was_overwritten_in_place_is_damage(
    prepared: PreparedModel, entry: Path, is_removed_then: bool
) -> None:
    before = (entry / "a.bin").stat()
    with open(entry / "a.bin", "r+b") as file:
        file.write(b"W")
    os.utime(entry / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    if is_removed_then:
        (entry / "a.bin").unlink()
    prepared.require()
    assert f"{entry}/a.bin of the prepared model was overwritten" in prepared.damage
    assert not list(entry.glob(".restoring-*"))


def test_an_entry_that_cannot_be_written_again_is_an_error_until_it_can(
    prepared: PreparedModel, entry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(entry)
    entry.write_bytes(b"a file in the place of the folder")
    with pytest.raises(OSError, match="cannot be written again"):
        prepared.require()
    assert prepared.check(1.0) == prepared.check(3.0) == ""
    assert len(caplog.records) == 1  # the same reason is logged once
    entry.unlink()
    prepared.check(5.0)
    assert_whole(entry)


def test_use_is_recorded_so_that_no_other_server_prunes_the_entry(prepared: PreparedModel, entry: Path) -> None:
    os.utime(entry / "files.json", ns=(1, 1))
    prepared.require()
    prepared.require()
    assert (entry / "files.json").stat().st_mtime > 1_000_000_000
