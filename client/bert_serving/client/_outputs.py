"""Several kinds of vectors in one result: dense ones, sparse ones, and vectors of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

import numpy as np

from ._encoding_types import E, Tokens
from .errors import BertServingError, ReplyError
from .protocol import OUTPUTS, FloatArray, Reply

#: Memory (bytes) of a sparse vector without weights, and of a weight with its id and its reference to a token.
_SPARSE_BYTES, _WEIGHT_BYTES = 352, 16
#: Arrays of each output in a reply.
_ARRAYS = {"dense": ("vectors",), "sparse": ("counts", "ids", "weights"), "multi": ("counts", "vectors")}


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """Weights of tokens of the vocabulary; all others are 0.

    Attributes:
        ids: token ids in increasing order, int32 ``[k]``.
        weights: float32 ``[k]``.
        tokens: the ``k`` tokens.
    """

    ids: np.ndarray
    weights: np.ndarray
    tokens: list[str]

    def __len__(self) -> int:
        """Returns the number of weights."""
        return len(self.ids)

    def to_dict(self) -> dict[str, float]:
        """Returns token → weight."""
        return dict(zip(self.tokens, self.weights.tolist(), strict=True))

    def dot(self, other: SparseVector) -> float:
        """Returns the inner product with another sparse vector."""
        _, own, others = np.intersect1d(self.ids, other.ids, assume_unique=True, return_indices=True)
        return float(np.dot(self.weights[own].astype(np.float64), other.weights[others]))


@dataclass(frozen=True, slots=True, eq=False)
class EncodedOutputs(Generic[E]):
    """The result of ``encode(texts, outputs=[...])``. What was not asked for is ``None``.

    Attributes:
        dense: array ``[n, d]``, one row per text; nested lists or a tensor as ``output_fmt`` says.
        sparse: a `SparseVector` for each text.
        multi: for each text an array ``[t, d]``, one row for each of its tokens, in the format of ``dense``.
        tokens: the tokens of each text in the model's input, with ``show_tokens``; else ``""``.
    """

    dense: E | None = None
    sparse: list[SparseVector] | None = None
    multi: list[E] | None = None
    tokens: Tokens = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The outputs that the result has."""
        return tuple(name for name in OUTPUTS if getattr(self, name) is not None)


@dataclass(slots=True)
class _Rows:
    """The outputs of one request."""

    dense: FloatArray | None = None
    sparse: list[SparseVector] | None = None
    multi: list[FloatArray] | None = None

    @property
    def num_texts(self) -> int:
        """The number of texts."""
        return max(len(each) for each in (self.dense, self.sparse, self.multi) if each is not None)

    @property
    def nbytes(self) -> int:
        """Memory (bytes) of the outputs."""
        size = 0 if self.dense is None else self.dense.nbytes
        size += sum(_SPARSE_BYTES + _WEIGHT_BYTES * len(each) for each in self.sparse or ())
        return size + sum(each.nbytes for each in self.multi or ())


class OutputRows:
    """Collects the outputs of a call.

    Args:
        outputs: names of the outputs.
        check_size: called with ``nbytes`` after each reply.

    Attributes:
        nbytes: memory (bytes) of all outputs so far.
    """

    def __init__(self, outputs: Sequence[str], check_size: Callable[[int], None] | None = None) -> None:
        self._check_size = check_size
        self._outputs = outputs
        self.nbytes = 0
        self._found: dict[int, _Rows] = {}  # by the first text of the request

    def add(self, reply: Reply, first_text: int, num_texts: int | None = None) -> None:
        """Adds the outputs of a request.

        Args:
            num_texts: number of its texts; None if it is not known.

        Raises:
            ReplyError: the reply does not have the outputs of its texts, or its vectors are not like those before.
        """
        try:
            rows = _read(reply, self._outputs, num_texts)
        except (KeyError, TypeError, ValueError) as error:
            raise ReplyError(
                f"the outputs in the reply to request {reply.request_id} cannot be read: {error!r}"
            ) from error
        for other in self._found.values():
            if other.dense is not None and rows.dense is not None and other.dense.shape[1:] != rows.dense.shape[1:]:
                raise ReplyError(
                    f"the vectors changed within one call, from {other.dense.shape} to {rows.dense.shape}: was the "
                    "server restarted with another model? Encode again"
                )
            break
        self._found[first_text] = rows
        self.nbytes += rows.nbytes
        if self._check_size is not None:
            self._check_size(self.nbytes)

    @property
    def is_limited(self) -> bool:
        """Whether the size of the outputs is checked."""
        return self._check_size is not None

    @property
    def dense(self) -> FloatArray | None:
        """The dense vectors of all texts, ``[n, d]``, a writable array."""
        found = [each.dense for each in self._in_order() if each.dense is not None]
        return np.concatenate(found) if found else None

    @property
    def sparse(self) -> list[SparseVector] | None:
        """The sparse vectors of all texts."""
        found = [each.sparse for each in self._in_order() if each.sparse is not None]
        return [vector for each in found for vector in each] if found else None

    @property
    def multi(self) -> list[FloatArray] | None:
        """The vectors of the tokens of each text."""
        found = [each.multi for each in self._in_order() if each.multi is not None]
        return [array for each in found for array in each] if found else None

    @property
    def num_texts(self) -> int:
        """The number of texts."""
        return sum(each.num_texts for each in self._found.values())

    def result(self, embedding: Callable[[FloatArray], E], tokens: Tokens) -> EncodedOutputs[E]:
        """Returns the outputs of all texts.

        Args:
            embedding: converts an array to the format of the client.
        """
        dense, multi = self.dense, self.multi
        return EncodedOutputs(
            None if dense is None else embedding(dense),
            self.sparse,
            None if multi is None else [embedding(array) for array in multi],
            tokens,
        )

    def _in_order(self) -> list[_Rows]:
        return [self._found[first] for first in sorted(self._found)]


