"""Tests of the split of large requests into chunks."""

from __future__ import annotations

from bert_serving.server.ventilator.tokenizer_thread import CHUNK_CHARACTERS, CHUNK_TEXTS, chunk_end


def chunks(texts: list[str]) -> list[int]:
    """Returns the sizes of the chunks."""
    sizes, start = [], 0
    while start < len(texts):
        stop = chunk_end(texts, start)
        sizes.append(stop - start)
        start = stop
    return sizes


def test_short_texts_are_split_by_number() -> None:
    assert chunks(["hello"] * (2 * CHUNK_TEXTS + 5)) == [CHUNK_TEXTS, CHUNK_TEXTS, 5]


def test_long_texts_are_split_by_characters() -> None:
    half = "x" * (CHUNK_CHARACTERS // 2)
    assert chunks([half] * 5) == [2, 2, 1]
    assert chunks([half * 3] * 3) == [1, 1, 1]
    assert chunks(["a", half * 3, "b"]) == [1, 1, 1]
    assert chunks([""] * 3) == [3]
