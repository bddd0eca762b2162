"""A run that ends before any of its steps on disk leaves a folder that the next run completes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client._cli import part_files
from bert_serving.client._cli.manifest import Manifest, OutputFolder
from bert_serving.client._cli.part_files import Layout, PartWriter
from bert_serving.client._cli.parts import plan
from bert_serving.client._cli.rows import Rows

ROWS = 4
LAYOUT = Layout("npy", np.zeros(4, np.float32), "text", "vector", {}, None)


def write_folder(out: str, value: float, overwrite: bool = False) -> None:
    """Writes what is missing of three parts, as the command does; the vectors have one value."""
    parts = plan([3 * ROWS], ROWS)
    with OutputFolder(out, resume=not overwrite, overwrite=overwrite) as folder:
        done: set[int] = set()
        if folder.manifest is None:
            folder.clear()
            Manifest({"value": value}, [], []).save(out)
        else:
            done = folder.verified(parts, "npy", lambda text: None, lambda rows: None)
            value = folder.manifest.options["value"]
        for part in parts:
            if part.number not in done:
                writer = PartWriter(out, part, "text", LAYOUT)
                for first in (0, ROWS // 2):
                    rows = Rows(part.first + first, ["a"] * (ROWS // 2))
                    writer.append(rows, np.full((ROWS // 2, 4), value, np.float32))
                folder.add(writer.finish())


def read_folder(out: str) -> list[float]:
    """Returns the value of each row; a row with different values is an error."""
    arrays = [np.load(path) for path in sorted(Path(out).glob("part-*"))]
    assert [array.shape for array in arrays] == [(ROWS, 4)] * 3
    assert all((array == array[:, :1]).all() for array in arrays)
    return [float(value) for array in arrays for value in array[:, 0]]


def crash_before(step: int) -> None:
    """Ends this process before its ``step``-th change on disk; a write is cut in the middle."""
    left = step

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                if change is write:
                    change(args[0], memoryview(args[1]).cast("B")[:7])
                    args[0]._file.flush()
                os._exit(9)
            return change(*args, **kwargs)

        return run

    write = part_files._DigestWriter.write
    for name in ("replace", "fsync", "remove", "rmdir", "makedirs"):
        setattr(os, name, counted(getattr(os, name)))
    part_files._DigestWriter.write = counted(write)  # type: ignore[method-assign]


def crash_everywhere(folder: str, overwrite: bool) -> int:
    """Runs once for each step, and ends before it; returns the number of steps."""
    if overwrite:
        write_folder(f"{folder}/old", 1.0)
    for step in range(200):
        out = f"{folder}/{step}"
        if overwrite:
            shutil.copytree(f"{folder}/old", out)
        child = os.fork()
        if child == 0:
            crash_before(step)
            write_folder(out, 2.0, overwrite)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), f"step {step}"
        write_folder(out, 2.0)
        values = read_folder(out)
        assert len(set(values)) == 1, f"step {step}: rows of both runs"
        assert values[0] == 2.0 or (overwrite and step == 0), f"step {step}"
        assert {name for name in os.listdir(out) if name.startswith(".")} == set()
        if code == 0:
            return step
    raise AssertionError("a run never ends")


@pytest.mark.parametrize("overwrite", [False, True])
def test_every_step_may_be_the_last(tmp_path: Path, overwrite: bool) -> None:
    # In a process of its own, because a process with threads should not fork.
    code = f"import test_corpus_crashes as tests; print(tests.crash_everywhere({str(tmp_path)!r}, {overwrite}))"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20