def named_outputs(reply: Reply) -> tuple[str, ...]:
    """Returns the outputs that a reply names; none if it has one array of vectors, or names none that are known."""
    described = reply.info.get("outputs")
    names = [each.get("output") for each in described if isinstance(each, dict)] if isinstance(described, list) else []
    return tuple(dict.fromkeys(name for name in names if name in OUTPUTS))


def name_dense(reply: Reply | BertServingError) -> Reply | BertServingError:
    """Returns the reply to a request for dense vectors alone in the form of the replies with several outputs."""
    if not isinstance(reply, Reply) or "dtype" not in reply.info:
        return reply
    array = {"output": "dense", "name": "vectors", "dtype": reply.info["dtype"], "shape": reply.info.get("shape", ())}
    return replace(reply, info={**reply.info, "outputs": [array]})


def outputs_of(reply: Reply) -> OutputRows:
    """Returns the outputs of one request, which the reply names.

    Raises:
        ReplyError: the frames are inconsistent.
    """
    rows = OutputRows(named_outputs(reply))
    rows.add(reply, 0)
    return rows


def join_outputs(
    results: Sequence[EncodedOutputs[E]], names: Sequence[str], concatenate: Callable[[list[E]], E]
) -> EncodedOutputs[E]:
    """Returns the outputs of several requests for the same outputs as those of one.

    Args:
        names: the outputs.
        concatenate: joins dense vectors.
    """
    tokens = [row for each in results if not isinstance(each.tokens, str) for row in each.tokens]
    return EncodedOutputs(
        concatenate([each.dense for each in results if each.dense is not None]) if "dense" in names else None,
        [row for each in results for row in each.sparse or ()] if "sparse" in names else None,
        [row for each in results for row in each.multi or ()] if "multi" in names else None,
        tokens or "",
    )


def _read(reply: Reply, outputs: Sequence[str], num_texts: int | None) -> _Rows:
    """Returns the outputs of a reply.

    Raises:
        KeyError, TypeError, ValueError: the frames are inconsistent, or an output is missing.
    """
    if "outputs" not in reply.info:  # dense vectors alone are a reply as any other
        rows = _Rows(dense=reply.array())
        if list(outputs) != ["dense"] or rows.dense is None or len(rows.dense) != num_texts:
            raise ValueError(f"it does not have the outputs {', '.join(outputs)} of {num_texts} texts")
        return rows
    arrays = _split(reply)
    rows = _Rows()
    for output in outputs:
        names = _ARRAYS[output]
        found = [arrays[output, name] for name in names]
        if output == "dense":
            rows.dense = found[0]
        elif output == "sparse":
            rows.sparse = _sparse(reply.info["vocabulary"], *found)
        else:
            rows.multi = _by_counts(*found)
        num_texts = len(found[0]) if num_texts is None else num_texts
        if len(found[0]) != num_texts:
            raise ValueError(f"{output} has {len(found[0])} rows for {num_texts} texts")
    return rows


def _split(reply: Reply) -> dict[tuple[str, str], np.ndarray]:
    """Returns copies of the arrays that the array frame consists of, by output and name."""
    content = bytes(reply.content or b"")
    arrays, start = {}, 0
    for each in reply.info["outputs"]:
        output, dtype, shape = str(each["output"]), np.dtype(str(each["dtype"])), tuple(map(int, each["shape"]))
        if output not in OUTPUTS:
            continue
        stop = start + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(content[start:stop], dtype).reshape(shape).copy()
        arrays[output, str(each["name"])] = array
        start = stop
    if start != len(content):
        raise ValueError(f"its arrays have {start} bytes, but the frame has {len(content)}")
    return arrays


def _sparse(vocabulary: dict[str, Any], counts: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> list[SparseVector]:
    names = {int(number): str(token) for number, token in vocabulary.items()}
    pairs = zip(_by_counts(counts, ids), _by_counts(counts, weights), strict=True)
    return [SparseVector(own, values, [names[number] for number in own.tolist()]) for own, values in pairs]


def _by_counts(counts: np.ndarray, values: np.ndarray) -> list[np.ndarray]:
    """Returns the values of each text."""
    if (counts < 0).any() or counts.sum(dtype=np.int64) != len(values):
        raise ValueError(f"counts add up to {counts.sum(dtype=np.int64)}, but there are {len(values)} values")
    return np.split(values, np.cumsum(counts, dtype=np.int64)[:-1])
