"""Keeps prepacked weights in the cache; a process of its own writes them (``prepacked.py``).

If that process fails or crashes, the server starts without them, and each worker prepacks its own copy.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from ...model.cache import Cache, CacheError, NotVerified
from ..base import EngineError, EngineSpec, Log
from ..cpu_info import describe_processor
from . import weights as torch_weights
from .shared_weights import share_prepacked

_KIND = "torch-prepacked"
#: Size of the file of weights below which each worker has a copy: the process takes longer than they are worth.
MIN_BYTES = 16 << 20
#: Seconds after which the process ends.
_SECONDS = 300.0
#: The process reads the search path of modules and its arguments from standard input. On Linux it gets SIGKILL when
#: the thread that started it ends (PR_SET_PDEATHSIG of linux/prctl.h).
_PROGRAM = f"""
import ctypes, faulthandler, json, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
faulthandler.dump_traceback_later({_SECONDS}, exit=True)
sys.path[:], arguments = json.load(sys.stdin)
from {__package__}.prepacked import main
main(*arguments)
"""


class _NotWritten(EngineError):
    """The process that writes an entry has failed."""


def write(spec: EngineSpec, weights: Path, log: Log) -> None:
    """Writes the prepacked weights for ``spec.cpu_threads`` to the cache if they are missing.

    Small models have none, see ``MIN_BYTES``.

    Args:
        weights: the file of ``weights.write``.

    Raises:
        NotVerified: the cache has not verified the entry, see ``Cache.entry``.
    """
    if not spec.cpu_threads or torch_weights.size_of(weights) < MIN_BYTES:
        return
    cache = spec.cache()
    key = _cache_key(spec, cache)
    base = None
    if (base_spec := torch_weights.base_of(spec)) and cache.find(_KIND, key) is None:
        if (of_base := torch_weights.find(base_spec)) is not None:
            write(base_spec, of_base, log)
        base = find(base_spec)

    def build(folder: Path) -> None:
        log("write prepacked weights for all workers")
        _run(weights, folder, spec.cpu_threads)
        if base is not None:
            share_prepacked(folder, base, cache)

    try:
        cache.entry(_KIND, key, build)
    except NotVerified:
        raise
    except (_NotWritten, CacheError) as error:
        log(f"each worker prepacks a copy of the weights: {error}")


def find(spec: EngineSpec) -> Path | None:
    """Returns the folder with the prepacked weights for ``spec.cpu_threads``, or None."""
    cache = spec.cache()
    return cache.find(_KIND, _cache_key(spec, cache)) if spec.cpu_threads else None


def _run(weights: Path, folder: Path, threads: tuple[int, ...]) -> None:
    """Runs the process.

    Raises:
        _NotWritten: it has failed, crashed, or not ended in time.
    """
    path = [entry for entry in sys.path if isinstance(entry, str)]
    given = json.dumps([path, [str(weights), str(folder), threads]])
    command = [sys.executable, "-c", _PROGRAM]
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(threads)), "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        done = subprocess.run(command, input=given.encode(), capture_output=True, env=environment, check=False)
    except OSError as error:
        raise _NotWritten(f"the process that writes them cannot start ({error})") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no output"]
        reason = next((line for line in lines if line.startswith("Timeout (")), lines[-1])  # that of faulthandler
        raise _NotWritten(f"the process that writes them ended with exit code {done.returncode} ({reason})")


def _cache_key(spec: EngineSpec, cache: Cache) -> dict[str, object]:
    """Returns all that the layout depends on. The last three determine what oneDNN chooses."""
    return {
        "weights": torch_weights.cache_key(spec, cache),
        "torch": _build(),
        "processor": describe_processor(),
        "threads": list(spec.cpu_threads),
        "environment": {name: value for name, value in os.environ.items() if name.startswith(("ONEDNN_", "DNNL_"))},
    }


def _build() -> str:
    """Returns a digest of PyTorch's ``version.py``, which names version and commit; empty if the file is missing."""
    found = importlib.util.find_spec("torch")
    try:
        return hashlib.sha256((Path((found and found.origin) or ".").parent / "version.py").read_bytes()).hexdigest()
    except OSError:
        return ""
