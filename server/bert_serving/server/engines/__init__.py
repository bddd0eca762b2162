"""The engines there are, and which of them to take for a device and a dtype."""

from __future__ import annotations

import importlib
from types import ModuleType

from .base import EngineInfo, EngineUnavailable
from .cpu_info import has_amx

#: Order in which ``choose("auto", ...)`` asks, the fastest first, by the kind of device; see also ``preference``.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("onnx", "tensorflow", "torch"),
    "gpu": ("torch", "tensorflow", "onnx"),
}

#: Modules of this package that offer the four names of ``base.py``. ``zeros`` is for measuring, never chosen by auto.
NAMES: tuple[str, ...] = (*PREFERENCE["cpu"], "zeros")


def load(name: str) -> ModuleType:
    """The module of the engine ``name``; its library is not imported yet.

    A name with a dot is the import path of an engine that is not part of this package, such as
    ``my_project.my_engine``: a module that offers the four names of ``base.py``.

    Raises:
        EngineUnavailable: there is no engine of that name.
    """
    if "." in name:
        return _load_own(name)
    if name not in NAMES:
        raise EngineUnavailable(f"there is no engine {name!r}; choose auto or one of {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}" if name == "zeros" else f"{__name__}.{name}.engine")


def _load_own(path: str) -> ModuleType:
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise EngineUnavailable(
            f"the engine {path} cannot be imported ({error}); is the folder it lies in on PYTHONPATH?"
        ) from error
    missing = [name for name in ("INFO", "unavailable", "prepare", "create") if not hasattr(module, name)]
    if missing:
        raise EngineUnavailable(
            f"{path} is no engine: it lacks {', '.join(missing)}; see bert_serving.server.engines.base"
        )
    return module


def preference(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> tuple[str, ...]:
    """Engines in the order in which ``choose("auto", ...)`` asks, the fastest first."""
    if (device_kind, dtype) == ("cpu", "bf16") and has_amx(features):
        return "torch", "tensorflow"  # elsewhere it is the other way round
    return PREFERENCE[device_kind]


def available(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> list[EngineInfo]:
    """Engines that can compute in ``dtype`` on this machine's ``device_kind`` (cpu or gpu), the preferred first.

    Says only what can be known without importing a library: a GPU that is there may still refuse.
    """
    names = preference(device_kind, dtype, features)
    return [load(name).INFO for name in names if _why_not(name, device_kind, dtype, features) is None]


def _why_not(name: str, device_kind: str, dtype: str, features: frozenset[str] | None) -> str | None:
    """Ask an engine why it cannot run; one that is not of this package takes no features."""
    module = load(name)
    given = () if features is None or "." in name else (features,)
    reason: str | None = module.unavailable(device_kind, dtype, *given)
    return reason


def choose(name: str, device_kind: str, dtype: str, features: frozenset[str] | None = None) -> str:
    """Name of the engine to take.

    Args:
        name: what the user asked for, an engine's name or ``auto``.
        device_kind: ``cpu`` or ``gpu``.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        features: of the processor, as in ``/proc/cpuinfo``; those of this machine where none are given.

    Raises:
        EngineUnavailable: it cannot run here, or with ``auto`` none can; the message lists why and what to install.
    """
    if name != "auto":
        reason = _why_not(name, device_kind, dtype, features)
        if reason is not None:
            raise EngineUnavailable(f"engine {name} cannot run on {device_kind} with dtype {dtype}: {reason}")
        return name
    if usable := available(device_kind, dtype, features):
        return usable[0].name
    reasons = [
        f"{candidate}: {_why_not(candidate, device_kind, dtype, features)}"
        for candidate in preference(device_kind, dtype, features)
    ]
    raise EngineUnavailable(f"no engine can run on {device_kind} with dtype {dtype}; {'; '.join(reasons)}")
