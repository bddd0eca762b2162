"""Parts of long texts: their offsets, their tokens and the places where texts are cut, with every kind of tokenizer."""

# ruff: noqa: RUF001 (ambiguous letters are intended)

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_serving.server.tokenization.boundaries import cuts, sentence_spans
from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.long_texts import SHARE, tokenize_parts
from bert_serving.server.tokenization.tokenizer import Tokenized, Tokenizer
from family_tokenizers import MULTILINGUAL, write_tokenizer

VOCAB = Path(__file__).parent.parent / "data" / "bert_uncased_vocab.txt"
LENGTHS = (5, 7, 25, 64)
#: Scripts, marks and emoji; the ends of sentences; control characters, NUL among them; and words that repeat.
PIECES = [
    *MULTILINGUAL,
    "The cat sat on the mat. It purred! Did it? ",
    "e.g. this, etc. and so on. ",
    "猫が座った。犬も来た！本当に？",
    "هل جاءت القطة؟ نعم. ",
    "बिल्ली बैठी। वह सोई॥ ",
    "\n",
    "\r\n\r\n",
    "   ",
    "\x00\x07",
    "a\u0301\u0323\u0344" * 3,
    "🇩🇪🇫🇷🇯🇵",
    "👩‍👩‍👧‍👦",
    "x" * 60,
    "漢字" * 20,
    "...",
]
LONG_TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=30).map("".join)
TEXTS = LONG_TEXTS.filter(lambda text: not any(0xD800 <= ord(char) < 0xE000 for char in text))


@cache
def tokenizer(kind: str, max_seq_len: int) -> Tokenizer:
    if kind == "wordpiece":
        return load_tokenizer(VOCAB, lower_case=True, max_seq_len=max_seq_len, max_tokens=512)
    pytest.importorskip("transformers")
    folder = Path(mkdtemp())
    write_tokenizer(folder, kind)
    return load_tokenizer(folder / "tokenizer.json", lower_case=None, max_seq_len=max_seq_len, max_tokens=512)


def split(made: Tokenizer, text: str, prompt: str = "", has_overlap: bool = False) -> Tokenized:
    return tokenize_parts(made, [text], prompt, False, has_overlap)


def spans(tokenized: Tokenized) -> list[tuple[int, int]]:
    assert tokenized.parts is not None
    return [(start, stop) for _, start, stop, _ in tokenized.parts.tolist()]


def rows(tokenized: Tokenized) -> list[list[int]]:
    return [row.tolist() for row in np.split(tokenized.input_ids, np.cumsum(tokenized.lengths)[:-1])]


@pytest.mark.parametrize("has_overlap", [False, True])
@pytest.mark.parametrize("kind", ["wordpiece", "xlm-roberta", "roberta"])
@settings(max_examples=25)
@given(text=TEXTS, length=st.sampled_from(LENGTHS), prompt=st.sampled_from(["", "query: "]))
@example(text=" ".join(MULTILINGUAL), length=25, prompt="")
@example(text="", length=5, prompt="")
@example(text=" " * 300, length=5, prompt="")
@example(text="\u0301" * 300, length=7, prompt="")
def test_each_part_has_the_tokens_of_its_characters(
    kind: str, has_overlap: bool, text: str, length: int, prompt: str
) -> None:
    if length < 25:
        prompt = ""
    made = tokenizer(kind, length)
    tokenized = split(made, text, prompt, has_overlap)
    found = spans(tokenized)
    for row, (ids, (start, stop)) in enumerate(zip(rows(tokenized), found, strict=True)):
        alone = made.segment(text[start:stop], prompt)
        assert len(ids) <= length
        assert ids[1:-1] == alone[: length - 2]
        assert (len(alone) > length - 2) == (row in tokenized.truncated)
    covered = np.zeros(len(text), bool)
    for start, stop in found:
        assert 0 <= start <= stop <= len(text)
        covered[start:stop] = True
    assert not "".join(char for char, seen in zip(text, covered.tolist(), strict=True) if not seen).strip()
    for (start, stop), (following, end) in pairwise(found):
        assert start < following
        assert stop < end
        assert has_overlap or stop <= following
    if len(found) == 1:
        assert found == [(0, len(text))] or text.strip() == text[slice(*found[0])]


@settings(max_examples=50)
@given(words=st.lists(st.sampled_from(["the", "cat", "sat.", "mats", "unaffable", "It", "x!", "(no.)"]), max_size=120))
def test_parts_without_overlap_have_the_tokens_of_the_text(words: list[str]) -> None:
    made, text = tokenizer("wordpiece", 25), " ".join(words)
    ids = [index for row in rows(split(made, text)) for index in row[1:-1]]
    assert ids == made.segment(text, "")


