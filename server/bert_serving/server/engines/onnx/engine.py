"""The engine onnx: ONNX Runtime on the CPU, in fp32 or int8.

``prepare`` writes the graph and the weights in the memory layout of ONNX Runtime. A worker maps the file, so it starts
in less than a second, and all workers of the machine share its pages.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ...model.architecture import Feature
from ...model.cache import Cache
from ...model.errors import ModelError
from ...model.weights import load_weights
from ..base import Device, EngineError, EngineInfo, EngineSpec, EngineUnavailable, Log, OutOfMemory
from ..batch import Batch
from ..cpu_info import num_cores, processor
from ..layout import (
    Layout,
    attention_mask,
    check_batch,
    encode_in_groups,
    make_layout,
    round_up,
    split_batch,
    split_groups,
)
from ..thread_pool import ThreadPool
from .grid import is_long, split_long

_DTYPES = ("fp32", "int8")
INFO = EngineInfo(
    "onnx",
    padding_free=True,
    dtypes={"cpu": _DTYPES},
    features=frozenset(Feature),
    deterministic=frozenset(_DTYPES),
)

#: Number of tokens computed at once, per thread: the activations fit in the CPU caches.
TOKENS_PER_THREAD = 256
#: Minimum number of tokens per thread at which each thread computes its own sequences. An int8 layer has many small
#: operators that run in one thread, so its minimum is lower.
SHARE_TOKENS = {"fp32": 128, "int8": 24}
#: Maximum number of attention scores of one head, ``[n, T, T]``, that are computed at once. A longer sequence is
#: computed in blocks of queries.
MAX_GRID = 1 << 20

#: Outputs of the graph.
_VECTORS, _TOKENS = 0, -1
#: With ``deterministic``, the width of the padded grid of attention is a multiple of this. On ARM, the softmax adds
#: the numbers after the last whole vector register, of 4 numbers, in another order than those before.
GRID_MULTIPLE = 4

_MODEL, _WEIGHTS = "model.onnx", "weights.bin"
#: Changes when equal models get other graphs, so that a server does not open the graphs of older versions.
_GRAPH_VERSION = 11


def unavailable(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> str | None:
    """Returns the reason why the engine cannot run here, or None; imports no library. Every processor is supported."""
    if dtype not in INFO.dtypes.get(device_kind, ()):
        return f"it supports fp32 and int8 on the CPU, not {dtype} on {device_kind}"
    missing = [name for name in ("onnxruntime", "onnx") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} missing; pip install onnxruntime onnx"
    return None


def import_onnxruntime() -> Any:
    """Imports ONNX Runtime without its telemetry."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read by the import
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # for older versions
    return onnxruntime


def prepare(spec: EngineSpec, log: Log, features: frozenset[str] | None = None) -> None:
    """Writes graph and weights to ``spec.cache_dir`` if they are missing.

    Args:
        spec: what to compute.
        log: receives a line per step.
        features: features of the processor as in ``/proc/cpuinfo``; None for those of this machine.

    Raises:
        ModelError: the model cannot be read, see ``load_weights``.
        CacheError: the cache cannot be written.
        ValueError: the model has no such pooling layer.
    """
    cache = spec.cache()
    cache_key = _cache_key(spec, cache, features)
    base = None
    if spec.model.adapter is not None and not spec.only_verified and cache.find("onnx", cache_key) is None:
        base = _prepare_base(spec, log, features)

    def write(folder: Path) -> None:
        _write(spec, folder, log, features)
        if base is not None:
            from .shared_weights import share_weights

            shared = share_weights(folder, _MODEL, _WEIGHTS, base, cache)
            log(f"{shared >> 20} MiB of the weights are those of the base model, in the same memory")

    cache.entry("onnx", cache_key, write)


def _prepare_base(spec: EngineSpec, log: Log, features: frozenset[str] | None) -> Path | None:
    """Returns the entry of the base model of an adapter; writes it if it is missing. None if it is not served alone."""
    base = replace(spec, model=replace(spec.model, adapter=None), model_digest="")
    cache = base.cache()
    log("prepare the base model")
    try:
        prepare(base, log, features)
    except ModelError as error:  # the adapter may bring a layer that it lacks
        log(f"the variant shares no weights with its base model: {error}")
    return cache.find("onnx", _cache_key(base, cache, features))


def create(spec: EngineSpec, device: Device, features: frozenset[str] | None = None) -> OnnxEngine:
    """Loads the files of ``prepare`` for the same ``features`` and runs the graph once.

    Raises:
        EngineUnavailable: ONNX Runtime is missing, or does not support the device.
        ModelError, CacheError: the cache has no such entry, and it cannot be built.
    """
    if (reason := unavailable(device.kind, spec.dtype)) is not None:
        raise EngineUnavailable(reason)
    return OnnxEngine(spec, device, features)


