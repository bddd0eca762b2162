"""Tests of the cache of prepared models: content addressing, atomic writes, permissions, size."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest

from bert_serving.server.model import cache as cache_module
from bert_serving.server.model import digest as digest_module
from bert_serving.server.model import verified
from bert_serving.server.model.cache import IN_USE_SECONDS, KEEP, Cache, CacheError, NotVerified, default_cache_dir
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.digest import DigestMemo, sha256_of
from bert_serving.server.model.errors import WeightError
from model_folders import TINY, TINY_TUNED, copy_tiny

RECIPE = {"model": "abc", "dtype": "fp32"}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no number of the boot")
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="permissions and owners are those of POSIX")


class Builder:
    """Writes an entry and counts the calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "weights.bin").write_bytes(b"0123456789")


@pytest.fixture
def build() -> Builder:
    return Builder()


def test_an_entry_is_built_once(tmp_path: Path, build: Builder) -> None:
    assert Cache(tmp_path).find("engine", RECIPE) is None
    first = Cache(tmp_path).entry("engine", RECIPE, build)
    assert Cache(tmp_path).entry("engine", RECIPE, build) == first
    assert Cache(tmp_path).find("engine", RECIPE) == first
    assert build.calls == 1
    assert (first / "weights.bin").read_bytes() == b"0123456789"


def test_key_and_kind_identify_an_entry(tmp_path: Path, build: Builder) -> None:
    cache = Cache(tmp_path)
    places = {
        cache.entry("engine", RECIPE, build),
        cache.entry("engine", {**RECIPE, "dtype": "bf16"}, build),
        cache.entry("other", RECIPE, build),
    }
    assert len(places) == 3


@pytest.mark.parametrize("content", [b"012345", b"", b"0123456780", b"01234567890"])
def test_a_damaged_entry_is_built_again(tmp_path: Path, build: Builder, content: bytes) -> None:
    place = Cache(tmp_path).entry("engine", RECIPE, build)
    before = (place / "weights.bin").stat()
    (place / "weights.bin").write_bytes(content)
    os.utime(place / "weights.bin", ns=(before.st_atime_ns, before.st_mtime_ns))
    if len(content) != 10:
        assert Cache(tmp_path).find("engine", RECIPE) is None
    place = Cache(tmp_path).entry("engine", RECIPE, build)
    assert build.calls == 2
    assert (place / "weights.bin").read_bytes() == b"0123456789"


@pytest.mark.parametrize("damage", ["file", "list", "list content"])
def test_an_incomplete_entry_is_built_again(tmp_path: Path, build: Builder, damage: str) -> None:
    place = Cache(tmp_path).entry("engine", RECIPE, build)
    if damage == "list content":
        (place / "files.json").write_text("{", "utf-8")
    else:
        (place / {"file": "weights.bin", "list": "files.json"}[damage]).unlink()
    assert Cache(tmp_path).find("engine", RECIPE) is None
    assert Cache(tmp_path).entry("engine", RECIPE, build) == place
    assert build.calls == 2


