"""The input of ``bert-serving-encode``: every line occurs once, and every position can be resumed."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client._cli.corpus import Corpus, CorpusError, count_lines

LINES = st.lists(st.text(st.characters(exclude_characters="\r\n\ufeff", codec="utf-8"), max_size=5), max_size=12)


def corpus(content: bytes, blank: str) -> Corpus:
    return Corpus(io.BytesIO(content), "corpus.txt", blank)


@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.sampled_from(["skip", "zeros"]), st.integers(1, 5))
def test_every_line_is_in_exactly_one_chunk(
    lines: list[str], newline: str, has_end: bool, blank: str, size: int
) -> None:
    content = (newline.join(lines) + (newline if has_end and lines else "")).encode()
    number = count_lines(io.BytesIO(content))
    wanted = {i: "" if line.isspace() else line for i, line in enumerate(lines[:number], 1)}
    chunks = list(corpus(content, blank).chunks(size))
    got = {i: text for chunk in chunks for i, text in zip(chunk.numbers, chunk.texts, strict=True)}
    assert got == (wanted if blank == "zeros" else {i: text for i, text in wanted.items() if text})
    assert all(sum(map(bool, chunk.texts)) == size for chunk in chunks[:-1])
    # Reading can resume after any chunk, also if the file has grown.
    for place, chunk in enumerate(chunks):
        again = corpus(content + b"\nmore", blank)
        again.skip_to(chunk.end)
        rest = [number for later in again.chunks(size) for number in later.numbers]
        assert rest[: sum(len(later.numbers) for later in chunks[place + 1 :])] == [
            number for later in chunks[place + 1 :] for number in later.numbers
        ]


@given(st.binary(min_size=1, max_size=30), st.data())
def test_changed_byte_is_detected(content: bytes, data: st.DataObject) -> None:
    first = corpus(b"text\n" + content.replace(b"\n", b".") + b"\nlast\n", "skip")
    mark = None
    try:
        for chunk in first.chunks(1):
            mark = mark or chunk.end
    except CorpusError:
        return  # not UTF-8
    assert mark is not None
    changed = bytearray(b"text\n" + content.replace(b"\n", b".") + b"\nlast\n")
    changed[data.draw(st.integers(0, mark.bytes - 1))] ^= 1
    with pytest.raises(CorpusError, match="differs from the input"):
        corpus(bytes(changed), "skip").skip_to(mark)


def test_blank_is_an_error_by_default() -> None:
    with pytest.raises(CorpusError, match=r"corpus.txt, line 2 is blank"):
        list(corpus(b"one\n \n", "error").chunks(8))
