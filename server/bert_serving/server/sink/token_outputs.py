"""Writes replies with several outputs: one array of bytes, and the arrays that it consists of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert_serving.client.protocol import OutputArray

from ..ipc.messages import dtype_name
from ..ipc.process_context import ProcessContext
from ..ipc.token_outputs import TokenOutputs, concatenate
from ..model.token_names import read_token_names


def read_tokens(process: ProcessContext) -> list[str]:
    """Returns the token of each id of the vocabulary; empty if the server has no sparse vectors."""
    pipeline = process.config.pipeline
    if pipeline is None or pipeline.sparse is None:
        return []
    return read_token_names(os.path.join(process.options["tokenizer"], os.path.basename(process.model.vocab_path)))


class OutputWriter:
    """Writes replies with several outputs.

    Args:
        tokens: the token of each id of the vocabulary.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens

    def write(
        self,
        names: Sequence[str],
        dense: np.ndarray,
        pieces: list[tuple[np.ndarray, TokenOutputs]],
        metadata: dict[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns the array and the metadata of a reply.

        Args:
            names: the outputs in the order of the request.
            dense: dense vectors, ``[n, d]``.
            pieces: rows of the request, and their outputs, each row once; the list is emptied.
            metadata: metadata of the reply.

        Returns:
            The bytes of all arrays, uint8 ``[b]``, and the metadata with ``outputs`` and ``vocabulary``.
        """
        outputs = _in_order(pieces)
        arrays: list[tuple[str, str, np.ndarray]] = []
        more: dict[str, Any] = {}
        for name in names:
            if name == "dense":
                arrays.append((name, "vectors", dense))
            elif name == "sparse":
                arrays.append((name, "counts", outputs.sparse_counts))
                arrays.append((name, "ids", outputs.sparse_ids))
                arrays.append((name, "weights", outputs.sparse_weights))
                more["vocabulary"] = {str(each): self._token(each) for each in np.unique(outputs.sparse_ids).tolist()}
            else:
                arrays += [(name, "counts", outputs.multi_counts), (name, "vectors", outputs.multi)]
        described = [OutputArray(name, kind, dtype_name(each.dtype), each.shape) for name, kind, each in arrays]
        content = np.concatenate([np.ascontiguousarray(each).reshape(-1).view(np.uint8) for *_, each in arrays])
        return content, metadata | {"outputs": described, **more}

    def _token(self, index: int) -> str:
        return self._tokens[index] if index < len(self._tokens) else ""


def _in_order(pieces: list[tuple[np.ndarray, TokenOutputs]]) -> TokenOutputs:
    """Returns the outputs of all rows, in the order of the rows."""
    rows = np.concatenate([each for each, _ in pieces])
    joined = concatenate([outputs for _, outputs in pieces])
    pieces.clear()
    return joined if (np.diff(rows) == 1).all() else joined.take(np.argsort(rows))
