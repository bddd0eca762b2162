"""Caches files prepared from models, addressed by their content.

An entry is a folder ``<kind>-<key>``. The key is a digest of everything that determines the content, so an entry is
never stale. An entry is built in a temporary folder and renamed, so it is complete or absent. Its list of files has
sizes and digests, so a damaged entry is detected and built again. The least recently used entries are removed.

A server prepares its entries at the start. Its processes open them by their keys and never read the model again.
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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from .config import ModelConfig
from .digest import DigestMemo, file_stamp, model_digest, sha256_of
from .errors import ModelError, WeightError
from .files import expand_user
from .pipeline import SentencePipeline
from .verified import CLOCK_TICK, VerifiedFiles, stamp_of

#: Part of every key. Increment it when the layout of an entry changes.
FORMAT = 3
#: Number of entries kept of each kind: the most recently used ones. More stay while they are in use: a running server
#: records the use of its entries once an hour.
KEEP, IN_USE_SECONDS = 8, 7200

#: Name of the list of files in each entry; the time of its last change is that of the last use.
LIST = "files.json"
_BUILDING = ".building-"
#: Prefix of folders that are written without the lock, and the age in seconds after which one is a leftover.
_ADDING, _LEFTOVER_SECONDS = ".adding-", 3600


class CacheError(ModelError, OSError):
    """The cache folder is not usable; the message names the remedy."""


class NotVerified(CacheError):
    """The cache lacks an entry, or has not verified it since the machine was started."""


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

    def __init__(
        self, root: str | os.PathLike[str] = "", opened: list[str] | None = None, only_verified: bool = False
    ) -> None:
        """Opens or creates the folder (mode 0700).

        Args:
            root: the folder, empty for ``default_cache_dir()``. If other users may write to it, it stays unchanged and
                the entries go to a private subfolder.
            opened: receives the path of each entry that ``find`` or ``entry`` returns.
            only_verified: ``entry`` reads and writes no large file: it raises ``NotVerified`` instead.

        Raises:
            CacheError: the folder is not writable, or belongs to another user.
        """
        self._opened = [] if opened is None else opened
        self._sources: dict[Path, list[int]] = {}
        self._only_verified = only_verified
        folder = expand_user(root or default_cache_dir(), "cache folder").absolute()
        try:
            self.root = _private_folder(folder)
        except OSError as error:
            raise CacheError(
                f"cannot use the cache folder {folder} ({error}); set -graph_tmp_dir or BERT_SERVING_CACHE to another "
                "folder"
            ) from error
        self._verified = VerifiedFiles(self.root)

    def model_digest(self, config: ModelConfig) -> str:
        """Returns ``digest.model_digest`` of a model; the digests of its files are cached here.

        An entry that is built later from this model is refused if one of these files has changed meanwhile.
        """
        for file in config.weight_files:
            self._sources[file] = file_stamp(os.stat(file))
        memo = DigestMemo(self.root / "digests.json")
        digest = model_digest(config, memo)
        memo.save()
        return digest

    def file_digests(self, files: Sequence[Path]) -> list[str]:
        """Returns the SHA-256 of files of a model; they are cached and watched as those of ``model_digest`` are."""
        for file in files:
            self._sources[file] = file_stamp(os.stat(file))
        memo = DigestMemo(self.root / "digests.json")
        digests = [memo.sha256(file) for file in files]
        memo.save()
        return digests

    def source_digests(self, config: ModelConfig, pipeline: SentencePipeline | None) -> list[str]:
        """Returns ``model_digest``, then the digests of the files with the weights of the pipeline."""
        files = [] if pipeline is None else pipeline.weight_files
        return [self.model_digest(config), *self.file_digests(files)]

    def find(self, kind: str, cache_key: Mapping[str, object]) -> Path | None:
        """Returns the entry for ``cache_key``; None if it does not exist, or a file is missing or truncated.

        Takes no lock and reads only the list of files, so it is cheap enough for every worker.
        """
        path = self._path(kind, cache_key)
        files = _read_list(path)
        if files is None or any(_size(path / name) != size for name, (size, _) in files.items()):
            return None
        with contextlib.suppress(OSError):
            os.utime(path / LIST)  # the time of the last use, for _prune
        self._opened.append(str(path))
        return path

    def add(self, kind: str, files: Mapping[str, bytes]) -> Path:
        """Returns the verified entry with these small files; writes it if it is missing or damaged.

        Takes no lock, so it does not wait for another process that prepares a model.

        Raises:
            CacheError: the folder is not writable, or the disk is full.
        """
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        path = self._path(kind, {"files": digests})
        for leftover in self.root.glob(f"{_ADDING}*"):
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_SECONDS:
                    shutil.rmtree(leftover, ignore_errors=True)
        with self._explain_write_errors():
            if self.find(kind, {"files": digests}) is not None and _is_intact(path):
                return path
            temporary = Path(tempfile.mkdtemp(prefix=_ADDING, dir=self.root))
            try:
                for name, content in files.items():
                    (temporary / name).write_bytes(content)
                _write_list(temporary, {"files": digests}, digests)
                shutil.rmtree(path, ignore_errors=True)
                os.replace(temporary, path)
            except OSError:
                if not _is_intact(path):  # if it is, another process has added it
                    raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._prune(kind, keep=path)
        return path

    def entry(self, kind: str, cache_key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        """Returns the verified entry for ``cache_key``; builds it if it is missing or damaged.

        Args:
            kind: prefix of the folder's name; entries of one kind are pruned together.
            cache_key: all inputs that determine the files of the entry, as JSON values.
            build: writes the files of the entry into a given folder.

        Raises:
            CacheError: the folder is not writable, or the disk is full.
            NotVerified: the entry must be read or built, which ``only_verified`` excludes.
        """
        if self._only_verified:
            path = self.find(kind, cache_key)
            if path is None or not self._is_verified(path):
                raise NotVerified(f"{self._path(kind, cache_key)} is missing or not verified")
            return path
        with self._lock():
            for leftover in self.root.glob(f"{_BUILDING}*"):  # its process is dead: every builder holds the lock
                shutil.rmtree(leftover, ignore_errors=True)
            path = self.find(kind, cache_key)
            if path is None or not (self._is_verified(path) or self._verify(path)):
                path = self._build(kind, cache_key, build)
                self._opened.append(str(path))
            self._prune(kind, keep=path)
        return path

    def link(self, source: Path, target: Path) -> bool:
        """Makes ``target`` another name of a file of an entry, which stays verified.

        Returns:
            Whether the file system has such links.
        """
        before = stamp_of(source)
        try:
            os.link(source, target)
        except OSError:
            return False
        if before[:-1] == (after := stamp_of(source))[:-1]:  # the time of the last change is that of the link
            self._verified.restamp(before, after)
        return True

    def _build(self, kind: str, cache_key: Mapping[str, object], build: Callable[[Path], None]) -> Path:
        path = self._path(kind, cache_key)
        temporary: Path | None = None
        try:
            with self._explain_write_errors():
                temporary = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=self.root))
                build(temporary)
                time.sleep(CLOCK_TICK)  # a later write then gives a file another time
                stamps = {file: stamp_of(file) for file in sorted(temporary.iterdir())}
                digests = {file.name: sha256_of(file) for file in stamps}
                _write_list(temporary, cache_key, digests)
                self._reject_changed_sources()
                if path.exists():
                    shutil.rmtree(path)
                os.replace(temporary, path)
            # The stamps are older than the digests: a file that was written meanwhile does not count as verified.
            self._verified.add({path / file.name: (stamp, digests[file.name]) for file, stamp in stamps.items()})
        finally:
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
        return path

    def _is_verified(self, path: Path) -> bool:
        """Returns whether every file of an entry was verified since the machine was started."""
        files = _read_list(path)
        return files is not None and all(
            self._verified.contains(path / name, digest) for name, (_, digest) in files.items()
        )

    def _verify(self, path: Path) -> bool:
        """Returns whether every file of an entry has its digest, and remembers it; reads all of them."""
        try:
            stamps = {file: stamp_of(file) for file in path.iterdir() if file.name != LIST}
        except OSError:
            return False
        if not _is_intact(path):
            return False
        listed = _read_list(path) or {}
        files = {file: (stamp, listed[file.name][1]) for file, stamp in stamps.items() if file.name in listed}
        self._verified.add(files)
        return True

    def _reject_changed_sources(self) -> None:
        for file, stamp in self._sources.items():
            if file_stamp(os.stat(file)) != stamp:
                raise WeightError(f"{file} changed while the server read it; start again when it is complete")

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Iterator[None]:
        try:
            yield
        except ModelError:
            raise
        except OSError as error:
            raise CacheError(
                f"cannot write to the cache folder {self.root} ({error}); free disk space, or set -graph_tmp_dir or "
                "BERT_SERVING_CACHE to another folder"
            ) from error

    def _prune(self, kind: str, keep: Path) -> None:
        def last_use(path: Path) -> float:
            try:
                return (path / LIST).stat().st_mtime
            except OSError:
                return 0.0  # damaged: removed first

        others = [path for path in self.root.glob(f"{kind}-*") if path != keep]
        for path in sorted(others, key=last_use, reverse=True)[KEEP - 1 :]:
            if time.time() - last_use(path) > IN_USE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)

    def _path(self, kind: str, cache_key: Mapping[str, object]) -> Path:
        content = json.dumps({"format": FORMAT, "kind": kind, "cache_key": dict(cache_key)}, sort_keys=True)
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


def manifest(entry: str | os.PathLike[str]) -> dict[str, tuple[str, list[int]]]:
    """Returns file name → (SHA-256, ``file_stamp``) of the files of a verified entry; its list of files is the last.

    Raises:
        CacheError: the entry was removed or damaged meanwhile.
    """
    path = Path(entry)
    listed = _read_list(path)
    try:
        if listed is None:
            raise FileNotFoundError(f"no {LIST}")
        names = [*listed, LIST]
        stamps = {name: file_stamp(os.stat(path / name)) for name in names}
        digests = {name: digest for name, (_, digest) in listed.items()} | {LIST: sha256_of(path / LIST)}
        return {name: (digests[name], stamps[name]) for name in names}
    except OSError as error:
        raise CacheError(
            f"the entry {path} of the cache was removed during the start ({error}); start again"
        ) from error


def _write_list(path: Path, cache_key: Mapping[str, object], digests: Mapping[str, str]) -> None:
    files = {name: ((path / name).stat().st_size, digest) for name, digest in digests.items()}
    (path / LIST).write_text(json.dumps({"cache_key": dict(cache_key), "files": files}, indent=1), "utf-8")


def _is_intact(path: Path) -> bool:
    """Returns whether every file of an entry has its digest; reads all of them."""
    files = _read_list(path)
    try:
        return files is not None and all(sha256_of(path / name) == digest for name, (_, digest) in files.items())
    except OSError:
        return False


def _read_list(path: Path) -> dict[str, tuple[int, str]] | None:
    """Returns file name → (size, SHA-256) of an entry; None if its list is missing or unreadable."""
    try:
        files = json.loads((path / LIST).read_text("utf-8"))["files"]
        return {str(name): (int(size), str(digest)) for name, (size, digest) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