class OnnxEngine:
    """One model on the CPU; see ``base.Engine``."""

    def __init__(self, spec: EngineSpec, device: Device, features: frozenset[str] | None = None) -> None:
        cache = spec.cache()
        cache_key = _cache_key(spec, cache, features)
        folder = cache.find("onnx", cache_key)
        if folder is None:
            spec.require_files()
            prepare(spec, lambda _: None, features)
            folder = cache.find("onnx", cache_key)
        threads = device.threads or num_cores()
        self._spec = spec
        self._multiple = GRID_MULTIPLE if spec.deterministic else 1
        self._threads = threads
        with ThreadPoolExecutor(2) as pool:
            opened = pool.map(partial(_open, f"{folder}/{_MODEL}"), (threads, 1) if threads > 1 else (1,))
            sessions: list[Any] = [*opened, None]
        self._all_threads_session, self._single_thread_session = sessions[:2]  # of the same pages
        self._thread_pool = ThreadPool(threads, SHARE_TOKENS[spec.dtype])
        ones = np.ones(2, np.int32)
        self.encode(Batch(ones * 0, ones * 0, ones, np.array([2], np.int32)))

    def encode(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine.encode``."""
        return self._encode_all(batch, self._spec.is_token_level, _VECTORS)

    def encode_tokens(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine``."""
        return self._encode_all(batch, True, _TOKENS)

    def enqueue(self, batch: Batch, when_done: Callable[[], None]) -> Callable[[], np.ndarray] | None:
        """See ``base.Engine``."""
        self._check(batch)
        gives_tokens = self._spec.is_token_level
        single_thread = partial(self._encode, gives_tokens, _VECTORS, self._single_thread_session, 1)
        return self._thread_pool.enqueue(batch, gives_tokens, single_thread, when_done)

    def _check(self, batch: Batch) -> None:
        if self._all_threads_session is None:
            raise EngineError("the engine is closed")
        check_batch(batch, self._spec)

    def _encode_all(self, batch: Batch, gives_tokens: bool, output: int) -> np.ndarray:
        self._check(batch)
        if batch.num_sequences == 1:  # nothing to group or to share
            return _run(self._all_threads_session, output, self._multiple, batch)
        single_thread = partial(self._encode, gives_tokens, output, self._single_thread_session, 1)
        all_threads = partial(self._encode, gives_tokens, output, self._all_threads_session, self._threads)
        return self._thread_pool.encode(batch, gives_tokens, single_thread, all_threads)

    def _encode(self, gives_tokens: bool, output: int, session: Any, threads: int, batch: Batch) -> np.ndarray:
        multiple = self._multiple
        long, others = split_long(batch)
        groups = [group[part] for group in long for part in split_batch(batch.lengths[group], MAX_GRID)]
        if len(others):
            widths = round_up(batch.lengths[others], multiple)
            groups += [others[group] for group in split_batch(widths, MAX_GRID, max_waste=1.5, min_tokens=128)]
        groups = split_groups(groups, batch.lengths, TOKENS_PER_THREAD * max(2, threads))
        return encode_in_groups(batch, groups, gives_tokens, partial(_run, session, output, multiple))

    def close(self) -> None:
        """Releases the graph and the weights."""
        self._all_threads_session = self._single_thread_session = None
        self._thread_pool.close()


def _run(session: Any, output: int, multiple: int, batch: Batch) -> np.ndarray:
    """Returns one output of the graph for a batch; ``multiple`` as that of ``make_layout``.

    Raises:
        OutOfMemory: the batch does not fit in memory.
        EngineError: ONNX Runtime cannot compute it.
    """
    layout = make_layout(batch, multiple)
    if output == _TOKENS:  # a graph that selects one token of each sequence selects all
        every = np.arange(batch.num_tokens, dtype=np.int32)
        layout = replace(layout, first=every, last=every)
    try:
        return np.asarray(_compute(session, layout, output)[0])
    except Exception as error:  # the errors of ONNX Runtime have no common class
        sizes = f"{batch.num_sequences} sequences of at most {layout.unpack.shape[1]} tokens"
        if isinstance(error, MemoryError) or "allocate memory" in str(error) or "bad_alloc" in str(error):
            raise OutOfMemory(f"{sizes} do not fit in memory: {error}") from error
        raise EngineError(f"ONNX Runtime cannot compute {sizes}: {error}") from error


def _compute(session: Any, layout: Layout, output: int | None = None) -> list[np.ndarray]:
    """Returns all outputs of a graph for a layout, or a single one."""
    feeds = {}
    for feed in session.get_inputs():
        if feed.name == "attend":
            feeds[feed.name] = attention_mask(layout).astype(np.int32)
        elif feed.name == "is_long":
            feeds[feed.name] = np.array(is_long(layout))
        else:
            feeds[feed.name] = getattr(layout, feed.name)
    names = None if output is None else [session.get_outputs()[output].name]
    outputs: list[np.ndarray] = session.run(names, feeds)
    return outputs


def _open(
    graph: str | bytes,
    threads: int,
    constants: Mapping[str, np.ndarray] | None = None,
    write_to: Path | None = None,
    prepack: bool = True,
) -> Any:
    """Opens a session.

    Args:
        graph: path of a file with the graph, or its bytes.
        constants: large constants that the graph lacks. The session uses their memory, so they must outlive it.
        write_to: folder to which the session writes graph and weights, see ``_write``.
        prepack: write weights as the operators want them.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised
    # Shapes differ from batch to batch. ONNX Runtime would keep a memory plan for each shape indefinitely.
    options.enable_mem_pattern = False
    # Spin time in microseconds of threads that wait for work. The default is a few percent faster on an idle machine,
    # and a third slower on a busy one.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "10")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if constants:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in constants.values()]
        options.add_external_initializers(list(constants), values)
    if write_to is not None:
        from .graph import EXTERNAL_BYTES

        options.optimized_model_filepath = str(write_to / _MODEL)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _WEIGHTS)
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", str(EXTERNAL_BYTES)
        )
        options.add_session_config_entry("session.save_external_prepacked_constant_initializers", str(int(prepack)))
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _cache_key(spec: EngineSpec, cache: Cache, given: frozenset[str] | None) -> dict[str, object]:
    machine, features = processor(given)
    return {
        "graph": _GRAPH_VERSION,
        "model": spec.digest(cache),
        "act": spec.model.hidden_act,
        "layer_norm_eps": spec.model.layer_norm_eps,
        "dtype": spec.dtype,
        "output_dtype": spec.output_dtype,
        "pooling_strategy": spec.pooling_strategy,
        "layers": spec.layers,
        "one_query": spec.selects_token and not spec.deterministic,
        "use_position_embeddings": spec.use_position_embeddings,
        # The layout of the weights depends on the library and the processor.
        "onnxruntime": version("onnxruntime"),
        "processor": [machine, hashlib.sha256(" ".join(sorted(features)).encode()).hexdigest()],
    }


def _write(spec: EngineSpec, folder: Path, log: Log, features: frozenset[str] | None) -> None:
    from .encoder import build
    from .graph import dense_fp32, is_aligned
    from .int8 import APPROXIMATIONS, Int8, Probe, adds_in_16_bits, largest_peaks, probe_batch

    log(f"load parameters from checkpoint {spec.model.checkpoint}")
    layers = spec.layers
    weights = load_weights(spec.model, max(layers) + 1, spec.needs_pooler)
    counted = ", ".join(str(layer - spec.model.num_hidden_layers) for layer in layers)  # as -pooling_layer counts
    log(f"build graph of layer {counted}, {spec.dtype}")
    dense = dense_fp32
    if spec.dtype == "int8":
        probe, constants = Probe(), dict[str, np.ndarray]()
        model = build(spec, weights, probe, MAX_GRID, any_batch=True, constants=constants)
        session = _open(model.SerializeToString(), num_cores(), constants)
        layout = make_layout(probe_batch(spec.model.vocab_size, spec.model.max_tokens))
        peaks = largest_peaks(probe.scopes, _compute(session, layout)[1:])
        del session, constants
        act = APPROXIMATIONS.get(spec.model.hidden_act, spec.model.hidden_act)
        spec = replace(spec, model=replace(spec.model, hidden_act=act))
        # The product of gated units has no minimum.
        dense = Int8(peaks, "" if spec.model.architecture.gated else act, adds_in_16_bits(*processor(features)))
    # Opening the graph writes it with prepacked weights. All workers then share the pages of the file; otherwise each
    # worker would make a private copy.
    constants = {}
    model = build(spec, weights, dense, MAX_GRID, has_tokens=True, constants=constants)
    prepack = is_aligned(constants)
    if not prepack:
        log("weights whose sizes are no multiples of 64 bytes: each worker prepacks its own copy")
    _open(model.SerializeToString(), num_cores(), constants, folder, prepack)
