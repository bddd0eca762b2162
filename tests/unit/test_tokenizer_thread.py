"""How a large request is cut for tokenizing."""

from __future__ import annotations

from bert_serving.server.ventilator.tokenizer_thread import CHUNK, CHUNK_CHARACTERS, chunk_end


def chunks(texts: list[str]) -> list[int]:
    """Sizes of the chunks."""
    sizes, start = [], 0
    while start < len(texts):
        stop = chunk_end(texts, start)
        sizes.append(stop - start)
        start = stop
    return sizes


def test_short_texts_are_cut_by_number() -> None:
    assert chunks(["hello"] * (2 * CHUNK + 5)) == [CHUNK, CHUNK, 5]


def test_long_texts_are_cut_by_characters() -> None:
    half = "x" * (CHUNK_CHARACTERS // 2)
    assert chunks([half] * 5) == [2, 2, 1]
    assert chunks([half * 3] * 3) == [1, 1, 1]
    assert chunks(["a", half * 3, "b"]) == [1, 1, 1]
    assert chunks([""] * 3) == [3]
