"""Remembers which files of the cache have been verified since the machine was started.

A start then need not read hundreds of megabytes again. A file that was written since then has another stamp. A file
that lost its content with the machine, because it had not reached the disk, belongs to an earlier boot.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from .digest import file_stamp

_FILE = "verified.json"
#: Seconds of at least one tick of the clock of file systems.
CLOCK_TICK = 0.02
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: Stamp and SHA-256 of a file.
Verified = tuple[list[int], str]


def boot_id() -> str:
    """Returns a number that changes when the machine is started; empty where the system has none."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def stamp_of(path: Path) -> list[int]:
    """Returns the stamp of a file; take it before the content is read.

    Raises:
        OSError: there is no such file.
    """
    return file_stamp(os.stat(path))


class VerifiedFiles:
    """The verified files of a cache folder, in a JSON file that may be missing, damaged or read-only.

    Of two processes that add files at once, one wins, and the files of the other are verified again.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._path = root, root / _FILE

    def contains(self, path: Path, digest: str) -> bool:
        """Returns whether a file was verified and has not been written since."""
        found = self._read().get(self._name(path))
        try:
            return found == [stamp_of(path), digest]
        except OSError:
            return False

    def restamp(self, before: list[int], after: list[int]) -> None:
        """Keeps a file verified under all its names, whose stamp a new link has changed."""
        known = {
            name: found for name, found in self._read().items() if isinstance(found, list) and found[:1] == [before]
        }
        self.add({self._root / name: (after, str(found[1])) for name, found in known.items()})

    def add(self, files: Mapping[Path, Verified]) -> None:
        """Adds verified files, and removes those that no longer exist."""
        boot = boot_id()
        if not boot:
            return
        known = {name: value for name, value in self._read().items() if (self._root / name).exists()}
        known |= {self._name(path): [*value] for path, value in files.items()}
        temporary = self._path.with_name(f"{_FILE}.{os.getpid()}.{threading.get_ident()}")
        try:
            temporary.write_text(json.dumps({"boot_id": boot, "files": known}), "utf-8")
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _read(self) -> dict[str, object]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_text("utf-8"))
            if content["boot_id"] == boot_id() != "":
                return dict(content["files"])
        return {}
