"""Content digests of large files, remembered so that a second start does not read them again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from .config import ModelConfig
from .files import checkpoint_files

#: Entries kept in the memo, the latest ones.
MEMO_SIZE = 4096

#: What of a ``ModelConfig`` decides the result beside the weights; paths do not.
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
    """Hexadecimal SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


class DigestMemo:
    """SHA-256 of files, computed once per path, size and modification time (nanoseconds) and kept in a JSON file.

    A memo that is missing or damaged is only slower. The cache's lock keeps several writers apart.
    """

    def __init__(self, path: Path):
        self._path = path
        self._known: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(path.read_text("utf-8"))
            if isinstance(loaded, dict):
                self._known = loaded

    def sha256(self, path: Path) -> str:
        """Hexadecimal SHA-256 of ``path``, read only where it is new or has changed."""
        key = os.path.realpath(path)
        stat = os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(key)
        if isinstance(known, list) and known[:2] == stamp and len(known) == 3:
            return str(known[2])
        digest = sha256_of(path)
        self._known.pop(key, None)
        self._known[key] = [*stamp, digest]
        return digest

    def sha256_moved(self, old: Path, new: Path) -> None:
        """Remembers under ``new`` what is known of ``old``, a file that was renamed."""
        if (known := self._known.pop(os.path.realpath(old), None)) is not None:
            self._known[os.path.realpath(new)] = known

    def save(self) -> None:
        """Writes the memo, whole or not at all."""
        latest = dict(list(self._known.items())[-MEMO_SIZE:])
        temporary = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(latest), "utf-8")
        os.replace(temporary, self._path)


def model_digest(config: ModelConfig, memo: DigestMemo) -> str:
    """Digest of a model's weights and architecture: equal for equal content, wherever the files lie.

    Raises:
        OSError: a file of the checkpoint cannot be read.
    """
    values = asdict(config)
    files = checkpoint_files(config.checkpoint, config.checkpoint_format)
    content = {
        "architecture": {name: values[name] for name in _ARCHITECTURE},
        "files": [memo.sha256(path) for path in files],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
