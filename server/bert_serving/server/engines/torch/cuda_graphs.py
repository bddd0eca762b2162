"""Encodes small batches on a GPU by CUDA graphs: one launch for all kernels of the encoder.

Python needs some milliseconds to launch the kernels one by one, longer than a GPU computes a small batch. A graph has
fixed shapes, so there is one for each of some sizes. A batch uses the smallest that holds it. Rows behind its tokens
belong to no sequence, and sequences behind its own are empty. Each graph is compared with the encoder before it is
used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..base import EngineSpec
from ..batch import Batch
from ..layout import token_positions
from .attention import Feeds
from .encoder import Encoder

#: Numbers of tokens. The launches of a larger batch take less time than its kernels.
SIZES = (
    16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144,
    7168, 8192, 10240, 12288, 14336, 16384,
)  # fmt: skip
#: Maximum length of the sequences of a graph for short ones: attention starts blocks up to the longest sequence.
SHORT = 64
#: Maximum number of sequences, and minimum number of tokens for each.
MAX_SEQUENCES, TOKENS_PER_SEQUENCE = 512, 4
#: Rows behind the tokens, at least: an empty sequence begins in them.
SPARE_ROWS = 8
#: Maximum relative difference to the encoder, by dtype: kernels may differ with the number of rows.
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}

Compute = Callable[[], torch.Tensor]
#: Captures a computation. Returns a function that repeats it, and the tensor that then holds the result.
Capture = Callable[[Compute], tuple[Callable[[], None], torch.Tensor]]


class EncoderGraph:
    """The encoder for batches of up to ``max_tokens`` tokens in ``max_sequences`` sequences of up to ``longest``.

    Args:
        capture: captures the encoder on ``device``.
    """

    def __init__(self, encoder: Encoder, device: torch.device, max_tokens: int, longest: int, capture: Capture) -> None:
        self.max_tokens, self.longest = max_tokens, longest
        self.max_sequences = min(MAX_SEQUENCES, max_tokens // TOKENS_PER_SEQUENCE)
        self._rows = max_tokens + SPARE_ROWS
        self._sizes = [self._rows] * 3 + [self.max_sequences + 1]
        self._inputs = torch.zeros(sum(self._sizes), dtype=torch.int32, device=device)
        input_ids, type_ids, positions, ends = self._inputs.split(self._sizes)
        ends += torch.arange(len(ends), dtype=torch.int32, device=device)  # sequences of one token
        feeds = Feeds(input_ids, type_ids, positions, ends, self._rows, longest, None, None)
        self._replay, self._vectors = capture(lambda: encoder(feeds))

    def holds(self, batch: Batch) -> bool:
        """Returns whether the graph can encode a batch."""
        return (
            batch.num_tokens <= self.max_tokens
            and batch.num_sequences <= self.max_sequences
            and int(batch.lengths.max()) <= self.longest
        )

    def encode(self, batch: Batch) -> torch.Tensor:
        """Returns the vectors of a batch on the device, and more rows behind them; the next batch overwrites them."""
        staged = torch.zeros(sum(self._sizes), dtype=torch.int32, pin_memory=self._inputs.is_cuda)
        input_ids, type_ids, positions, ends = np.split(staged.numpy(), np.cumsum(self._sizes[:-1]))
        tokens, sequences = batch.num_tokens, batch.num_sequences
        input_ids[:tokens] = batch.input_ids
        type_ids[:tokens] = batch.type_ids
        positions[:tokens], ends[: sequences + 1] = token_positions(batch.lengths)
        ends[sequences + 1 :] = tokens
        self._inputs.copy_(staged, non_blocking=True)
        self._replay()
        return self._vectors


def cuda_capture(device: torch.device) -> Capture:
    """Returns a function that captures computations in CUDA graphs. They share memory, so one runs at a time."""
    stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def capture(compute: Compute) -> tuple[Callable[[], None], torch.Tensor]:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            compute()  # libraries choose their kernels, and allocate what they keep
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            result = compute()
        return graph.replay, result

    return capture


class EncoderGraphs:
    """Graphs by size, the smallest first."""

    def __init__(self, graphs: list[EncoderGraph]) -> None:
        self.all = sorted(graphs, key=lambda graph: (graph.max_tokens, graph.longest))

    def __str__(self) -> str:
        return f"{len(self.all)} CUDA graphs for batches of up to {self.all[-1].max_tokens} tokens"

    def find(self, batch: Batch) -> EncoderGraph | None:
        """Returns the smallest graph that holds a batch, or None."""
        if batch.num_tokens > self.all[-1].max_tokens:
            return None
        return next((graph for graph in self.all if graph.holds(batch)), None)


def capture_graphs(encoder: Encoder, spec: EngineSpec, device: torch.device, capture: Capture) -> EncoderGraphs:
    """Captures the encoder for batches of each of ``SIZES``.

    Raises:
        RuntimeError: a kernel of this model, or of this release, cannot be captured, or the memory does not suffice.
        ValueError: a graph gives other vectors than the encoder.
    """
    graphs = []
    with torch.inference_mode():
        for size in reversed(SIZES):  # smaller graphs then use the memory of the largest
            for longest in sorted({min(size, SHORT, spec.longest), min(size, spec.longest)}):
                graph = EncoderGraph(encoder, device, size, longest, capture)
                _check(graph, encoder, spec, device)
                graphs.append(graph)
    return EncoderGraphs(graphs)


def _check(graph: EncoderGraph, encoder: Encoder, spec: EngineSpec, device: torch.device) -> None:
    """Raises ValueError if a graph gives other vectors than the encoder for two batches, the second a full one."""
    random = np.random.default_rng(graph.max_tokens)
    for total in (max(1, graph.max_tokens // 2), graph.max_tokens):
        lengths = _random_lengths(random, total, graph.longest, graph.max_sequences)
        tokens = int(lengths.sum())
        ids = random.integers(0, spec.model.vocab_size, tokens, np.int32)
        batch = Batch(ids, np.zeros_like(ids), np.ones_like(ids), lengths)
        positions, ends = token_positions(lengths)
        arrays = (ids, batch.type_ids, positions, ends)
        input_ids, type_ids, places, limits = (torch.from_numpy(each.astype(np.int32)).to(device) for each in arrays)
        longest = int(lengths.max())
        expected = encoder(Feeds(input_ids, type_ids, places, limits, tokens, longest, None, None)).float()
        found = graph.encode(batch)[: len(expected)].float()
        difference = torch.linalg.vector_norm(found - expected, dim=-1)
        allowed = _TOLERANCE[encoder.dtype] * torch.linalg.vector_norm(expected, dim=-1)
        if not bool((difference <= allowed).all()):
            raise ValueError(f"a graph of {graph.max_tokens} tokens gives wrong vectors")


def _random_lengths(random: np.random.Generator, total: int, longest: int, count: int) -> np.ndarray:
    """Returns up to ``count`` lengths of 1 to ``longest`` whose sum is at most ``total``."""
    lengths = random.integers(1, longest + 1, count)
    ends = np.minimum(np.cumsum(lengths), total)
    lengths = np.diff(ends, prepend=0)
    return np.asarray(lengths[lengths > 0], np.int32)
