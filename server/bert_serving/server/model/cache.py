"""A folder of things prepared from models, found again by the content that they were made from.

An entry is a folder ``<kind>-<key>``. The key is a digest of everything that decides what is in it, so an entry never
goes stale; it is written aside and renamed into place, so it is there whole or not at all; and its list of files with
sizes and digests tells a damaged one, which is then made again. The least recently used entries are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO

from .config import ModelConfig
from .digest import DigestMemo, model_digest

#: Part of every key: raise it when the layout of an entry changes.
FORMAT = 2
#: Entries of one kind that are kept, the most recently used.
KEEP = 8

_LIST = "files.json"
_BUILDING = ".building-"


class CacheError(OSError):
    """The cache folder cannot be used; the message names the remedy."""


def default_cache_dir() -> str:
    """``$BERT_SERVING_CACHE``, else ``bert-serving`` in the user's cache folder (``~/.cache`` on Linux)."""
    if named := os.environ.get("BERT_SERVING_CACHE"):
        return str(Path(named).expanduser().absolute())
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(base / "bert-serving")


class Cache:
    """The entries under one folder, private to the user."""

    def __init__(self, root: str | os.PathLike[str] = ""):
        """Opens or creates the folder (mode 0700).

        Args:
            root: the folder, empty for ``default_cache_dir()``. A folder that other users may write to is left as it
                is; the entries then go to a private folder in it.

        Raises:
            CacheError: it cannot be written, or belongs to another user.
        """
        folder = Path(root or default_cache_dir()).expanduser().absolute()
        try:
            self.root = _private_folder(folder)
        except OSError as error:
            raise CacheError(
                f"the cache folder {folder} cannot be used ({error}); name another one with BERT_SERVING_CACHE"
            ) from error

    def model_digest(self, config: ModelConfig) -> str:
        """``digest.model_digest`` of a model, with file digests remembered in this cache."""
        with self._lock():
            memo = DigestMemo(self.root / "digests.json")
            digest = model_digest(config, memo)
            memo.save()
        return digest

    def find(self, kind: str, recipe: Mapping[str, object]) -> Path | None:
        """The entry for ``recipe``, None where there is none or a file of it is missing or truncated.

        Takes no lock and reads no file but the list, so a worker may call it as often as it likes.
        """
        path = self._path(kind, recipe)
        files = _read_list(path)
        if files is None or any(_size(path / name) != size for name, (size, _) in files.items()):
            return None
        with contextlib.suppress(OSError):
            os.utime(path / _LIST)  # what the pruning goes by
        return path

    def entry(self, kind: str, recipe: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        """The entry for ``recipe``, whole and verified; built where it is missing or damaged.

        Args:
            kind: a word that begins the folder's name; entries of one kind are pruned together.
            recipe: everything that decides what ``build`` writes, as JSON values.
            build: writes the files of the entry into the folder that it is given.

        Raises:
            CacheError: the folder cannot be written, the disk is full.
        """
        with self._lock():
            for leftover in self.root.glob(f"{_BUILDING}*"):  # every builder holds the lock, so its builder is dead
                shutil.rmtree(leftover, ignore_errors=True)
            path = self.find(kind, recipe)
            if path is None or not self._is_intact(path):
                path = self._build(kind, recipe, build)
            self._prune(kind, keep=path)
        return path

    def _build(self, kind: str, recipe: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        path = self._path(kind, recipe)
        aside: Path | None = None
        try:
            aside = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.root))
            build(aside)
            memo = DigestMemo(self.root / "digests.json")
            files = {file.name: (file.stat().st_size, memo.sha256(file)) for file in sorted(aside.iterdir())}
            (aside / _LIST).write_text(json.dumps({"recipe": dict(recipe), "files": files}, indent=1), "utf-8")
            if path.exists():
                shutil.rmtree(path)
            os.replace(aside, path)
            for name in files:  # the digests are remembered under the final name
                memo.sha256_moved(aside / name, path / name)
            memo.save()
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {self.root} ({error}); free some space, or name another folder with "
                "BERT_SERVING_CACHE"
            ) from error
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        return path

    def _is_intact(self, path: Path) -> bool:
        files = _read_list(path)
        if files is None:
            return False
        memo = DigestMemo(self.root / "digests.json")
        intact = all(memo.sha256(path / name) == digest for name, (_, digest) in files.items())
        memo.save()
        return intact

    def _prune(self, kind: str, keep: Path) -> None:
        def last_use(path: Path) -> float:
            try:
                return (path / _LIST).stat().st_mtime
            except OSError:
                return 0.0  # damaged: goes first

        others = [path for path in self.root.glob(f"{kind}-*") if path != keep]
        for path in sorted(others, key=last_use, reverse=True)[KEEP - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    def _path(self, kind: str, recipe: Mapping[str, object]) -> Path:
        content = json.dumps({"format": FORMAT, "kind": kind, "recipe": dict(recipe)}, sort_keys=True)
        return self.root / f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            file = open(self.root / "lock", "a+b")  # noqa: SIM115, closed below
        except OSError as error:
            raise CacheError(
                f"the cache folder {self.root} cannot be written ({error}); name another one with BERT_SERVING_CACHE"
            ) from error
        try:
            _lock_file(file)
            yield
        finally:
            file.close()  # gives the lock back; so does the system when the process dies


def _lock_file(file: IO[bytes]) -> None:
    """Waits until this process alone holds ``file``."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
            except OSError:  # LK_LOCK gives up after ten seconds
                continue
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)


def _private_folder(folder: Path) -> Path:
    """``folder`` where it is the user's own, else a private folder in it. Permissions of what was there stay.

    What lies here is mapped into workers, so nobody else may write it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return folder
    found = folder.stat()
    if found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o022:
        return folder
    own = folder / f"bert-serving-{os.geteuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    found = own.lstat()
    if found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o022:
        raise PermissionError(f"{own} belongs to or may be written by another user")
    return own


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read_list(path: Path) -> dict[str, tuple[int, str]] | None:
    """File name → (size, SHA-256) of an entry, None where it has no readable list."""
    try:
        files = json.loads((path / _LIST).read_text("utf-8"))["files"]
        return {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
