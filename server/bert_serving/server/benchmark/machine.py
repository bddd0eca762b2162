"""Describes the machine and the versions of the libraries that a result depends on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from ..engines.cpu_info import num_cores
from ..version import __version__

_LIBRARIES = ("tensorflow", "tensorflow-cpu", "onnxruntime", "torch", "numpy", "pyzmq", "tokenizers", "msgspec")
#: CPU features that determine the speed of the engines.
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> dict[str, Any]:
    """Returns processor, cores, memory, GPUs and operating system."""
    lines = _cpuinfo()
    name = lines.get("model name") or platform.processor() or platform.machine()
    flags = lines.get("flags", "").split()
    facts: dict[str, Any] = {"processor": name, "cores": num_cores()}
    if flags:
        facts["features"] = [feature for feature in _FEATURES if feature in flags]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    facts["gpus"] = _gpu_names()
    facts["system"] = platform.platform()
    return facts


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this server and of each installed library."""
    found = {"python": platform.python_version(), "bert-serving-server": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> dict[str, str]:
    """Returns the ``/proc/cpuinfo`` entries of the first core; empty on systems other than Linux."""
    try:
        block = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _gpu_names() -> list[str]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver, or no response: no GPU
        return []
    try:
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
