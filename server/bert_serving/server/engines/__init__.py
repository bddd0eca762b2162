"""Lists the engines and chooses one for a device and a dtype."""

from __future__ import annotations

import importlib
from types import ModuleType

from ..model.architecture import Feature
from .base import EngineInfo, EngineUnavailable
from .cpu_info import has_amx

#: Order in which ``choose("auto", ...)`` tries the engines, the fastest first, by kind of device; see ``preference``.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("onnx", "tensorflow", "torch"),
    "gpu": ("torch", "tensorflow", "onnx"),
}

#: Modules of this package that provide the four names of ``base.py``. ``zeros`` is for measurements; auto never chooses
#: it.
NAMES: tuple[str, ...] = (*PREFERENCE["cpu"], "zeros")


def load(name: str) -> ModuleType:
    """Imports the module of the engine ``name``; the library of the engine is not imported yet.

    A name with a dot is the import path of an external engine, such as ``my_project.my_engine``: a module that
    provides the four names of ``base.py``.

    Raises:
        EngineUnavailable: no engine has that name, or the module cannot be imported.
    """
    if "." in name:
        return _load_own(name)
    if name not in NAMES:
        raise EngineUnavailable(f"unknown engine {name!r}; choose auto or one of {', '.join(NAMES)}")
    return importlib.import_module(f"{__name__}.{name}" if name == "zeros" else f"{__name__}.{name}.engine")


def _load_own(path: str) -> ModuleType:
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise EngineUnavailable(f"engine {path} cannot be imported ({error}); add its folder to PYTHONPATH") from error
    missing = [name for name in ("INFO", "unavailable", "prepare", "create") if not hasattr(module, name)]
    if missing:
        raise EngineUnavailable(
            f"module {path} is not an engine: it lacks {', '.join(missing)}; see bert_serving.server.engines.base"
        )
    return module


def preference(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> tuple[str, ...]:
    """Returns the engines in the order in which ``choose("auto", ...)`` tries them, the fastest first."""
    if (device_kind, dtype) == ("cpu", "bf16") and has_amx(features):
        return "torch", "tensorflow"  # without AMX, tensorflow is faster
    return PREFERENCE[device_kind]


def available(
    device_kind: str,
    dtype: str,
    features: frozenset[str] | None = None,
    needs: frozenset[Feature] = frozenset(),
    deterministic: bool = False,
) -> list[EngineInfo]:
    """Returns the engines that can compute in ``dtype`` on ``device_kind`` (cpu or gpu), the preferred one first.

    No library is imported. A GPU may therefore still fail when an engine opens it.
    """
    wanted = (device_kind, dtype, features, needs, deterministic)
    return [load(name).INFO for name in preference(device_kind, dtype, features) if why_not(name, *wanted) is None]


def why_not(
    name: str,
    device_kind: str,
    dtype: str,
    features: frozenset[str] | None,
    needs: frozenset[Feature],
    deterministic: bool,
) -> str | None:
    """Returns the reason why an engine cannot run the model here; an external engine takes no features."""
    module = load(name)
    if missing := [feature.value for feature in Feature if feature in needs - module.INFO.features]:
        others = [other for other in PREFERENCE["cpu"] if needs <= load(other).INFO.features]
        remedy = f"use -engine {' or '.join(others)}" if others else "serve the model with its own library"
        return f"it does not compute {', '.join(missing)}, which the model has; {remedy}"
    if deterministic and dtype not in module.INFO.deterministic:
        return (
            f"the bits of its vectors in {dtype} may depend on the batch, which -deterministic rules out; use -engine "
            "onnx -dtype fp32 or int8 on the CPU, or remove -deterministic"
        )
    given = () if features is None or "." in name else (features,)
    reason: str | None = module.unavailable(device_kind, dtype, *given)
    return reason


def choose(
    name: str,
    device_kind: str,
    dtype: str,
    features: frozenset[str] | None = None,
    needs: frozenset[Feature] = frozenset(),
    deterministic: bool = False,
) -> str:
    """Returns the name of the engine to use.

    Args:
        name: requested engine, or ``auto``.
        device_kind: ``cpu`` or ``gpu``.
        dtype: ``fp32``, ``bf16``, ``fp16`` or ``int8``.
        features: features of the processor as in ``/proc/cpuinfo``; None for those of this machine.
        needs: ``ModelConfig.features`` of the model.
        deterministic: the bits of a vector must not depend on the batch.

    Raises:
        EngineUnavailable: the engine cannot run here, or with ``auto`` no engine can. The message lists the reasons and
            the packages to install.
    """
    wanted = (device_kind, dtype, features, needs, deterministic)
    if name != "auto":
        reason = why_not(name, *wanted)
        if reason is not None:
            raise EngineUnavailable(f"engine {name} cannot run on {device_kind} with dtype {dtype}: {reason}")
        return name
    if usable := available(*wanted):
        return usable[0].name
    candidates = preference(device_kind, dtype, features)
    reasons = [f"{candidate}: {why_not(candidate, *wanted)}" for candidate in candidates]
    raise EngineUnavailable(f"no engine can run on {device_kind} with dtype {dtype}; {'; '.join(reasons)}")
