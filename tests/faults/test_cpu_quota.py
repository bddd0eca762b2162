"""A server in a container with a quota of processor time has the threads that the quota pays for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import ENTER

from servers import TINY

pytestmark = pytest.mark.minutes

_ROOT = Path("/sys/fs/cgroup")
_PERIOD = 100_000


@pytest.fixture
def one_core() -> Iterator[Path]:
    """A group, of version 1 or 2, whose processes get the time of one core."""
    version_1 = _ROOT / "cpu"
    is_v1 = (version_1 / "cpu.cfs_quota_us").exists()
    folder = (version_1 if is_v1 else _ROOT) / f"bert-serving-tests-{os.getpid()}"
    try:
        if not is_v1:
            (_ROOT / "cgroup.subtree_control").write_text("+cpu")
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a quota needs root and cpu cgroups: {error}")
    try:
        if is_v1:
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(str(_PERIOD))
        else:
            (folder / "cpu.max").write_text(f"{_PERIOD} {_PERIOD}")
        yield folder
    finally:
        folder.rmdir()


@pytest.mark.parametrize("arguments", [[], ["-num_worker", "auto"]])
def test_the_quota_sets_the_number_of_threads(one_core: Path, arguments: list[str]) -> None:
    start = [sys.executable, "-m", "bert_serving.server", "-check", "-cpu", "-engine", "zeros", "-model_dir", str(TINY)]
    command = [sys.executable, "-c", ENTER, str(one_core / "cgroup.procs"), *start, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "workers: 1: engine zeros, fp32, on cpu with 1 thread\n" in done.stdout
