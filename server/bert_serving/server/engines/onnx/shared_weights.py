"""Shares weights between the entries of a base model and of its variants, which adapters change in some layers.

A graph names the file of each weight. Weights of a variant that are equal to those of its base are read from a link to
the file of the base, so all workers of both map the same pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ...model.cache import Cache
from ..shared_file import BASE, share_file

#: Key of the layouts of a weight in a file of ONNX Runtime: ``KIND|offset;length;alignment``, separated by ``|``.
_PREPACKED = "prepacked_"


def share_weights(folder: Path, model: str, weights: str, base: Path, cache: Cache) -> int:
    """Replaces the weights in a folder that are equal to those of a base model.

    Args:
        folder: has the files ``model`` and ``weights``, which are written again.
        model: name of the file with the graph.
        weights: name of the file with the weights; shared ones are holes in it.
        base: entry of the base model in the cache, with files of the same names.

    Returns:
        The number of shared bytes; 0 if the file system has no links.
    """
    graph, other = (onnx.load(str(each / model), load_external_data=False) for each in (folder, base))
    ours, theirs = (np.memmap(each / weights, np.uint8, "r") for each in (folder, base))
    known = {tensor.name: tensor for tensor in other.graph.initializer}
    kept, shared = [], 0
    for tensor in graph.graph.initializer:
        if not (places := list(_places(tensor))):
            continue
        same = tensor == known.get(tensor.name) and all(np.array_equal(ours[each], theirs[each]) for each in places)
        if same:
            shared += sum(each.stop - each.start for each in places)
            next(entry for entry in tensor.external_data if entry.key == "location").value = BASE
        else:
            kept += places
    if not shared or not share_file(folder / weights, base / weights, kept, cache):
        return 0
    (folder / model).write_bytes(graph.SerializeToString())
    return shared


def _places(tensor: Any) -> Iterator[slice]:
    """Yields the places of a weight in its file; none for one in the graph."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    values = {entry.key: entry.value for entry in tensor.external_data}
    yield _slice(values["offset"], values["length"])
    for key, value in values.items():
        if key.startswith(_PREPACKED):
            for layout in value.split("|")[1:]:
                offset, length, *_ = layout.split(";")
                yield _slice(offset, length)


def _slice(offset: str, length: str) -> slice:
    return slice(int(offset), int(offset) + int(length))