def test_a_failed_build_leaves_no_files(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "weights.bin").write_bytes(b"half")
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        Cache(tmp_path).entry("engine", RECIPE, fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock"]


def test_leftovers_of_a_killed_build_are_removed(tmp_path: Path, build: Builder) -> None:
    leftover = tmp_path / ".building-dead"
    leftover.mkdir()
    (leftover / "weights.bin").write_bytes(b"half")
    Cache(tmp_path).entry("engine", RECIPE, build)
    assert not leftover.exists()


def build_slowly(root: str, barrier: multiprocessing.synchronize.Barrier, log: str) -> None:
    """Runs in a child process."""

    def build(folder: Path) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write("built\n")
        (folder / "weights.bin").write_bytes(b"0" * 1_000_000)

    barrier.wait(60)
    place = Cache(root).entry("engine", RECIPE, build)
    assert (place / "weights.bin").stat().st_size == 1_000_000


def test_concurrent_processes_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    log = tmp_path / "log"
    arguments = (str(tmp_path / "cache"), barrier, str(log))
    processes = [context.Process(target=build_slowly, args=arguments, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text("utf-8") == "built\n"


def test_the_least_recently_used_entries_are_removed(tmp_path: Path, build: Builder) -> None:
    cache = Cache(tmp_path)
    places = []
    for number in range(KEEP):
        places.append(cache.entry("engine", {"number": number}, build))
        os.utime(places[-1] / "files.json", (1000 + number, 1000 + number))
    other = cache.entry("other", {}, build)
    assert cache.find("engine", {"number": 0}) == places[0]  # used now
    cache.entry("engine", {"number": KEEP}, build)
    assert not places[1].exists()
    assert all(place.exists() for place in [places[0], *places[2:], other])


def test_the_entries_of_a_server_with_many_models_stay(tmp_path: Path, build: Builder) -> None:
    cache = Cache(tmp_path)
    places = [cache.entry("engine", {"number": number}, build) for number in range(KEEP + 3)]
    assert all(place.exists() for place in places)
    unused = time.time() - IN_USE_SECONDS - 1
    for place in places:
        os.utime(place / "files.json", (unused, unused))
    cache.entry("engine", {"number": -1}, build)
    assert sum(place.exists() for place in places) == KEEP - 1


@posix_only
def test_the_folder_is_private(tmp_path: Path, build: Builder) -> None:
    cache = Cache(tmp_path / "deep" / "cache")
    place = cache.entry("engine", RECIPE, build)
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


@posix_only
def test_a_shared_folder_stays_unchanged(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    cache = Cache(shared)
    assert cache.root.parent == shared
    assert stat.S_IMODE(cache.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.stat().st_mode) == 0o777
    assert Cache(shared).root == cache.root
    cache.root.chmod(0o777)
    with pytest.raises(CacheError, match="BERT_SERVING_CACHE"):
        Cache(shared)


def test_an_unusable_path_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="BERT_SERVING_CACHE"):
        Cache(tmp_path / "file")


def test_default_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERT_SERVING_CACHE", str(tmp_path / "mine"))
    assert default_cache_dir() == str(tmp_path / "mine")
    assert Cache("").root == tmp_path / "mine"
    monkeypatch.delenv("BERT_SERVING_CACHE")
    assert Path(default_cache_dir()).name == "bert-serving"
    assert Path(default_cache_dir()).is_absolute()


def test_the_digest_depends_on_the_content_only(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    folder = copy_tiny(tmp_path)
    digest = cache.model_digest(load_model_config(TINY))
    assert cache.model_digest(load_model_config(folder)) == digest
    data = folder / "bert_model.ckpt.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert cache.model_digest(load_model_config(folder)) != digest


def test_a_cached_digest_is_reused_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    os.utime(file, ns=(5, 5))
    memo = DigestMemo(tmp_path / "memo.json")
    known = memo.sha256(file)
    assert known == sha256_of(file)
    memo.save()
    monkeypatch.setattr(digest_module, "sha256_of", lambda path: "read again")
    assert DigestMemo(tmp_path / "memo.json").sha256(file) == known
    file.write_bytes(b"two")
    os.utime(file, ns=(5, 5))  # the same size and the same modification time
    assert DigestMemo(tmp_path / "memo.json").sha256(file) == "read again"


def test_a_model_that_changes_while_it_is_read_makes_no_entry(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    folder = copy_tiny(tmp_path)
    cache.model_digest(load_model_config(folder))

    def build_from_another_model(entry: Path) -> None:
        shutil.copy(TINY_TUNED / "model.ckpt-343.data-00000-of-00001", folder / "bert_model.ckpt.data-00000-of-00001")
        (entry / "weights.bin").write_bytes(b"of both")

    with pytest.raises(WeightError, match=r"data-00000-of-00001 changed while the server read it"):
        cache.entry("engine", RECIPE, build_from_another_model)
    assert cache.find("engine", RECIPE) is None


@pytest.mark.parametrize("damage", [None, "changed", "missing"])
def test_small_files_are_added_without_the_lock(tmp_path: Path, damage: str | None) -> None:
    files = {"vocab.txt": b"[PAD]", "tokenizer_config.json": b"{}"}
    (tmp_path / "lock").mkdir()
    place = Cache(tmp_path).add("tokenizer", files)
    if damage == "changed":
        (place / "vocab.txt").write_bytes(b"[UNK]")
    elif damage == "missing":
        (place / "vocab.txt").unlink()
    assert Cache(tmp_path).add("tokenizer", files) == place
    assert {name: (place / name).read_bytes() for name in files} == files
    assert Cache(tmp_path).add("tokenizer", {"vocab.txt": b"[PAD]"}) != place
    assert not list(tmp_path.glob(".adding-*"))


def test_a_damaged_memo_is_ignored(tmp_path: Path, build: Builder) -> None:
    place = Cache(tmp_path).entry("engine", RECIPE, build)
    (tmp_path / "digests.json").write_text("[", "utf-8")
    assert Cache(tmp_path).entry("engine", RECIPE, build) == place
    assert build.calls == 1


def test_an_emptied_cache_is_rebuilt(tmp_path: Path, build: Builder) -> None:
    place = Cache(tmp_path).entry("engine", RECIPE, build)
    shutil.rmtree(place)
    assert Cache(tmp_path).entry("engine", RECIPE, build) == place


# -- entries that were verified since the machine was started ----------------------------------------------------------


@pytest.fixture
def num_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content was read for a digest."""
    names: list[str] = []

    def read(path: Path) -> str:
        names.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(cache_module, "sha256_of", read)
    return names


@linux_only
def test_a_verified_entry_is_not_read_again(tmp_path: Path, build: Builder, num_read: list[str]) -> None:
    entry = Cache(tmp_path).entry("engine", RECIPE, build)
    num_read.clear()
    assert Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build) == entry
    assert Cache(tmp_path).entry("engine", RECIPE, build) == entry
    assert not num_read
    os.utime(entry / "weights.bin")
    with pytest.raises(NotVerified):
        Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build)
    assert Cache(tmp_path).entry("engine", RECIPE, build) == entry
    assert num_read == ["weights.bin"]
    Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build)
    assert (build.calls, num_read) == (1, ["weights.bin"])


@linux_only
def test_an_entry_of_an_earlier_boot_is_read_again(
    tmp_path: Path, build: Builder, num_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Cache(tmp_path).entry("engine", RECIPE, build)
    monkeypatch.setattr(verified, "boot_id", lambda: "another")
    with pytest.raises(NotVerified):
        Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build)
    num_read.clear()
    assert Cache(tmp_path).entry("engine", RECIPE, build) == entry
    assert num_read == ["weights.bin"]
    monkeypatch.setattr(verified, "boot_id", lambda: "")  # a system without a number: each start reads
    for _ in range(2):
        Cache(tmp_path).entry("engine", RECIPE, build)
    assert num_read == 3 * ["weights.bin"]


@pytest.mark.parametrize("damage", ["overwritten", "replaced", "truncated", "removed", "no list"])
def test_a_verified_entry_that_is_damaged_is_built_again(tmp_path: Path, build: Builder, damage: str) -> None:
    entry = Cache(tmp_path).entry("engine", RECIPE, build)
    file = entry / "weights.bin"
    times = file.stat()
    if damage == "overwritten":
        with open(file, "r+b") as opened:
            opened.write(b"x")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    elif damage == "replaced":
        (tmp_path / "other").write_bytes(b"012345678x")
        os.utime(tmp_path / "other", ns=(times.st_atime_ns, times.st_mtime_ns))
        os.replace(tmp_path / "other", file)
    elif damage == "truncated":
        os.truncate(file, 3)
    else:
        (file if damage == "removed" else entry / "files.json").unlink()
    with pytest.raises(NotVerified):
        Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build)
    Cache(tmp_path).entry("engine", RECIPE, build)
    assert build.calls == 2
    assert file.read_bytes() == b"0123456789"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"boot_id": 3, "files": 4}', '{"files": {}}'])
def test_a_damaged_list_of_verified_files_is_ignored(tmp_path: Path, build: Builder, content: str) -> None:
    Cache(tmp_path).entry("engine", RECIPE, build)
    boot = verified.boot_id()
    (tmp_path / "verified.json").write_text(content.replace("3", f'"{boot}"'))
    with pytest.raises(NotVerified):
        Cache(tmp_path, only_verified=True).entry("engine", RECIPE, build)
    (tmp_path / "verified.json").unlink()
    (tmp_path / "verified.json").mkdir()  # cannot be written
    Cache(tmp_path).entry("engine", RECIPE, build)
    assert build.calls == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("verified.json.")]


@linux_only
def test_removed_entries_leave_the_list_of_verified_files(tmp_path: Path, build: Builder) -> None:
    entry = Cache(tmp_path).entry("engine", RECIPE, build)
    shutil.rmtree(entry)
    Cache(tmp_path).entry("other", RECIPE, build)
    assert entry.name not in (tmp_path / "verified.json").read_text()
