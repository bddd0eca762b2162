"""Puts tokens around the texts of late interaction models: markers, and the expansion of queries."""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from ..model.token_heads import TextFrame
from .tokenizer import Tokenized


def put_frame(tokenized: Tokenized, frame: TextFrame) -> Tokenized:
    """Returns tokenized texts with the marker behind their first token, cut to their length, and expanded.

    Sequences that are cut keep their last token.
    """
    lengths = tokenized.lengths.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    num_markers = 0 if frame.marker_id is None else 1
    kept = lengths
    if frame.max_length is not None:
        kept = np.minimum(lengths, max(2, frame.max_length - num_markers))
    sizes = np.maximum(kept + num_markers, frame.expansion_length)
    row = np.repeat(np.arange(len(sizes)), sizes)
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_marker = (place == 1) & (num_markers == 1)
    place = np.where(place > 0, place - num_markers, 0)  # in the tokens that are kept
    is_added = place >= kept[row]
    source = starts[row] + np.minimum(np.where(place == kept[row] - 1, lengths[row] - 1, place), lengths[row] - 1)

    def gather(values: np.ndarray, marker: int, added: int) -> np.ndarray:
        found = np.where(is_added, added, np.where(is_marker, marker, values[source]))
        return found.astype(np.int32)

    mask = np.ones(len(tokenized.input_ids), np.int32) if tokenized.mask is None else tokenized.mask
    mask = gather(mask, 1, int(frame.attends))
    return replace(
        tokenized,
        input_ids=gather(tokenized.input_ids, frame.marker_id or 0, frame.expansion_id),
        type_ids=None if tokenized.type_ids is None else gather(tokenized.type_ids, 0, 0),
        mask=None if mask.all() else mask,
        lengths=sizes.astype(np.int32),
        truncated=np.union1d(tokenized.truncated, np.flatnonzero(kept < lengths)).astype(np.int32),
    )
