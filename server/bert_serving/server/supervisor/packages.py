"""Checks before the model is prepared that the packages for the options and the model are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from ..config.server_config import ServerConfig
from ..engines import load
from ..errors import StartError
from ..model.config import ModelConfig
from ..tokenization.vocabulary import read_vocabulary

#: Modules of each extra of bert-serving-server that a feature imports.
_HTTP = (
    "flask", "flask_compress", "flask_cors", "flask_json", "httptools", "orjson", "prometheus_client", "uvicorn",
)  # fmt: skip
_ENGINES = {"onnx": ("onnxruntime", "onnx"), "tensorflow": ("tensorflow",), "torch": ("torch",)}
_READERS = {"tf1": ("tensorflow-cpu", ("tensorflow",)), "pytorch": ("torch", ("torch",))}


def require_packages(
    config: ServerConfig, model: ModelConfig, is_installed: Callable[[str], bool] | None = None
) -> None:
    """Checks that all packages are installed; no package is imported.

    Raises:
        StartError: some are missing; the message names all of them, what needs them, and one command that installs
            them.
    """
    is_installed = is_installed or (lambda name: importlib.util.find_spec(name) is not None)

    def missing(modules: tuple[str, ...]) -> list[str]:
        return [name for name in modules if not is_installed(name)]

    lacks: dict[str, str] = {}
    if config.http_port is not None and (names := missing(_HTTP)):
        lacks["http"] = f"{', '.join(names)} (for -http_port)"
    engines = _engines(config, model)
    absent = {engine: names for engine in engines if (names := missing(_ENGINES[engine]))}
    if config.num_worker and engines and len(absent) == len(engines):
        engine = engines[0]
        extra = "tensorflow-cpu" if engine == "tensorflow" and config.cpu else engine
        lacks[extra] = f"{', '.join(absent[engine])} (for -engine {config.engine})"
    if missing(("tokenizers",)) and model.vocab_path.endswith(".json") and read_vocabulary(model.vocab_path) is None:
        lacks["tokenizers"] = f"tokenizers (for {model.vocab_path})"
    if not lacks:
        return
    # A prepared model in the cache is not read again, so a reader alone is no reason to refuse the start.
    files = [(model.checkpoint_format, model.checkpoint)]
    files += [(model.adapter.weights_format, model.adapter.weights)] if model.adapter is not None else []
    for kind, path in files:
        extra, modules = _READERS.get(kind, ("", ()))
        if config.num_worker and (names := missing(modules)) and not {extra, extra.partition("-")[0]} & lacks.keys():
            lacks[extra] = f"{', '.join(names)} (to read {path})"
    raise StartError(
        f"packages are missing: {'; '.join(lacks.values())}. Install them: "
        f"pip install 'bert-serving-server[{','.join(lacks)}]'"
    )


def _engines(config: ServerConfig, model: ModelConfig) -> list[str]:
    """Returns the engines with a library of which one must be installed: those that compute the model."""
    if config.engine in _ENGINES:
        return [config.engine]
    if config.engine not in ("auto", "measure"):
        return []
    kinds = ("cpu",) if config.cpu else ("cpu", "gpu")
    info = {name: load(name).INFO for name in _ENGINES}
    able = [
        name
        for name, each in info.items()
        if model.features <= each.features
        and (config.dtype == "auto" or any(config.dtype in each.dtypes.get(kind, ()) for kind in kinds))
    ]
    return able or list(_ENGINES)
