"""Computes digests of large files, and caches them so that the next start does not read the files again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path

from .architecture import BERT
from .config import ModelConfig

_is_stopping: ContextVar[Callable[[], bool]] = ContextVar("is_stopping", default=lambda: False)
#: Largest number of cached digests; the newest are kept.
MEMO_SIZE = 4096

#: Fields of ``ModelConfig`` that determine the result, together with the weights. Paths do not.
_ARCHITECTURE = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "checkpoint_format",
)


class Stopped(Exception):
    """The digest of a file is not needed any more."""


@contextlib.contextmanager
def stoppable(is_stopping: Callable[[], bool]) -> Iterator[None]:
    """Ends digests of the calling thread within a block when ``is_stopping`` returns true.

    Large files take seconds, during which a server that starts must be able to stop.
    """
    token = _is_stopping.set(is_stopping)
    try:
        yield
    finally:
        _is_stopping.reset(token)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal SHA-256 of a file.

    Raises:
        OSError: the file is unreadable.
        Stopped: see :func:`stoppable`.
    """
    digest, is_stopping = hashlib.sha256(), _is_stopping.get()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            if is_stopping():
                raise Stopped(f"the digest of {path} is not needed any more")
            digest.update(block)
    return digest.hexdigest()


def file_stamp(found: os.stat_result) -> list[int]:
    """Returns numbers that change when a file is written or replaced: inode, size and times in nanoseconds.

    The time of the last change (ctime) cannot be set back, unlike that of the last modification.
    """
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class DigestMemo:
    """Caches SHA-256 digests in a JSON file, by path and :func:`file_stamp`.

    A missing, damaged or read-only JSON file costs time only. Of two processes that save at once, one wins.
    """

    def __init__(self, path: Path):
        self._path = path
        self._entries: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(path.read_text("utf-8"))
            if isinstance(loaded, dict):
                self._entries = loaded

    def sha256(self, path: Path) -> str:
        """Returns the hexadecimal SHA-256 of ``path``. Reads the file only if it is new or has changed."""
        key = os.path.realpath(path)
        stamp = file_stamp(os.stat(path))
        entry = self._entries.get(key)
        if isinstance(entry, list) and entry[:-1] == stamp:
            return str(entry[-1])
        digest = sha256_of(path)
        self._entries.pop(key, None)
        self._entries[key] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Writes the JSON file atomically."""
        latest = dict(list(self._entries.items())[-MEMO_SIZE:])
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            temporary.write_text(json.dumps(latest), "utf-8")
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()


class KnownDigests(DigestMemo):
    """Knows the digests in the JSON file only, and reads no file of a model."""

    def sha256(self, path: Path) -> str:
        """Returns the hexadecimal SHA-256 of ``path``.

        Raises:
            LookupError: the file is new, or has changed.
        """
        entry = self._entries.get(os.path.realpath(path))
        if isinstance(entry, list) and entry[:-1] == file_stamp(os.stat(path)):
            return str(entry[-1])
        raise LookupError(f"the digest of {path} is not known")


def model_digest(config: ModelConfig, memo: DigestMemo | None) -> str:
    """Returns a digest of the weights and the architecture of a model, independent of paths.

    Args:
        memo: cached digests of files; None reads all files.

    Raises:
        OSError: a file of the checkpoint is unreadable.
    """
    values = asdict(config)
    content = {
        "architecture": {name: values[name] for name in _ARCHITECTURE},
        # Left out for BERT's own, so that its vector spaces keep their names.
        **({} if config.architecture == BERT else {"differs": values["architecture"]}),
        "family": [config.family, config.position_offset],
        "files": [sha256_of(path) if memo is None else memo.sha256(path) for path in config.weight_files],
        **({} if config.adapter is None else {"adapter": config.adapter.content}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
