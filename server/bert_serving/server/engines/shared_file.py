"""Shares a file of weights between the entries of a base model and of a variant, whose adapter changes some weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..model.cache import Cache

#: Name of the link to the file of the base model.
BASE = "base.bin"


def share_file(file: Path, base: Path, kept: Iterable[slice], cache: Cache) -> bool:
    """Links the file of the base model as ``BASE`` beside a file, and makes holes in that.

    Args:
        file: file of the variant.
        base: file of an entry of the cache.
        kept: places of the bytes that stay.

    Returns:
        Whether the file system has such links; without, the file stays as it is.
    """
    if not cache.link(base, file.with_name(BASE)):
        return False
    data = np.memmap(file, np.uint8, "r")
    new = file.with_name(f"{file.name}.new")
    with open(new, "wb") as opened:
        opened.truncate(len(data))
        for place in kept:
            opened.seek(place.start)
            opened.write(data[place].tobytes())
    os.replace(new, file)
    return True
