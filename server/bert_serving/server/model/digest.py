"""Computes digests of large files, and caches them so that the next start does not read the files again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from .config import ModelConfig
from .files import checkpoint_files

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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Returns the hexadecimal SHA-256 of a file.

    Raises:
        OSError: the file is unreadable.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class DigestMemo:
    """Caches SHA-256 digests in a JSON file, by path, size and modification time in nanoseconds.

    A missing or damaged JSON file costs time only. The lock of the cache serializes writers.
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
        stat = os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = self._entries.get(key)
        if isinstance(entry, list) and entry[:2] == stamp and len(entry) == 3:
            return str(entry[2])
        digest = sha256_of(path)
        self._entries.pop(key, None)
        self._entries[key] = [*stamp, digest]
        return digest

    def sha256_moved(self, old: Path, new: Path) -> None:
        """Moves the entry of a renamed file."""
        if (entry := self._entries.pop(os.path.realpath(old), None)) is not None:
            self._entries[os.path.realpath(new)] = entry

    def save(self) -> None:
        """Writes the JSON file atomically."""
        latest = dict(list(self._entries.items())[-MEMO_SIZE:])
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(latest), "utf-8")
        os.replace(temporary, self._path)


def model_digest(config: ModelConfig, memo: DigestMemo | None) -> str:
    """Returns a digest of the weights and the architecture of a model, independent of paths.

    Args:
        memo: cached digests of files; None reads all files.

    Raises:
        OSError: a file of the checkpoint is unreadable.
    """
    values = asdict(config)
    files = checkpoint_files(config.checkpoint, config.checkpoint_format)
    content = {
        "architecture": {name: values[name] for name in _ARCHITECTURE},
        "files": [sha256_of(path) if memo is None else memo.sha256(path) for path in files],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
