"""The engine tensorflow: a graph over packed tokens, on the CPU or one GPU. It is the reference engine.

``prepare`` writes weights and graph to the cache (``saved_graph.py``). A worker maps them (``runtime.py``).
"""

from __future__ import annotations

import importlib.util
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...model.tensorflow_import import quiet_stderr
from ..base import Device, EngineError, EngineInfo, EngineSpec, EngineUnavailable, Log, OutOfMemory
from ..batch import Batch
from ..cpu_info import why_no_bf16
from ..layout import (
    Layout,
    check_batch,
    encode_in_groups,
    make_layout,
    make_padded_layout,
    select_sequences,
    split_batch,
)
from . import saved_graph
from .device import set_environment
from .graph import FEEDS
from .runtime import import_cpu_modules, open_runtime, runs_without_api

INFO = EngineInfo(
    name="tensorflow", padding_free=True, dtypes={"cpu": ("fp32", "bf16"), "gpu": ("fp32", "bf16", "fp16")}
)

#: Maximum number of elements of the attention scores of all heads, ``[n, heads, T, T]``, in one run of the graph.
MAX_SCORES = {"cpu": 16 << 20, "gpu": 128 << 20}
#: Shapes for XLA: lengths are the powers of two from this minimum, and the maximum length; numbers of sequences are
#: these.
XLA_MIN_LENGTH, XLA_COUNTS = 16, (1, 4, 16, 64)


