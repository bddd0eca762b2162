"""Caches files prepared from models, addressed by their content.

An entry is a folder ``<kind>-<key>``. The key is a digest of everything that determines the content, so an entry is
never stale. An entry is built in a temporary folder and renamed, so it is complete or absent. Its list of files has
sizes and digests, so a damaged entry is detected and built again. The least recently used entries are removed.
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
from .errors import ModelError
from .files import expand_user

#: Part of every key. Increment it when the layout of an entry changes.
FORMAT = 2
#: Number of entries kept of each kind: the most recently used ones.
KEEP = 8

_LIST = "files.json"
_BUILDING = ".building-"


class CacheError(ModelError, OSError):
    """The cache folder is not usable; the message names the remedy."""


def default_cache_dir() -> str:
    """Returns ``$BERT_SERVING_CACHE``, or ``bert-serving`` in the user's cache folder (``~/.cache`` on Linux).

    Raises:
        CacheError: the user has no home folder.
    """
    try:
        return _default_cache_dir()
    except RuntimeError as error:  # of Path.home()
        raise CacheError(
            f"there is no folder for prepared models ({error}): set -graph_tmp_dir, BERT_SERVING_CACHE or HOME"
        ) from None


def _default_cache_dir() -> str:
    if configured := os.environ.get("BERT_SERVING_CACHE"):
        return str(Path(configured).expanduser().absolute())
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return str(base / "bert-serving")


class Cache:
    """Manages the entries in one folder, which is private to the user."""

    def __init__(self, root: str | os.PathLike[str] = ""):
        """Opens or creates the folder (mode 0700).

        Args:
            root: the folder, empty for ``default_cache_dir()``. If other users may write to it, it stays unchanged and
                the entries go to a private subfolder.

        Raises:
            CacheError: the folder is not writable, or belongs to another user.
        """
        folder = expand_user(root or default_cache_dir(), "cache folder").absolute()
        try:
            self.root = _private_folder(folder)
        except OSError as error:
            raise CacheError(
                f"cannot use the cache folder {folder} ({error}); set -graph_tmp_dir or BERT_SERVING_CACHE to another "
                "folder"
            ) from error

    def model_digest(self, config: ModelConfig) -> str:
        """Returns ``digest.model_digest`` of a model; the digests of its files are cached here."""
        with self._lock():
            memo = DigestMemo(self.root / "digests.json")
            digest = model_digest(config, memo)
            memo.save()
        return digest

    def find(self, kind: str, cache_key: Mapping[str, object]) -> Path | None:
        """Returns the entry for ``cache_key``; None if it does not exist, or a file is missing or truncated.

        Takes no lock and reads only the list of files, so it is cheap enough for every worker.
        """
        path = self._path(kind, cache_key)
        files = _read_list(path)
        if files is None or any(_size(path / name) != size for name, (size, _) in files.items()):
            return None
        with contextlib.suppress(OSError):
            os.utime(path / _LIST)  # the time of the last use, for _prune
        return path

    def entry(self, kind: str, cache_key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        """Returns the verified entry for ``cache_key``; builds it if it is missing or damaged.

        Args:
            kind: prefix of the folder's name; entries of one kind are pruned together.
            cache_key: all inputs that determine the files of the entry, as JSON values.
            build: writes the files of the entry into a given folder.

        Raises:
            CacheError: the folder is not writable, or the disk is full.
        """
        with self._lock():
            for leftover in self.root.glob(f"{_BUILDING}*"):  # its process is dead: every builder holds the lock
                shutil.rmtree(leftover, ignore_errors=True)
            path = self.find(kind, cache_key)
            if path is None or not self._is_intact(path):
                path = self._build(kind, cache_key, build)
            self._prune(kind, keep=path)
        return path

    def _build(self, kind: str, cache_key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        path = self._path(kind, cache_key)
        temporary: Path | None = None
        try:
            temporary = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.root))
            build(temporary)
            memo = DigestMemo(self.root / "digests.json")
            files = {file.name: (file.stat().st_size, memo.sha256(file)) for file in sorted(temporary.iterdir())}
            (temporary / _LIST).write_text(json.dumps({"recipe": dict(cache_key), "files": files}, indent=1), "utf-8")
            if path.exists():
                shutil.rmtree(path)
            os.replace(temporary, path)
            for name in files:  # cache the digests under the final name
                memo.sha256_moved(temporary / name, path / name)
            memo.save()
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {self.root} ({error}); free disk space, or set -graph_tmp_dir or "
                "BERT_SERVING_CACHE to another folder"
            ) from error
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
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
                return 0.0  # damaged: removed first

        others = [path for path in self.root.glob(f"{kind}-*") if path != keep]
        for path in sorted(others, key=last_use, reverse=True)[KEEP - 1 :]:
            shutil.rmtree(path, ignore_errors=True)

    def _path(self, kind: str, cache_key: Mapping[str, object]) -> Path:
        content = json.dumps({"format": FORMAT, "kind": kind, "recipe": dict(cache_key)}, sort_keys=True)
        return self.root / f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:32]}"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            file = open(self.root / "lock", "a+b")  # noqa: SIM115, closed below
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {self.root} ({error}); set -graph_tmp_dir or BERT_SERVING_CACHE to "
                "another folder"
            ) from error
        try:
            _lock_file(file)
            yield
        finally:
            file.close()  # releases the lock; so does the system when the process dies


def _lock_file(file: IO[bytes]) -> None:
    """Waits for an exclusive lock on ``file``."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
            except OSError:  # LK_LOCK fails after ten seconds
                continue
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)


def _private_folder(folder: Path) -> Path:
    """Returns ``folder`` if only its owner, the user, may write to it, or else a private subfolder.

    Workers map the files, so no other user may write them. Permissions of existing folders stay unchanged.
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
        raise PermissionError(f"another user owns or may write {own}")
    return own


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _read_list(path: Path) -> dict[str, tuple[int, str]] | None:
    """Returns file name → (size, SHA-256) of an entry; None if its list is missing or unreadable."""
    try:
        files = json.loads((path / _LIST).read_text("utf-8"))["files"]
        return {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
