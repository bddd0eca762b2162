"""Shares weights between the entries of a base model and of its variants, which adapters change in some layers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ...model.cache import Cache
from ..shared_file import BASE, share_file

#: Files of an entry with prepacked weights: their places, and their bytes. See ``prepacked.py``.
INDEX, WEIGHTS = "index.json", "prepacked.bin"


def share_prepacked(folder: Path, base: Path, cache: Cache) -> None:
    """Replaces the prepacked weights of a variant that are equal to those of its base model.

    Args:
        folder: a folder that ``prepacked.write_prepacked`` has written.
        base: the entry of the base model in the cache.
    """
    index, other = (json.loads((each / INDEX).read_text("utf-8")) for each in (folder, base))
    if "reason" in index or "reason" in other:
        return
    ours, theirs = (np.memmap(each / WEIGHTS, np.uint8, "r") for each in (folder, base))
    kept = []
    for number, places in index["threads"].items():
        for scope, place in places.items():
            part = slice(place["offset"], place["offset"] + place["bytes"])
            same = place == other["threads"].get(number, {}).get(scope)
            if same and np.array_equal(ours[part], theirs[part]):
                place["file"] = BASE
            else:
                kept.append(part)
    if share_file(folder / WEIGHTS, base / WEIGHTS, kept, cache):
        (folder / INDEX).write_text(json.dumps(index, indent=1), "utf-8")
