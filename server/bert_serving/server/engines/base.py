"""The contract between a worker and what computes: one packed batch in, one array out.

An engine knows tensors and a device. It knows no sockets, no texts, no clients and no vocabulary. It is made in the
worker process that uses it and is called from one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..model.config import ModelConfig
from .batch import Batch as Batch


@dataclass(frozen=True, slots=True)
class Device:
    """Where an engine runs: the CPU with a number of threads, or one GPU by its index as the driver counts."""

    kind: str = "cpu"  # "cpu" or "gpu"
    index: int = 0
    threads: int = 0  # CPU threads for one operation; 0 leaves the choice to the engine
    memory_fraction: float = 0.5  # share of a GPU's memory that one worker may take

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"gpu: {self.index}"


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that decides what an engine computes. Two equal specs give equal vectors.

    Attributes:
        model: architecture and files of the model.
        pooling_strategy: a name of ``pooling.PoolingStrategy``: NONE, REDUCE_MEAN, REDUCE_MAX, REDUCE_MEAN_MAX,
            CLS_TOKEN, SEP_TOKEN, CLS_POOLED.
        pooling_layers: indexes into the encoder's layers, -1 the last; several are concatenated in this order.
        dtype: precision of the arithmetic: ``fp32``, ``bf16``, ``fp16`` or ``int8``. Pooling is always fp32.
        output_dtype: numpy name of the result's dtype, ``float32`` or ``float16``.
        use_position_embeddings: False adds no position table (``-no_position_embeddings``).
        xla: compile with XLA.
        max_seq_len: most tokens of a sequence that will come, None for as many as the model has positions. It decides
            which shapes XLA compiles, and no vector.
        cache_dir: folder for what is prepared from the weights; ``prepare`` fills it, engines read it.
    """

    model: ModelConfig
    cache_dir: str
    pooling_strategy: str = "REDUCE_MEAN"
    pooling_layers: tuple[int, ...] = (-2,)
    dtype: str = "fp32"
    output_dtype: str = "float32"
    use_position_embeddings: bool = True
    xla: bool = False
    max_seq_len: int | None = None

    @property
    def longest(self) -> int:
        """Most tokens of a sequence that will come."""
        return self.max_seq_len or self.model.max_position_embeddings

    @property
    def layers(self) -> list[int]:
        """Pooling layers counted from 0, the first; the last layer alone for CLS_POOLED.

        Raises:
            ValueError: a layer is not there.
        """
        count = self.model.num_hidden_layers
        if self.needs_pooler:
            return [count - 1]
        for layer in self.pooling_layers:
            if not -count <= layer < count:
                raise ValueError(
                    f"pooling layer {layer} is not there: the model has {count} layers, -{count} to {count - 1}"
                )
        return [layer % count for layer in self.pooling_layers]

    @property
    def needs_pooler(self) -> bool:
        """Whether the vectors come from the pooler, the dense layer above ``[CLS]``."""
        return self.pooling_strategy == "CLS_POOLED"

    @property
    def is_token_level(self) -> bool:
        """Whether each token has a vector, and not each sequence."""
        return self.pooling_strategy == "NONE"


class Engine(Protocol):
    """Encodes batches in a worker.

    An engine may have ``startup_notes``, a list of lines that the worker logs: how the engine uses its device.
    """

    def encode(self, batch: Batch) -> np.ndarray:
        """Vectors of a batch, C-contiguous, ``spec.output_dtype``.

        Returns ``[n, d]``, a row per sequence in the order of ``batch.lengths``; with pooling ``NONE``
        ``[t, d]``, a row per token in the order of ``batch.input_ids``, exactly 0 where ``mask`` is 0.

        Raises:
            OutOfMemory: the batch is too large for the device; a smaller one may pass.
            DeviceLost: nothing can be computed in this process any more; the worker ends, and is replaced.
            EngineError: anything else that the device or the library refused.
        """
        ...

    def close(self) -> None:
        """Gives back the device's memory."""
        ...


class EngineError(RuntimeError):
    """The engine could not encode a batch."""


class OutOfMemory(EngineError, MemoryError):
    """The batch does not fit on the device."""


class DeviceLost(EngineError):
    """The device no longer answers this process; a new one may use it."""


class EngineUnavailable(EngineError, ImportError):
    """The engine's library is not installed, or cannot run on the device; the message names the remedy."""


Log = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the rest of the server needs to know about a kind of engine before one is made."""

    name: str
    #: Computes dense layers on tokens only, so a batch costs what its tokens cost.
    padding_free: bool
    #: dtypes it can compute in, by device kind.
    dtypes: dict[str, tuple[str, ...]] = field(default_factory=dict)


# Every engine module (tensorflow.py, torch.py, onnx.py) offers these four names; engines/__init__.py finds them:
#
#   INFO: EngineInfo
#   unavailable(device_kind: str, dtype: str) -> str | None   why it cannot run here (with the remedy), None if it can;
#                                                             cheap: importlib.util.find_spec, no heavy import;
#                                                             the engines here take the processor's features too
#   prepare(spec: EngineSpec, log: Log) -> None               build what engines load, once, into spec.cache_dir;
#                                                             returns at once where it is already there
#   create(spec: EngineSpec, device: Device) -> Engine        load it in this process, on this device, ready to encode
