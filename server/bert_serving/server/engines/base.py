"""Defines the interface between a worker and an engine: one packed batch in, one array out.

An engine handles tensors and a device. It has no access to sockets, texts, clients or the vocabulary. The worker
process creates its engine and calls it from one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..model.architecture import Feature
from ..model.cache import Cache, CacheError
from ..model.config import ModelConfig
from .batch import Batch as Batch


@dataclass(frozen=True, slots=True)
class Device:
    """Device of an engine: the CPU with a number of threads, or one GPU by its index as the driver counts."""

    kind: str = "cpu"  # "cpu" or "gpu"
    index: int = 0
    threads: int = 0  # CPU threads of one operation; 0: the engine chooses
    memory_fraction: float = 0.5  # fraction of a GPU's memory that one worker may use
    cpus: tuple[int, ...] = ()  # logical CPUs to which the process is bound; empty: all

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"gpu: {self.index}"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that determines what an engine computes. Two equal specs give equal vectors.

    Attributes:
        model: architecture and files of the model.
        cache_dir: folder for data prepared from the weights; ``prepare`` writes it, engines read it.
        pooling_strategy: a name of ``pooling.PoolingStrategy``: NONE, REDUCE_MEAN, REDUCE_MAX, REDUCE_MEAN_MAX,
            CLS_TOKEN, SEP_TOKEN, CLS_POOLED.
        pooling_layers: indexes of encoder layers, -1 is the last; several are concatenated in this order.
        dtype: precision of the arithmetic: ``fp32``, ``bf16``, ``fp16`` or ``int8``. Pooling is always fp32.
        output_dtype: numpy name of the dtype of the vectors, ``float32`` or ``float16``.
        use_position_embeddings: False leaves out the position table (``-no_position_embeddings``).
        deterministic: the bits of a vector must depend on the tokens of its sequence alone. Otherwise an engine may
            choose the fastest kernel for each batch.
        xla: compile with XLA.
        max_seq_len: maximum number of tokens in a sequence; None is the number of positions of the model. It selects
            the shapes that XLA compiles and does not change a vector.
        model_digest: digest of the model that the server prepared at its start; engines then open its entries in the
            cache, and read no file of ``model``. Empty: the digest of the files of ``model``.
        cpu_threads: numbers of threads of all workers on the CPU, for which ``prepare`` writes files; empty if there
            are none. They do not change a vector.
        opened: receives the paths of the entries that an engine opens.
        only_verified: the cache reads and builds no entry, see ``Cache``.
    """

    model: ModelConfig
    cache_dir: str
    pooling_strategy: str = "REDUCE_MEAN"
    pooling_layers: tuple[int, ...] = (-2,)
    dtype: str = "fp32"
    output_dtype: str = "float32"
    use_position_embeddings: bool = True
    deterministic: bool = False
    xla: bool = False
    max_seq_len: int | None = None
    model_digest: str = ""
    cpu_threads: tuple[int, ...] = field(default=(), compare=False)
    opened: list[str] = field(default_factory=list, compare=False, repr=False)
    only_verified: bool = field(default=False, compare=False, repr=False)

    def cache(self) -> Cache:
        """Opens the cache; the entries that it finds or builds are recorded in ``opened``."""
        return Cache(self.cache_dir, self.opened, self.only_verified)

    def digest(self, cache: Cache) -> str:
        """Returns the digest of the model: the given one, or that of its files."""
        return self.model_digest or cache.model_digest(self.model)

    def require_files(self) -> None:
        """Checks that an entry that the cache lacks may be built from the files of the model.

        Raises:
            CacheError: the model was prepared at the start of the server; its files may be others now.
        """
        if self.model_digest:
            raise CacheError(
                f"the cache {self.cache_dir} does not have the model that this server prepared at its start, or a "
                "library was updated since then; start the server again"
            )

    @property
    def longest(self) -> int:
        """Maximum number of tokens in a sequence."""
        return self.max_seq_len or self.model.max_tokens

    @property
    def layers(self) -> list[int]:
        """Pooling layers, counted from 0 for the first; only the last layer for CLS_POOLED.

        Raises:
            ValueError: the model has no such layer.
        """
        count = self.model.num_hidden_layers
        if self.needs_pooler:
            return [count - 1]
        for layer in self.pooling_layers:
            if not -count <= layer < count:
                raise ValueError(
                    f"pooling layer {layer} does not exist: the model has {count} layers, -{count} to {count - 1}"
                )
        return [layer % count for layer in self.pooling_layers]

    @property
    def needs_pooler(self) -> bool:
        """Whether the vectors come from the pooler, the dense layer above ``[CLS]``."""
        return self.pooling_strategy == "CLS_POOLED"

    @property
    def selects_token(self) -> bool:
        """Whether the vector of a sequence is that of one of its tokens, or computed from it."""
        return self.pooling_strategy in ("CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED")

    @property
    def is_token_level(self) -> bool:
        """Whether each token has a vector, instead of each sequence."""
        return self.pooling_strategy == "NONE"