@pytest.mark.parametrize("kind", ["wordpiece", "xlm-roberta", "roberta"])
def test_a_sentence_that_fits_is_never_cut(kind: str) -> None:
    made = tokenizer(kind, 64)
    sentences = [f"The cat number {index} sat on its mat, and saw others." for index in range(40)]
    for has_overlap in (False, True):
        found = spans(split(made, " ".join(sentences), has_overlap=has_overlap))
        assert len(found) > 5
        for start, stop in found:
            part = " ".join(sentences)[start:stop]
            assert part.startswith("The cat")
            assert part.endswith("others.")


def test_a_sentence_ends_before_white_space_and_at_line_breaks() -> None:
    text = 'He left. "Why?" she asked (of all). See e.g. this\n- a list\n- another one 3.5 m。次です。終わり'
    parts = [text[start:stop] for start, stop in sentence_spans(text)]
    assert parts == ["He left.", '"Why?" she asked (of all).', "See e.g. this", "- a list", "- another one 3.5 m。",
                     "次です。", "終わり"]  # fmt: skip


@pytest.mark.parametrize("text", ["e\u0301\u0323", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "각", "क्‍ष", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"], ids=ascii)
def test_characters_that_belong_together_are_not_separated(text: str) -> None:
    many = text * 9
    for number in (2, 3, 9, 40):
        found = cuts(many, 0, len(many), number)
        assert found
        assert not [offset for offset in found if offset % len(text)]


def test_weights_count_shared_tokens_once() -> None:
    made = tokenizer("wordpiece", 64)
    text = " ".join(f"the cat sat on mat {number}." for number in "abcdefgh" * 12)
    tokenized = split(made, text, has_overlap=True)
    assert tokenized.parts is not None
    total = len(made.segment(text, ""))
    assert tokenized.parts[:, 3].sum() == 2 * total
    overlaps = [max(0, stop - start) for (_, stop), (start, _) in pairwise(spans(tokenized))]
    assert all(overlaps)
    assert int(tokenized.lengths.sum()) - 2 * len(tokenized.lengths) <= total * (1 + 1 / (SHARE - 1)) + 64


@pytest.mark.parametrize("make", [lambda: "a ||| b", lambda: "word\udce9 " * 50])
def test_pairs_and_surrogates_are_refused(make: Callable[[], str]) -> None:
    with pytest.raises(ValueError, match=r"text 8 (is a pair|has half of a surrogate pair)"):
        tokenize_parts(tokenizer("wordpiece", 25), ["hello", make()], None, True, False, first_row=7)
    if "|||" in make():
        assert len(tokenize_parts(tokenizer("wordpiece", 25), [make()], None, False, False).lengths) == 1


def test_a_prompt_that_leaves_little_room_is_refused() -> None:
    made = tokenizer("wordpiece", 25)
    assert len(split(made, "short", "the " * 12).lengths) == 1
    with pytest.raises(ValueError, match="the prompt has 12 tokens, more than half of the 23"):
        split(made, "word " * 30, "the " * 12)
    assert len(split(made, "word " * 30, "the " * 11).lengths) == 3


@pytest.mark.parametrize(
    "text", ["." * 20_000, " " * 20_000 + "a", "a" * 20_000, "\u0301" * 20_000, "a. " * 7_000, "\n" * 20_000 + "a"],
    ids=["dots", "spaces", "word", "marks", "sentences", "lines"],
)  # fmt: skip
def test_odd_texts_are_split_in_linear_time(text: str) -> None:
    calls = 0
    made = tokenizer("wordpiece", 25)
    measured = made.segment_all

    def count(texts: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal calls
        calls += sum(map(len, texts))
        return measured(texts, max_words)

    made.segment_all = count  # type: ignore[method-assign]
    try:
        split(made, text, has_overlap=True)
    finally:
        del made.segment_all  # type: ignore[method-assign]
    assert calls < 12 * len(text)


@pytest.mark.parametrize("kind", ["wordpiece", "xlm-roberta", "roberta"])
def test_a_word_that_fits_is_never_cut(kind: str) -> None:
    made, text = tokenizer(kind, 25), "unaffable words, rearranged without any sentence " * 12
    for has_overlap in (False, True):
        found = spans(split(made, text, has_overlap=has_overlap))
        assert len(found) > 5
        for start, stop in found:
            assert not text[start - 1 : start].strip()
            assert not text[stop : stop + 1].strip()


def test_parts_of_a_text_without_spaces_are_full() -> None:
    made = tokenizer("wordpiece", 64)
    lengths = split(made, "漢" * 1000).lengths
    assert len(lengths) <= 1000 / 62 * 8 / 7 + 1
