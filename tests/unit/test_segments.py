"""Prompts are plain text, and texts that repeat within pairs are tokenized once, with the same ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.tokenization.frame import Frame
from bert_serving.server.tokenization.tokenizer import Tokenized, Tokenizer

IDS = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "|||", "q:", "a", "b", "c"])}
PROMPTS = ["", "a ", "a ||| ", "a ||| b: ", " |||", "|||", "a\nb ", "a |||", "q:\n"]

texts = st.lists(st.sampled_from(["a", "b", "|||", "\n", "x"]), max_size=6).map(" ".join)
pairs = st.lists(st.tuples(texts, texts), min_size=1, max_size=8)


class Words:
    """Splits at spaces, and counts the segments that it tokenizes."""

    description = "words"

    def __init__(self) -> None:
        self.segments: list[str] = []

    def encode(self, segments: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        self.segments += segments
        rows = [self.encode_one(segment)[:max_words] for segment in segments]
        ids = np.array([number for row in rows for number in row], np.int32)
        return ids, np.array([len(row) for row in rows], np.int32)

    def encode_one(self, text: str) -> list[int]:
        return [IDS.get(word, 1) for word in text.split()]

    def decode(self, ids: list[int], tokens: list[str], skip_special: bool) -> str:
        raise NotImplementedError


def made(
    max_seq_len: int = 40, prompt: str = "", segmenter: Words | None = None, favors_longer: bool = True
) -> Tokenizer:
    frame = Frame(2, (3,), 3, favors_longer=favors_longer)
    return Tokenizer(segmenter or Words(), IDS, frame, 1, max_seq_len=max_seq_len, prompt=prompt)


def rows_of(found: Tokenized) -> list[tuple[list[int], list[int]]]:
    types = np.zeros_like(found.input_ids) if found.type_ids is None else found.type_ids
    ends = np.cumsum(found.lengths)[:-1]
    split = zip(np.split(found.input_ids, ends), np.split(types, ends), strict=True)
    return [(ids.tolist(), kinds.tolist()) for ids, kinds in split]


@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from(PROMPTS), st.sampled_from([None, False]))
def test_a_text_is_a_pair_whatever_prompt_is_before_it(rows: list[str], prompt: str, are_pairs: bool | None) -> None:
    plain, own, given_ = made(), made(prompt=prompt), made(prompt="c ")
    found = own.encode(rows, pairs=are_pairs)
    assert rows_of(given_.encode(rows, prompt, pairs=are_pairs)) == rows_of(found)
    for text, (ids, types) in zip(rows, rows_of(found), strict=True):
        line = text.strip()
        head, separator, tail = line.rpartition(" ||| ")
        if are_pairs is None and separator and "\n" not in line:
            wanted = plain.encode([(prompt + head, tail)], pairs=True)
        else:
            wanted = plain.encode([prompt + text], pairs=False)
        assert (ids, types) == rows_of(wanted)[0]
        assert own.count(text, pairs=are_pairs) == len(ids)


@given(pairs, st.integers(5, 12), st.sampled_from(["", "q: "]), st.booleans())
def test_pairs_with_equal_texts_have_the_ids_of_each_pair_alone(
    rows: list[tuple[str, str]], longest: int, prompt: str, favors_longer: bool
) -> None:
    tokenizer = made(longest, prompt, favors_longer=favors_longer)
    rows = [*rows, *rows[::-1], (rows[0][1], rows[0][0])]
    together = tokenizer.encode(rows, pairs=True)
    alone = [tokenizer.encode([row], pairs=True) for row in rows]
    assert rows_of(together) == [row for each in alone for row in rows_of(each)]
    assert together.truncated.tolist() == [index for index, each in enumerate(alone) if len(each.truncated)]
    assert together.num_unknown == sum(each.num_unknown for each in alone)
    lines = [f"{one} ||| {other}" for one, other in rows]
    both = tokenizer.encode(lines)
    assert rows_of(both) == [row for line in lines for row in rows_of(tokenizer.encode([line]))]


@pytest.mark.parametrize("form", ["pairs", "text"])
def test_the_query_of_a_ranking_is_tokenized_once(form: str) -> None:
    segmenter = Words()
    tokenizer = made(9, "q: ", segmenter)
    documents = [f"b {number}" for number in range(1000)]
    query = "a b c a b c a b c"
    rows: Sequence[object] = [(query, text) for text in documents]
    if form == "text":
        rows = [f"{query} ||| {text}" for text in documents]
    tokenizer.encode(rows, pairs=True if form == "pairs" else None)  # type: ignore[arg-type]
    assert segmenter.segments.count(f"q: {query}") == (1 if form == "pairs" else 4)  # of 256 texts each
    assert len(segmenter.segments) <= 1010
