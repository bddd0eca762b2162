"""The manifest of a folder of vectors, in ``_manifest.json``, and its finished parts, in ``_parts.jsonl``.

Readers of folders ignore names that begin with an underscore.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from .corpus import CorpusError
from .file_lock import try_lock
from .inputs import InputFile, digest_of, shortened
from .part_files import PartRecord, sync_folder, temporary_name
from .parts import Part

MANIFEST, RECORDS = "_manifest.json", "_parts.jsonl"
_VERSION = 1
_PART = re.compile(r"\.?part-\d{6,}\.(parquet|npy)((\.[0-9a-f]+)?\.new)?")


@dataclass(frozen=True)
class Manifest:
    """What all parts of a folder have in common.

    Attributes:
        options: options and properties of the server that determine the content of a row.
        probe: vector of a fixed sentence, to recognise another model.
        inputs: the inputs, in order.
    """

    options: dict[str, Any]
    probe: list[float]
    inputs: list[InputFile]

    def save(self, folder: str) -> None:
        """Replaces the file atomically."""
        path = os.path.join(folder, MANIFEST)
        temporary = os.path.join(folder, temporary_name(MANIFEST))
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({"version": _VERSION} | asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(folder)

    @staticmethod
    def load(folder: str) -> Manifest:
        """Reads the file.

        Raises:
            CorpusError: the file is damaged, or of another version.
        """
        path = os.path.join(folder, MANIFEST)
        try:
            with open(path, encoding="utf-8") as file:
                values = json.load(file)
            if values.pop("version") != _VERSION:
                raise ValueError("it is of another version of this program")
            return Manifest(**values | {"inputs": [InputFile(**one) for one in values["inputs"]]})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CorpusError(f"{path} cannot be read ({error!r}); start over with -overwrite") from error

    def require_inputs(
        self, paths: Sequence[str], digests: Callable[[Sequence[str]], Iterable[tuple[int, str]]]
    ) -> None:
        """Checks that inputs are those of the interrupted run. Their names may differ, their contents may not.

        Args:
            digests: returns size and digest of each file.

        Raises:
            CorpusError: an input has changed, or their number has.
        """
        if len(paths) != len(self.inputs):
            before = shortened([one.path for one in self.inputs])
            raise CorpusError(
                f"cannot resume: the run began with {len(self.inputs):,} inputs ({before}), and there are now "
                f"{len(paths):,} ({shortened(paths)}); name the same, or start over with -overwrite"
            )
        for known, path, (size, digest) in zip(self.inputs, paths, digests(paths), strict=True):
            if (size, digest) != (known.bytes, known.digest):
                raise CorpusError(
                    f"cannot resume: {path} has changed: {known.path} had {known.bytes:,} bytes with the digest "
                    f"{known.digest}, and now there are {size:,} with {digest}; start over with -overwrite"
                )


class OutputFolder:
    """A folder of parts. It is locked while a run writes into it.

    Args:
        path: the folder; it is made if it does not exist.
        resume: go on with an interrupted run.
        overwrite: replace the output of an earlier run, which `clear` does.

    Attributes:
        manifest: the manifest of the interrupted run; ``None`` for a new one.

    Raises:
        CorpusError: the folder holds other files, or the output of a run without ``resume`` and ``overwrite``, or
            another run writes into it.
    """

    def __init__(self, path: str, resume: bool, overwrite: bool) -> None:
        self.path = path
        self._made = not os.path.exists(path)
        if self._made:
            os.makedirs(path)
        self._require_own_files(resume, overwrite)
        self._records = try_lock(os.path.join(path, RECORDS))
        if self._records is None:
            raise CorpusError(f"another run writes into {path}; wait until it is done, or name another folder")
        try:
            self.manifest = self._load(resume, overwrite)
        except BaseException:
            self._records.close()
            raise

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlocks the folder. Without a manifest nothing was written, and an empty folder is removed."""
        assert self._records is not None
        if not os.path.exists(os.path.join(self.path, MANIFEST)):
            with suppress(OSError):  # Windows removes no open file
                os.remove(os.path.join(self.path, RECORDS))
                if self._made:
                    os.rmdir(self.path)
        self._records.close()

    def clear(self) -> None:
        """Removes the output of earlier runs; the manifest first, without which no part counts."""
        assert self._records is not None
        for name in sorted(os.listdir(self.path), key=lambda name: name != MANIFEST):
            if name != RECORDS:
                os.remove(os.path.join(self.path, name))
        self._records.truncate(0)

    def add(self, record: PartRecord) -> None:
        """Records a part whose file is complete."""
        assert self._records is not None
        self._records.write((json.dumps(record._asdict()) + "\n").encode())
        self._records.flush()
        os.fsync(self._records.fileno())

    def verified(
        self, parts: Sequence[Part], output_format: str, report: Callable[[str], None], progress: Callable[[int], None]
    ) -> set[int]:
        """Returns the numbers of the parts whose files are as they were written. Removes temporary files.

        Args:
            report: receives a sentence about each damaged part.
            progress: is called with numbers of rows that were checked.
        """
        for name in os.listdir(self.path):
            if name.startswith("."):
                os.remove(os.path.join(self.path, name))
        records = self._read_records()
        done = set()
        for part in parts:
            record = records.get(part.number)
            if record is None:
                continue
            name = part.name(output_format)
            try:
                found = digest_of(os.path.join(self.path, name), lambda size: None)
            except FileNotFoundError:
                report(f"{name} is missing, and is computed again")
                continue
            if found != (record.bytes, record.digest):
                report(
                    f"{name} is damaged, and is computed again: it had {record.bytes:,} bytes with the digest "
                    f"{record.digest}, and now has {found[0]:,} with {found[1]}"
                )
                continue
            done.add(part.number)
            progress(part.rows)
        return done

    def _require_own_files(self, resume: bool, overwrite: bool) -> None:
        """Checks that the folder has files of an earlier run only, and may be written to."""
        names = set(os.listdir(self.path))
        own = {MANIFEST, RECORDS} & names
        temporary = {temporary_name(MANIFEST)}
        strange = sorted(name for name in names if not (own and (name in own | temporary or _PART.fullmatch(name))))
        if strange:
            raise CorpusError(
                f"{self.path} has files that are not of an earlier run: {shortened(strange)}; "
                "name an empty or new folder"
            )
        if MANIFEST in names and not (resume or overwrite):
            raise CorpusError(f"{self.path} has the output of a run: -resume completes it, -overwrite replaces it")

    def _load(self, resume: bool, overwrite: bool) -> Manifest | None:
        self._require_own_files(resume, overwrite)  # again: now no other run changes it
        if overwrite or not os.path.exists(os.path.join(self.path, MANIFEST)):
            return None
        return Manifest.load(self.path)

    def _read_records(self) -> dict[int, PartRecord]:
        """Returns the last record of each part. A line that a killed run has not completed does not count."""
        assert self._records is not None
        self._records.seek(0)
        content = self._records.read()
        records = {}
        for line in content.splitlines():
            try:
                record = PartRecord(**json.loads(line))
            except (ValueError, TypeError):
                continue
            records[record.number] = record
        if content and not content.endswith(b"\n"):
            self._records.write(b"\n")
        return records