class Engine(Protocol):
    """Encodes batches in a worker.

    An engine may have ``startup_notes``, a list of lines that the worker logs: how the engine uses its device. It may
    have ``encode_tokens``, which returns the vectors of tokens before pooling: float32 ``[t, d]``, one row per token,
    the layers of ``spec.layers`` side by side. A token with mask 0 has its vector too.
    One whose device computes by itself may have ``start``: it starts to encode a batch, and returns a function that
    waits for the vectors. The worker prepares the next batch meanwhile, and calls the functions in the order of the
    batches. All raise the errors of ``encode``.
    One that computes in threads of its own may have ``enqueue``, which takes a function beside the batch. It does as
    ``start``, behind the batches before, and calls the function in a thread when the vectors are ready. For a batch
    that the calling thread should compute by ``encode``, it returns None.
    """

    def encode(self, batch: Batch) -> np.ndarray:
        """Returns the vectors of a batch, C-contiguous, dtype ``spec.output_dtype``.

        The shape is ``[n, d]``, one row per sequence in the order of ``batch.lengths``. With pooling ``NONE`` it is
        ``[t, d]``, one row per token in the order of ``batch.input_ids``, exactly 0 where ``mask`` is 0.

        Raises:
            OutOfMemory: the batch is too large for the device; a smaller batch may fit.
            DeviceLost: this process can no longer use the device; the worker ends and is replaced.
            EngineError: any other error of the device or the library.
        """
        ...

    def close(self) -> None:
        """Releases the memory of the device."""
        ...


class EngineError(RuntimeError):
    """The engine could not encode a batch."""


class OutOfMemory(EngineError, MemoryError):
    """The batch does not fit in the memory of the device."""


class DeviceLost(EngineError):
    """The device no longer responds to this process; a new process may use it."""


class EngineUnavailable(EngineError, ImportError):
    """The library of the engine is missing, or cannot run on the device; the message names the remedy."""


Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Properties of an engine that the server reads before it creates one."""

    name: str
    #: Whether dense layers compute tokens only and no padding, so that the cost of a batch follows its tokens.
    padding_free: bool
    #: Supported dtypes by kind of device.
    dtypes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: What the engine computes beyond BERT.
    features: frozenset[Feature] = frozenset()
    #: Dtypes in which it computes ``EngineSpec.deterministic``, with the same bits on every number of threads.
    deterministic: frozenset[str] = frozenset()


# Every engine module (onnx/engine.py, tensorflow/engine.py, torch/engine.py, zeros.py) provides these four names;
# engines/__init__.py reads them:
#
#   INFO: EngineInfo
#   unavailable(device_kind: str, dtype: str) -> str | None   reason why the engine cannot run here, with the remedy;
#                                                             None if it can; imports no large library; the engines of
#                                                             this package also take the features of the processor
#   prepare(spec: EngineSpec, log: Log) -> None               write the files that engines load to spec.cache_dir;
#                                                             returns immediately if they exist
#   create(spec: EngineSpec, device: Device) -> Engine        load the engine in this process on this device
