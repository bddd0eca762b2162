"""Divides texts into windows as long as the model's sequences, in which each part has tokens of its own.

A window is the tokens of consecutive parts, one behind the other. The engine computes it at once, and the vector of a
part is the mean of the vectors of its tokens. So each part is computed with the context of its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from .long_texts import SHARE, Part, Splitter, check_texts
from .segments import TEXTS_PER_BLOCK, Segments
from .tokenizer import Tokenized, Tokenizer

#: End of a segment that is a whole sequence, which is pooled like every other text.
WHOLE = -1


def tokenize_windows(
    tokenizer: Tokenizer, texts: Sequence[str], prompt: str | None, may_be_pairs: bool, first_row: int = 0
) -> Tokenized:
    """Tokenizes texts. The parts of a text that fits in no served sequence share windows of ``max_positions`` tokens.

    A window begins with the last parts of the window before, up to an eighth of its tokens. They give context, and
    their vectors are those of the window before.

    Args:
        prompt: put before every window; None for that of the tokenizer.
        may_be_pairs, first_row: as for ``tokenize_parts``.

    Returns:
        The windows, with ``parts`` and ``segments``.

    Raises:
        ValueError: as ``tokenize_parts``.
    """
    check_texts(texts, may_be_pairs, first_row)
    prompt = tokenizer.prompt if prompt is None else prompt
    whole, parted = Splitter(tokenizer, prompt, False), Splitter(tokenizer, "", False)
    head = tokenizer.segment_all([prompt], len(prompt))[0] if prompt else np.zeros(0, np.int32)
    room = tokenizer.max_positions - tokenizer.frame.num_of_single - len(head)
    parted.room = min(parted.room, room)
    windows: list[np.ndarray] = []
    parts: list[tuple[int, int, int, int]] = []
    segments: list[tuple[int, int, int]] = []
    cut: list[int] = []
    for start in range(0, len(texts), TEXTS_PER_BLOCK):
        block = list(texts[start : start + TEXTS_PER_BLOCK])
        for row, (text, ids) in enumerate(zip(block, whole.measure_all(block), strict=True), first_row + start):
            if len(ids) <= whole.room:
                parts.append((row, 0, len(text), 2))
                segments.append((len(windows), 0, WHOLE))
                windows.append(ids)
                continue
            whole.require_room()
            found = parted.split(text)
            cut += [len(parts) + index for index, part in enumerate(found) if len(part.ids) > parted.room]
            parts += [(row, part.start, part.stop, part.weight) for part in found]
            for ids, spans in _windows(found, room, parted.room):
                offset = 1 + len(head)
                segments += [(len(windows), offset + first, offset + last) for first, last in spans]
                windows.append(np.concatenate([head, ids]))
    lengths = np.fromiter(map(len, windows), np.int32, len(windows))
    packed = Segments(np.concatenate(windows), lengths, np.zeros_like(lengths))
    return replace(
        tokenizer.assemble(packed, tokenizer.max_positions),
        truncated=np.array(cut, np.int32),
        parts=np.array(parts, np.int32),
        segments=np.array(segments, np.int32),
    )


def _windows(parts: list[Part], room: int, part_room: int) -> list[tuple[np.ndarray, list[tuple[int, int]]]]:
    """Returns the ids of each window, and the tokens from and to of the parts that are its own."""
    ids = [part.ids[:part_room] for part in parts]
    windows, first = [], 0
    while first < len(ids):
        context, size = first, 0
        while context and size + len(ids[context - 1]) <= room // SHARE:
            context -= 1
            size += len(ids[context])
        while context < first and size + len(ids[first]) > room:
            size -= len(ids[context])
            context += 1
        last, spans = first, []
        while last < len(ids) and (last == first or size + len(ids[last]) <= room):
            spans.append((size, size + len(ids[last])))
            size += len(ids[last])
            last += 1
        windows.append((np.concatenate(ids[context:last]), spans))
        first = last
    return windows


def tokens_of_parts(tokens: list[list[str]], tokenized: Tokenized) -> list[list[str]]:
    """Returns the tokens of each part; those of a whole sequence with the special ones."""
    assert tokenized.segments is not None
    return [
        tokens[sequence] if stop == WHOLE else tokens[sequence][start:stop]
        for sequence, start, stop in tokenized.segments.tolist()
    ]
