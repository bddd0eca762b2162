"""The files of a corpus: which files a command line names, and how they are opened."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import stat
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from .corpus import CorpusError

_FORMATS = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_SHOWN = 5
_BLOCK = 1 << 20


@dataclass(frozen=True)
class InputFile:
    """A file of a corpus, after it was read once.

    Attributes:
        path: as the command line names it.
        format: ``text``, ``jsonl`` or ``parquet``.
        bytes: its size.
        digest: BLAKE2b of its bytes in hex.
        rows: number of rows.
        offsets: position in bytes of the first row of each part; empty if the file has no such positions.
        columns: of JSON lines, the kind of each column.
    """

    path: str
    format: str
    bytes: int
    digest: str
    rows: int
    offsets: list[int] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)


def format_of(path: str) -> tuple[str | None, str]:
    """Returns the format and the compression that a name stands for: ``None`` and ``""`` if its ending is unknown."""
    name, ending = os.path.splitext(path.lower())
    compression = ""
    if ending in _COMPRESSIONS:
        compression = ending
        ending = os.path.splitext(name)[1]
    return _FORMATS.get(ending), compression


def find_inputs(paths: Sequence[str], report: Callable[[str], None]) -> list[str]:
    """Returns the files at the paths and below them, those of one folder in order of their names.

    A folder stands for the files below it with a known ending; names that begin with a dot or an underscore are
    ignored, as other readers of such folders do. ``report`` receives a sentence about other files.

    Raises:
        CorpusError: a path does not exist, has no file that can be read, or a file is named twice.
    """
    found: list[str] = []
    for path in paths:
        if not os.path.isdir(path):
            if not stat.S_ISREG(os.stat(path).st_mode):  # or an OSError that names the path
                raise CorpusError(f"{path} is not a regular file, and is read more than once; store it in a file")
            found.append(path)
            continue
        below = sorted(_files_below(path))
        known = [name for name in below if format_of(name)[0]]
        if not known:
            raise CorpusError(f"{path} has no file that ends in {', '.join(_FORMATS)}; name files of text one by one")
        if others := [name for name in below if not format_of(name)[0]]:
            report(f"files below {path} with another ending, which are not read: {shortened(others)}")
        found += known
    seen: dict[str, str] = {}
    for path in found:
        real = os.path.realpath(path)
        if real in seen:
            raise CorpusError(f"{path} is named twice, also as {seen[real]}; name each input once")
        seen[real] = path
        if format_of(path)[0] == "parquet" and format_of(path)[1]:
            raise CorpusError(f"{path}: a compressed Parquet file cannot be read in pieces; decompress it")
    return found


def shortened(names: Sequence[str]) -> str:
    """Returns the first names and the number of the others, for messages."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _files_below(folder: str) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in folders:  # links to folders may lead in a circle
            if os.path.islink(path := os.path.join(parent, name)):
                raise CorpusError(f"{path} is a link to a folder; name that folder itself")
        yield from (os.path.join(parent, name) for name in names if not name.startswith((".", "_")))


class DigestReader(io.RawIOBase):
    """A file that hashes the bytes that are read from it."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file = file
        self._hash = hashlib.blake2b(digest_size=16)
        self._progress = progress
        self.bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:size])
        self.bytes += size
        self._progress(size)
        return int(size)

    def drain(self) -> str:
        """Reads the rest, and returns the digest of the file."""
        block = bytearray(_BLOCK)
        while self.readinto(block):
            pass
        return self._hash.hexdigest()


def digest_of(path: str, progress: Callable[[int], None]) -> tuple[int, str]:
    """Returns size and digest of a file."""
    with open(path, "rb", buffering=0) as file:
        reader = DigestReader(cast("BinaryIO", file), progress)
        digest = reader.drain()
        return reader.bytes, digest


def decompressed(file: Any, path: str) -> BinaryIO:
    """Returns the stream of the lines of a file, by its ending."""
    compression = format_of(path)[1]
    if compression == ".gz":
        return cast("BinaryIO", gzip.GzipFile(fileobj=file))
    if compression == ".bz2":
        return cast("BinaryIO", bz2.BZ2File(file))
    if compression == ".xz":
        return cast("BinaryIO", lzma.LZMAFile(file))
    if compression == ".zst":
        pa = require_pyarrow(f"{path} is compressed with zstd, and")
        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"), _BLOCK)
    return io.BufferedReader(file, _BLOCK)


@contextmanager
def named(path: str) -> Iterator[None]:
    """Adds the name of the file to errors of its content."""
    try:
        yield
    except CorpusError:
        raise
    except (EOFError, zlib.error, lzma.LZMAError, ValueError) as error:  # errors of Arrow are a ValueError or OSError
        raise CorpusError(f"{path} is damaged, or not what its ending says: {error}") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise CorpusError(f"{path} is damaged, or not what its ending says: {error}") from error


def require_pyarrow(reason: str) -> Any:
    """Imports pyarrow.

    Raises:
        CorpusError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CorpusError(f'{reason} needs pyarrow: pip install "bert-serving-client[corpus]" ({error})') from error
    return pyarrow
