"""The engine torch: PyTorch over packed tokens, on a GPU or on a CPU with AMX.

``prepare`` writes the weights to the cache (``weights.py``). A worker maps them, or copies them to its GPU. The engine
tests the faster kernels when it starts (``device.py``, ``onednn.py``) and reports its choice in ``startup_notes``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...model.architecture import Feature
from ...model.cache import Cache
from ..base import Device, DeviceLost, EngineError, EngineInfo, EngineSpec, EngineUnavailable, Log, OutOfMemory
from ..batch import Batch
from ..cpu_info import why_no_bf16
from ..layout import (
    attention_mask,
    check_batch,
    encode_in_groups,
    make_layout,
    padded_rows,
    split_batch,
    split_groups,
    token_positions,
)
from ..thread_pool import ThreadPool
from . import prepacked_entry
from . import weights as torch_weights

INFO = EngineInfo(
    name="torch",
    padding_free=True,
    dtypes={"cpu": ("fp32", "bf16"), "gpu": ("fp32", "bf16", "fp16")},
    features=frozenset(Feature),
)

#: Maximum number of elements of the attention scores of all heads, ``[n, heads, T, T]``, with a padded grid.
MAX_SCORES = {"cpu": 16 << 20, "gpu": 128 << 20}

#: Number of tokens computed at once on the CPU, per thread: the activations fit in the CPU caches.
TOKENS_PER_THREAD = 224
#: Minimum number of tokens per CPU thread at which each thread computes its own sequences.
SHARE_TOKENS = 192

#: Messages of out-of-memory errors that have no class: CPU allocator, pinned memory, cuBLAS.
_OUT_OF_MEMORY = ("allocate memory", "out of memory", "ALLOC_FAILED")


def unavailable(device_kind: str, dtype: str, features: frozenset[str] | None = None) -> str | None:
    """Returns the reason why the engine cannot run here, or None; imports no library.

    Args:
        device_kind: ``cpu`` or ``gpu``.
        dtype: a dtype of ``EngineSpec``.
        features: features of the processor as in ``/proc/cpuinfo``; None for those of this machine.
    """
    dtypes = INFO.dtypes.get(device_kind, ())
    if (device_kind, dtype) == ("cpu", "fp16"):
        return "CPUs have no fast fp16; compute in fp32 and convert the vectors to float16"
    if (device_kind, dtype) == ("cpu", "bf16") and (reason := why_no_bf16(features)):
        return reason
    if dtype not in dtypes:
        return f"it supports {', '.join(dtypes)} on {device_kind}, not {dtype}"
    found = importlib.util.find_spec("torch")
    if found is None:
        return "PyTorch is not installed; pip install torch"
    if device_kind == "gpu" and _is_cpu_build(found.origin):
        return "the installed PyTorch was built without CUDA; pip install torch, from an index with CUDA builds"
    return None


def _is_cpu_build(origin: str | None) -> bool:
    """Returns whether PyTorch's ``version.py`` says that it was built without CUDA; False if the file is missing."""
    try:
        text = (Path(origin or ".").parent / "version.py").read_text("utf-8")
    except OSError:
        return False
    return re.search(r"^cuda\b[^=\n]*= *None", text, re.MULTILINE) is not None


def prepare(spec: EngineSpec, log: Log) -> None:
    """Writes the weights to ``spec.cache_dir`` if they are missing, and the prepacked ones; see ``weights.write``."""
    prepacked_entry.write(spec, torch_weights.write(spec, log), log)


def create(spec: EngineSpec, device: Device) -> TorchEngine:
    """Loads the files of ``prepare`` on ``device`` and encodes once.

    Raises:
        EngineUnavailable: PyTorch or the device is missing.
        OutOfMemory: the weights do not fit on the device.
        ModelError, CacheError: the cache has no such entry, and it cannot be built.
    """
    if (reason := unavailable(device.kind, spec.dtype)) is not None:
        raise EngineUnavailable(reason)
    return TorchEngine(spec, device)


