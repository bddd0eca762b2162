"""Keeps what the start prepared: the files in the cache from which every later process of the server starts.

The files stay open. A file that another program removed or replaced is written again from its descriptor, so a process
that starts later finds it. A file that was overwritten in place has a wrong digest, and the server ends: running
workers map the file, so their vectors would be wrong.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ..config.server_config import ServerConfig
from ..model.cache import LIST, Cache, manifest
from ..model.config import ModelConfig
from ..model.digest import file_stamp
from ..model.unserved import describe_unserved
from ..tokenization.vocabulary import vocabulary_files
from .child import Child
from .verified_model import find_verified

#: Seconds between two checks, and the age in seconds at which the last use of an entry is recorded.
_CHECK_SECONDS, _TOUCH_SECONDS = 1.0, 3600.0
_BLOCK = 1 << 20


class _Damaged(Exception):
    """A file was overwritten in place."""


@dataclass
class _HeldFile:
    """A file and its descriptor; ``stamp`` is the one for which ``digest`` was verified."""

    path: Path
    digest: str
    stamp: list[int]
    file: IO[bytes]


class PreparedModel:
    """The files of the prepared model, by entry of the cache.

    Attributes:
        sources: ``Cache.source_digests`` at the start.
        tokenizer: folder with copies of the files of the tokenizer.
        damage: the reason why the server must end, or an empty string.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._files: dict[str, _HeldFile] = {}
        self._next_check = 0.0
        self._problem = ""
        self._names_unserved: set[int] = set()
        self.sources: list[str] = []
        self.tokenizer = self.damage = ""

    def hold(self, entry: str | os.PathLike[str], files: Mapping[str, Sequence[Any]]) -> None:
        """Opens the files of an entry.

        Args:
            files: ``cache.manifest`` of the entry.

        Raises:
            OSError: a file was removed since the manifest was made.
        """
        for name, (digest, stamp) in files.items():
            path = Path(entry) / name
            if str(path) not in self._files:
                file = open(path, "rb", buffering=0)  # noqa: SIM115, closed by close()
                self._files[str(path)] = _HeldFile(path, digest, list(stamp), file)

    def for_another_model(self) -> PreparedModel:
        """Returns an object for a further model, whose files this one checks too."""
        other = PreparedModel(self._log)
        other._files = self._files
        return other

    def read(self, config: ServerConfig, model: ModelConfig) -> ModelConfig:
        """Computes ``sources`` and copies the files of the tokenizer to the cache.

        Returns:
            The model with the path of its vocabulary in the cache.

        Raises:
            ModelError: a file cannot be read, or the cache cannot be written.
        """
        cache = Cache(config.graph_tmp_dir or "")
        self.sources = cache.source_digests(model, config.pipeline)
        entry = cache.add("tokenizer", vocabulary_files(model.vocab_path))
        self.hold(entry, manifest(entry))
        self.tokenizer = str(entry)
        return replace(model, vocab_path=str(entry / Path(model.vocab_path).name))

    def take(self, prepare: Child, children: Iterable[Child]) -> None:
        """Holds what a preparation process reported, passes it on to its workers, and names what is not served."""
        try:
            for entry, files in prepare.info["entries"].items():
                self.hold(entry, files)
        except OSError as error:
            self.damage = f"the prepared model was removed during the start ({error}); start the server again"
        number = prepare.options.get("model_number", 0)
        if (names := prepare.info["unserved"]) and number not in self._names_unserved:
            self._names_unserved.add(number)
            model = ModelConfig.from_dict(prepare.options["model"])
            config = prepare.config
            self._log.warning("%s", describe_unserved(names, model, config.task, config.pipeline))
        prepared = {"model_digest": prepare.options["sources"][0]}
        prepared |= {name: prepare.info[name] for name in ("head", "token_heads")}
        for child in children:
            if child.role == "worker" and _prepared_for(child) == _prepared_for(prepare):
                child.options["prepared"] = prepared

    def skip(self, children: Iterable[Child]) -> None:
        """Finishes the preparation processes whose work the cache has."""
        everyone = list(children)
        for child in everyone:
            if child.role == "prepare" and (report := find_verified(child)) is not None:
                child.info = report
                child.is_finished = True
                self.take(child, everyone)

    def check(self, now: float) -> str:
        """Checks the files once a second. Writes those that are missing again; an error is logged once.

        Returns:
            ``damage``.
        """
        if now < self._next_check:
            return self.damage
        self._next_check = now + _CHECK_SECONDS
        try:
            self.require()
        except OSError as error:
            if str(error) != self._problem:
                self._log.error("%s; a process that ends cannot be replaced until then", error)
            self._problem = str(error)
        else:
            self._problem = ""
        return self.damage

    def require(self) -> None:
        """Checks that every file is there and unchanged. Sets ``damage`` if one was overwritten in place.

        Raises:
            OSError: a file was removed and cannot be written again.
        """
        restored = set()
        digests: dict[tuple[int, ...], str] = {}  # variants have links to one file
        for held in self._files.values():
            try:
                if _is_replaced(held, digests):
                    _restore(held)
                    restored.add(held.path.parent)
            except _Damaged as error:
                self.damage = str(error)
                return
            except OSError as error:
                raise OSError(
                    f"{held.path} of the prepared model was removed and cannot be written again ({error}); free disk "
                    "space, or make the folder writable"
                ) from error
        for entry in sorted(restored):
            self._log.warning("the prepared model %s was removed or replaced; it is written again", entry)
        self._touch()

    def close(self) -> None:
        """Closes the files."""
        for held in self._files.values():
            held.file.close()
        self._files.clear()

    def _touch(self) -> None:
        """Records the use of old entries, so that no other server prunes them."""
        for held in self._files.values():
            if held.path.name == LIST and time.time() - held.stamp[2] / 1e9 > _TOUCH_SECONDS:
                try:
                    os.utime(held.path)
                except OSError:
                    continue  # the folder is read-only