def unavailable(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> str | None:
    """Returns the reason why the engine cannot run here, or None; imports no library.

    Args:
        device_kind: ``cpu`` or ``gpu``.
        dtype: a dtype of ``EngineSpec``.
        features: features of the processor as in ``/proc/cpuinfo``; None for those of this machine.
    """
    dtypes = INFO.dtypes.get(device_kind, ())
    if (device_kind, dtype) == ("cpu", "fp16"):
        return "TensorFlow has no fast fp16 on the CPU; compute in fp32 and convert the vectors to float16"
    if (device_kind, dtype) == ("cpu", "bf16") and (reason := why_no_bf16(features)):
        return reason
    if dtype not in dtypes:
        return f"it supports {', '.join(dtypes)} on {device_kind}, not {dtype}"
    if importlib.util.find_spec("tensorflow") is None:
        return f"TensorFlow is not installed; pip install {'tensorflow-cpu' if device_kind == 'cpu' else 'tensorflow'}"
    return None


def prepare(spec: EngineSpec, log: Log) -> None:
    """Writes weights and graph to ``spec.cache_dir`` if they are missing; see ``saved_graph.write``."""
    saved_graph.write(spec, log)


def import_for_cpu(device: Device, dtype: str, xla: bool) -> None:
    """Imports what ``create`` imports on the CPU without XLA."""
    set_environment(device, dtype)
    if runs_without_api(device, xla):
        with quiet_stderr():
            import_cpu_modules()


def create(spec: EngineSpec, device: Device) -> TensorflowEngine:
    """Loads the files of ``prepare`` on ``device`` and runs the graph once.

    Raises:
        EngineUnavailable: TensorFlow or the device is missing.
        ModelError, CacheError: the cache has no such entry, and it cannot be built.
    """
    if (reason := unavailable(device.kind, spec.dtype)) is not None:
        raise EngineUnavailable(reason)
    return TensorflowEngine(spec, device)


class TensorflowEngine:
    """One model on one device; see ``base.Engine``."""

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        set_environment(device, spec.dtype)
        self._spec = spec
        self._max_grid = MAX_SCORES[device.kind] // spec.model.num_attention_heads
        #: Log lines that describe how the engine uses its device.
        self.startup_notes: list[str] = []
        self._token_function: Any = None
        if not spec.xla:  # it would compile every shape again
            self.encode_tokens = self._encode_tokens
        folders = saved_graph.find(spec)
        if folders is None:
            spec.require_files()
            saved_graph.write(spec, lambda _: None)
            folders = saved_graph.find(spec)
            assert folders is not None
        with quiet_stderr():
            runtime = open_runtime(device, folders, spec.xla)
            self._errors, self._device_name = runtime.errors, runtime.device_name
            for fused in (True, False) if device.kind == "cpu" and not spec.xla else (False,):
                self._load: Any = partial(runtime.load, fused)
                self._function: Any = self._load(saved_graph.VECTORS)
                try:
                    self._compile() if spec.xla else self._warm_up()
                    break
                except OutOfMemory:
                    raise
                except EngineError:
                    if not fused:
                        raise

    def _compile(self) -> None:
        """Compiles every shape of a batch with XLA, so that no request waits for the compiler."""
        shapes = xla_shapes(self._spec.longest, self._max_grid)
        start = time.perf_counter()
        for length, counts in shapes.items():
            ones = np.ones(length, np.int32)
            batch = Batch(ones * 0, ones * 0, ones, np.array([length], np.int32))
            for count in counts:
                self._call(make_padded_layout(batch, count, length))
        listed = ", ".join(f"{'/'.join(map(str, counts))} x {length}" for length, counts in shapes.items())
        number = sum(map(len, shapes.values()))
        self.startup_notes.append(
            f"XLA: compiled {number} shapes in {time.perf_counter() - start:.1f} s: {listed} tokens"
        )

    def _warm_up(self) -> None:
        """Encodes one short sequence.

        oneDNN keeps the weight layout of the first call, and that of a short sequence suits all batches.
        """
        length = min(8, self._spec.model.max_tokens)
        ones = np.ones(length, np.int32)
        self.encode(Batch(ones * 0, ones * 0, ones, np.array([length], np.int32)))

    def encode(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine.encode``."""
        if self._function is None:
            raise EngineError("the engine is closed")
        check_batch(batch, self._spec)
        groups = split_batch(batch.lengths, self._max_grid)
        return encode_in_groups(batch, groups, self._spec.is_token_level, self._run)

    def _encode_tokens(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine``. The first call loads the graph again, for its other output."""
        if self._function is None:
            raise EngineError("the engine is closed")
        check_batch(batch, self._spec)
        if self._token_function is None:
            with quiet_stderr():
                self._token_function = self._load(saved_graph.TOKENS)
        groups = split_batch(batch.lengths, self._max_grid)
        return encode_in_groups(batch, groups, True, self._run_tokens)

    def _run_tokens(self, batch: Batch) -> np.ndarray:
        # A graph that selects one token of each sequence selects all.
        every = np.arange(batch.num_tokens, dtype=np.int32)
        return self._call(replace(make_layout(batch), first=every, last=every), self._token_function)

    def close(self) -> None:
        """Releases the graph and the weights; TensorFlow frees the memory of a GPU when the process ends."""
        self._function = self._token_function = self._load = None

    def _run(self, batch: Batch) -> np.ndarray:
        if not self._spec.xla:
            return self._call(make_layout(batch))
        width, counts = xla_bucket(int(batch.lengths.max()), xla_shapes(self._spec.longest, self._max_grid))
        results, start = [], 0
        for count in split_into_buckets(batch.num_sequences, counts):
            sub_batch, _ = select_sequences(batch, np.arange(start, min(start + count, batch.num_sequences)))
            results.append(self._run_grid(sub_batch, count, width))
            start += count
        return np.concatenate(results) if len(results) > 1 else results[0]

    def _run_grid(self, batch: Batch, count: int, width: int) -> np.ndarray:
        vectors = self._call(make_padded_layout(batch, count, width))
        if not self._spec.is_token_level:
            return np.ascontiguousarray(vectors[: batch.num_sequences])
        rows = np.repeat(np.arange(batch.num_sequences) * width, batch.lengths)
        return np.ascontiguousarray(vectors[rows + make_layout(batch).positions])

    def _call(self, layout: Layout, function: Any = None) -> np.ndarray:
        try:
            found: np.ndarray = (function or self._function)([getattr(layout, name) for name in FEEDS])
            return found
        except (self._errors.OpError, MemoryError) as error:
            shape = f"{layout.unpack.shape[0]} sequences of up to {layout.unpack.shape[1]} tokens"
            text = str(error)
            is_memory = isinstance(error, (self._errors.ResourceExhaustedError, MemoryError))
            if is_memory or "out of memory" in text.lower() or "OUT_OF_MEMORY" in text:
                raise OutOfMemory(f"{shape} do not fit on {self._device_name}: {text}") from error
            raise EngineError(f"TensorFlow cannot compute {shape}: {text}") from error


def xla_shapes(longest: int, max_grid: int) -> dict[int, tuple[int, ...]]:
    """Returns all shapes that XLA compiles: numbers of sequences by padded length, both ascending.

    XLA compiles once per shape. Batches are therefore padded to the next length and split into these numbers.

    Args:
        longest: maximum number of tokens of a sequence.
        max_grid: as in ``split_batch``; a single sequence may exceed it.
    """
    lengths = [XLA_MIN_LENGTH << power for power in range(32) if XLA_MIN_LENGTH << power < longest]
    return {
        length: tuple(count for count in XLA_COUNTS if count == 1 or count * length * length <= max_grid)
        for length in (*lengths, longest)
    }


def xla_bucket(length: int, shapes: dict[int, tuple[int, ...]]) -> tuple[int, tuple[int, ...]]:
    """Returns the padded length for sequences of ``length`` tokens, and its numbers of sequences."""
    return next(((width, counts) for width, counts in shapes.items() if width >= length), (length, (1,)))


def split_into_buckets(number: int, counts: tuple[int, ...]) -> list[int]:
    """Splits a batch into sub-batches whose sizes are in ``counts`` (ascending, from 1).

    The last sub-batch may be padded to less than twice its number of sequences.
    """
    sizes = []
    while number > 0:
        enough = next((count for count in counts if count >= number), None)
        size = enough if enough is not None and enough < 2 * number else max(c for c in counts if c <= number)
        sizes.append(size)
        number -= size
    return sizes