class TorchEngine:
    """One model on one device; see ``base.Engine``.

    Attributes:
        startup_notes: log lines that describe how the engine uses its device.
    """

    def __init__(self, spec: EngineSpec, device: Device) -> None:
        try:
            import torch
        except ImportError as error:
            raise EngineUnavailable(f"PyTorch cannot be imported ({error}); pip install torch") from error
        from . import attention as torch_attention
        from . import device as torch_device
        from . import encoder as torch_encoder

        self._torch = torch
        self._spec = spec
        self._is_lost = torch_device.is_lost
        self._feeds = torch_attention.Feeds
        self._grid = torch_attention.Grid
        # Disentangled attention holds the scores, two biases and their sources at once.
        copies = 1 if spec.model.architecture.disentangled is None else 4
        self._max_grid = MAX_SCORES[device.kind] // spec.model.num_attention_heads // copies
        self._device = torch_device.open_device(device, spec.dtype)
        self.startup_notes = torch_device.device_notes(self._device, spec.dtype)
        path = torch_weights.find(spec)
        if path is None:
            spec.require_files()
            path = torch_weights.write(spec, lambda _: None)
        try:
            weights = torch_weights.load(path, self._device)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"the model does not fit in the free memory of {device}; raise -gpu_memory_fraction "
                f"({device.memory_fraction}), or start fewer workers on this GPU: {error}"
            ) from error
        self._encoder: Any = torch_encoder.Encoder(spec, weights)
        self._encoder.attention.max_scores = self._max_grid * spec.model.num_attention_heads
        self._num_threads = 1
        self._thread_pool = ThreadPool(1, SHARE_TOKENS)
        self._graphs: Any = None
        if device.kind == "gpu":
            self._enable_gpu_kernels()
            self.start = self._start
        else:
            self._prepack_weights(weights)
        self._smoke_test()

    def _prepack_weights(self, weights: dict[str, Any]) -> None:
        """Uses prepacked weights and threads that compute separate sequences, if oneDNN passes its test."""
        from . import onednn

        torch, num_threads = self._torch, self._torch.get_num_threads()
        prepacked = prepacked_entry.find(self._spec)
        with torch.inference_mode():
            layers, note = onednn.select_dense_layers(self._spec, weights, self._encoder.dense, prepacked)
        self.startup_notes.append(note)
        if layers is self._encoder.dense:
            return
        self._encoder.dense = layers
        # Each thread of the pool computes with one thread. ``set_num_threads`` affects every thread that has not read
        # the number yet; the calling thread has.
        self._thread_pool = ThreadPool(num_threads, SHARE_TOKENS, partial(torch.set_num_threads, 1))
        self._num_threads = num_threads

    def _enable_gpu_kernels(self) -> None:
        """Uses packed attention, fused and compiled kernels, and CUDA graphs, each if it passes its test."""
        from . import device as torch_device

        model, encoder = self._spec.model, self._encoder
        dtype = getattr(self._torch, torch_weights.DTYPES[self._spec.dtype])
        encoder.packed_attention, note = torch_device.find_packed_attention(self._device, dtype, model)
        self.startup_notes.append(note)
        if self._spec.dtype == "fp32":
            return
        encoder.dense.linear_gelu, about_gelu = torch_device.find_linear_gelu(self._device, dtype, model)
        self.startup_notes += [about_gelu] if about_gelu else []
        self._compile_kernels(dtype)
        if encoder.packed_attention is not None:
            self._capture_graphs()

    def _compile_kernels(self, dtype: Any) -> None:
        """Uses compiled layer normalization of sums and compiled embeddings, if they pass their tests."""
        from . import device as torch_device
        from . import encoder as torch_encoder

        model, encoder = self._spec.model, self._encoder
        device, eps, folder = self._device, model.layer_norm_eps, Cache(self._spec.cache_dir).root
        notes = []
        with self._torch.inference_mode():
            if not model.architecture.pre_norm:  # else there is no layer normalization of a sum
                encoder.dense.add_norm, note = torch_device.compile_add_norm(
                    device, dtype, model.hidden_size, eps, folder
                )
                notes.append(note)
            if tables := encoder.embedding_tables:
                compiled, note = torch_device.compile_embed(device, dtype, tables, eps, folder)
                encoder.embed = None if compiled is torch_encoder.embed else compiled
                notes.append(note)
        if encoder.dense.add_norm is not torch_encoder.add_norm or encoder.embed is not None:
            try:
                with self._torch.compiler.set_stance("fail_on_recompile"):
                    self._smoke_test()
            except EngineError as error:  # they do not support the tensors of the encoder
                encoder.dense.add_norm, encoder.embed = torch_encoder.add_norm, None
                notes = [f"no kernel is compiled ({torch_device.one_line(error)})"]
        self.startup_notes += notes

    def _capture_graphs(self) -> None:
        """Uses CUDA graphs for small batches, if they pass their test."""
        from . import cuda_graphs
        from . import device as torch_device

        try:
            capture = cuda_graphs.cuda_capture(self._device)
            self._graphs = cuda_graphs.capture_graphs(self._encoder, self._spec, self._device, capture)
        except Exception as error:  # what cannot be captured raises a different error on each release
            self._release_memory()
            self.startup_notes.append(f"small batches without CUDA graphs ({torch_device.one_line(error)})")
            return
        self.startup_notes.append(str(self._graphs))

    def _smoke_test(self) -> None:
        """Encodes two short sequences."""
        length = min(8, self._spec.model.max_tokens)
        ones = np.ones(2 * length, np.int32)
        self.encode(Batch(ones * 0, ones * 0, ones, np.array([length, length], np.int32)))

    def encode(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine.encode``."""
        return self._encode_all(batch, False)

    def encode_tokens(self, batch: Batch) -> np.ndarray:
        """See ``base.Engine``."""
        return self._encode_all(batch, True)

    def _start(self, batch: Batch) -> Callable[[], np.ndarray]:
        """See ``base.Engine``."""
        if not self._is_packed(batch):
            return partial(self._encode_all, batch, False)
        return self._launch(False, batch, is_packed=True)

    def _is_packed(self, batch: Batch) -> bool:
        """Returns whether a batch needs no padded grid; checks it before."""
        if self._encoder is None:
            raise EngineError("the engine is closed")
        check_batch(batch, self._spec)
        return self._encoder.packed_attention is not None and bool(batch.mask.all())

    def _encode_all(self, batch: Batch, is_unpooled: bool) -> np.ndarray:
        if self._is_packed(batch):
            return self._run(is_unpooled, batch, is_packed=True)
        single_thread = partial(self._encode, is_unpooled, 1)
        all_threads = partial(self._encode, is_unpooled, self._num_threads)
        return self._thread_pool.encode(batch, self._gives_tokens(is_unpooled), single_thread, all_threads)

    def _gives_tokens(self, is_unpooled: bool) -> bool:
        """Returns whether a row of the result is that of a token."""
        return is_unpooled or self._spec.is_token_level

    def _encode(self, is_unpooled: bool, threads: int, batch: Batch) -> np.ndarray:
        groups = split_batch(batch.lengths, self._max_grid)
        if self._device.type == "cpu":
            groups = split_groups(groups, batch.lengths, TOKENS_PER_THREAD * max(2, threads))
        return encode_in_groups(batch, groups, self._gives_tokens(is_unpooled), partial(self._run, is_unpooled))

    def close(self) -> None:
        """Releases the weights and the memory of a GPU."""
        self._encoder = self._graphs = None
        self._thread_pool.close()
        self._release_memory()

    def _run(self, is_unpooled: bool, batch: Batch, is_packed: bool = False) -> np.ndarray:
        return self._launch(is_unpooled, batch, is_packed)()

    def _launch(self, is_unpooled: bool, batch: Batch, is_packed: bool) -> Callable[[], np.ndarray]:
        """Starts the computation of a batch. Returns a function that waits for the vectors.

        Args:
            is_unpooled: they are those of tokens before pooling.
        """
        rows = batch.num_tokens if self._gives_tokens(is_unpooled) else batch.num_sequences
        with self._errors_of(batch), self._torch.inference_mode():
            graph = None
            if is_packed and self._graphs is not None and not is_unpooled:
                graph = self._graphs.find(batch)
            if graph is None:
                vectors = self._encoder(self._to_device(batch, is_packed), is_unpooled)
            else:
                vectors = graph.encode(batch)
            wait = self._to_host(vectors[:rows])

        def finish() -> np.ndarray:
            with self._errors_of(batch):
                return wait()

        return finish

    @contextlib.contextmanager
    def _errors_of(self, batch: Batch) -> Iterator[None]:
        """Raises the errors of ``base.Engine.encode`` in place of PyTorch's."""
        torch = self._torch
        shape = f"{batch.num_sequences} sequences of up to {batch.lengths.max()} tokens"
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._release_memory()
            raise OutOfMemory(f"{shape} do not fit on {self._device}: {error}") from error
        except RuntimeError as error:
            if self._is_lost(self._device):
                raise DeviceLost(f"{self._device} no longer responds after a batch of {shape}: {error}") from error
            if any(message in str(error) for message in _OUT_OF_MEMORY):
                self._release_memory()
                raise OutOfMemory(f"{shape} do not fit on {self._device}: {error}") from error
            raise EngineError(f"PyTorch cannot compute {shape}: {error}") from error

    def _release_memory(self) -> None:
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _to_device(self, batch: Batch, is_packed: bool) -> Any:
        """Copies the inputs of the encoder to its device in a single transfer."""
        is_padded = self._encoder.dense.row_step > 1 and not is_packed
        rows = padded_rows(batch.num_tokens) if is_padded else batch.num_tokens
        arrays, longest = host_arrays(batch, is_packed, rows)
        sizes = [array.size for array in arrays.values()]
        on_gpu = self._device.type == "cuda"
        # Pinned memory comes from PyTorch's pool, which waits for pending copies.
        staged = self._torch.empty(sum(sizes), dtype=self._torch.int32, pin_memory=on_gpu)
        np.concatenate([array.ravel() for array in arrays.values()], out=staged.numpy(), casting="same_kind")
        views = staged.to(self._device, non_blocking=True).split(sizes)
        tensors = dict(zip(arrays, views, strict=True))
        grid = None
        if not is_packed:
            attend = tensors.get("attend")
            if attend is not None:
                attend = attend.bool().view(batch.num_sequences, 1, 1, longest)
            grid = self._grid(tensors.get("unpack"), tensors.get("pack"), attend)
        return self._feeds(
            input_ids=tensors["input_ids"],
            type_ids=tensors["type_ids"],
            positions=tensors["positions"],
            ends=tensors["ends"],
            num_tokens=batch.num_tokens,
            longest=longest,
            mask=tensors.get("mask"),
            grid=grid,
        )

    def _to_host(self, vectors: Any) -> Callable[[], np.ndarray]:
        """Starts to copy a tensor. Returns a function that waits for the array."""
        if self._device.type == "cpu":
            return lambda: np.asarray(vectors.numpy())
        torch = self._torch
        result = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
        result.copy_(vectors, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

        def wait() -> np.ndarray:
            copied.synchronize()
            return np.asarray(result.numpy())

        return wait


def host_arrays(batch: Batch, is_packed: bool, rows: int) -> tuple[dict[str, np.ndarray], int]:
    """Returns the integer inputs of the encoder by the names of ``attention.Feeds``, and the maximum length.

    Inputs that have no effect are left out.

    Args:
        rows: number of rows of the dense layers. Those behind the tokens are zeros, in no sequence.
    """
    spare = np.zeros(rows - batch.num_tokens, np.int32)
    positions, ends = token_positions(batch.lengths)
    arrays = {
        "input_ids": np.concatenate([batch.input_ids, spare]),
        "type_ids": np.concatenate([batch.type_ids, spare]),
        "positions": np.concatenate([positions, spare]),
        "ends": ends,
    }
    if not batch.mask.all():
        arrays["mask"] = batch.mask
    if not is_packed:
        layout = make_layout(batch)
        if layout.unpack.size != batch.num_tokens or len(spare):
            arrays |= {"unpack": layout.unpack, "pack": np.concatenate([layout.pack, spare])}
        attend = attention_mask(layout)
        if not attend.all():
            arrays["attend"] = attend
    return arrays, int(batch.lengths.max())