def _prepared_for(child: Child) -> tuple[int, str, str]:
    """Returns model, engine and dtype of a process."""
    options = child.options
    return options.get("model_number", 0), options["engine"], options["dtype"]


def _is_replaced(held: _HeldFile, digests: dict[tuple[int, ...], str]) -> bool:
    """Returns whether the file must be written again; adopts a file with the same content.

    Args:
        digests: those of the files that are read, by stamp.

    Raises:
        _Damaged: the file was overwritten in place.
        OSError: the file cannot be read.
    """
    try:
        found = os.stat(held.path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    if file_stamp(found) == held.stamp:
        return False
    if os.path.samestat(found, os.fstat(held.file.fileno())):
        stamp = file_stamp(found)
        if (digest := digests.get(tuple(stamp))) is None:
            digest = digests[tuple(stamp)] = _digest_of(held.file)
        if digest != held.digest:
            raise _Damaged(_describe_damage(held))
        held.stamp = stamp  # only its times or permissions have changed
        return False
    if not stat.S_ISREG(found.st_mode) or found.st_size != os.fstat(held.file.fileno()).st_size:
        return True  # and not read: it may be a pipe, or have no end
    other = open(held.path, "rb", buffering=0)  # noqa: SIM115, kept or closed
    if _digest_of(other) != held.digest:
        other.close()
        return True
    held.file.close()
    held.file, held.stamp = other, file_stamp(os.fstat(other.fileno()))
    return False


def _restore(held: _HeldFile) -> None:
    """Writes the file again from its descriptor, under another name first.

    Raises:
        _Damaged: the content was overwritten before the file was removed.
        OSError: the folder is not writable, or the disk is full.
    """
    held.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = held.path.with_name(f".restoring-{os.getpid()}-{held.path.name}")
    try:
        with open(temporary, "wb") as target:
            digest = _digest_of(held.file, target)
        if digest != held.digest:
            raise _Damaged(_describe_damage(held))
        os.replace(temporary, held.path)
    finally:
        temporary.unlink(missing_ok=True)
    restored = open(held.path, "rb", buffering=0)  # noqa: SIM115, closed by close()
    held.file.close()
    held.file, held.stamp = restored, file_stamp(os.fstat(restored.fileno()))


def _digest_of(file: IO[bytes], copy_to: IO[bytes] | None = None) -> str:
    """Returns the SHA-256 of an open file, and writes its content to another one."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        digest.update(block)
        if copy_to is not None:
            copy_to.write(block)
    return digest.hexdigest()


def _describe_damage(held: _HeldFile) -> str:
    return (
        f"{held.path} of the prepared model was overwritten while the server ran, so vectors would be wrong; the "
        "next start prepares the model again"
    )
