"""Windows of long texts: the tokens of each part, the context before it, and their rows in batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_long_texts import TEXTS, rows
from test_long_texts import tokenizer as tokenizer_of

from bert_serving.server.scheduling.jobs import Job, JobChunk, JobOptions, RequestKey, pack
from bert_serving.server.scheduling.scheduler import BatchSlice
from bert_serving.server.tokenization.messages import TaskResult
from bert_serving.server.tokenization.tokenizer import Tokenized, Tokenizer
from bert_serving.server.tokenization.windows import WHOLE, tokenize_windows

SENTENCE = "the cat sat on the mat. "


def tokenizer(kind: str, max_seq_len: int, max_positions: int) -> Tokenizer:
    made = tokenizer_of(kind, max_seq_len)
    made.max_positions = max_positions
    return made


@pytest.mark.parametrize("kind", ["wordpiece", "roberta"])
@settings(max_examples=25)
@given(
    texts=st.lists(TEXTS, min_size=1, max_size=3), length=st.sampled_from([7, 25]), positions=st.sampled_from([25, 64])
)
@example(texts=[SENTENCE * 40, "", SENTENCE], length=25, positions=64)
def test_windows_have_the_tokens_of_their_parts(kind: str, texts: list[str], length: int, positions: int) -> None:
    made = tokenizer(kind, length, positions)
    prompt = "query: " if length == 25 else ""
    tokenized = tokenize_windows(made, texts, prompt, False, first_row=5)
    assert tokenized.parts is not None
    assert tokenized.segments is not None
    windows = rows(tokenized)
    assert max(map(len, windows)) <= positions
    assert len(tokenized.parts) == len(tokenized.segments)
    assert tokenized.parts[:, 0].tolist() == sorted(tokenized.parts[:, 0].tolist())
    assert set(tokenized.parts[:, 0].tolist()) == set(range(5, 5 + len(texts)))
    head = len(made.segment("", prompt))
    for part, (text, start, stop, _), (window, first, last) in zip(
        range(len(tokenized.parts)), tokenized.parts.tolist(), tokenized.segments.tolist(), strict=True
    ):
        if last == WHOLE:
            assert (start, stop) == (0, len(texts[text - 5]))
            assert windows[window][1:-1] == made.segment(texts[text - 5], prompt)
            continue
        alone, room = made.segment(texts[text - 5][start:stop], ""), min(length, positions - head) - 2
        assert windows[window][first:last] == alone[:room]
        assert (part in tokenized.truncated) == (len(alone) > room)
        assert first > head
    # Each token of a window is of the frame, the prompt, a part, or of parts of the window before.
    for window in range(len(windows)):
        own = tokenized.segments[tokenized.segments[:, 0] == window]
        if own[0, 2] != WHOLE:
            assert (own[1:, 1] == own[:-1, 2]).all()
            assert own[-1, 2] == len(windows[window]) - 1
            assert own[0, 1] - 1 - head <= (positions - 2 - head) // 8


def test_a_window_begins_with_the_end_of_the_window_before() -> None:
    made = tokenizer("wordpiece", 9, 64)
    tokenized = tokenize_windows(made, [SENTENCE * 40], "", False)
    assert tokenized.segments is not None
    starts = [
        int(tokenized.segments[tokenized.segments[:, 0] == window][0, 1]) for window in range(len(rows(tokenized)))
    ]
    assert starts == [1, *[8] * (len(starts) - 1)]  # one sentence of seven tokens


def chunk_of(job: Job, tokenized: Tokenized, first_row: int = 0) -> JobChunk:
    job.chunks.append(chunk := JobChunk(job, first_row, tokenized))
    return chunk


def test_rows_of_windows_share_batches_with_whole_texts() -> None:
    made = tokenizer("wordpiece", 9, 32)
    late = Job(1, RequestKey(b"a", b"1", b""), 0, 0.0, JobOptions(long="late", vector_code=5))
    late.id = 7
    first = chunk_of(late, tokenize_windows(made, [SENTENCE * 6, SENTENCE], "", False), 10)
    plain = Job(2, RequestKey(b"b", b"1", b""), 2, 0.0)
    plain.id = 8
    second = chunk_of(plain, made.encode(["the cat", "a mat"]))
    lengths = first.tokenized.lengths
    assert first.num_rows == 7
    assert len(lengths) < 7
    chosen = np.array([len(lengths) - 1, 0])
    packed = pack(
        [BatchSlice(first, chosen, lengths[chosen]), BatchSlice(second, np.array([1]), np.array([4], np.int32))]
    )
    segments = np.frombuffer(packed.segments, np.int32).reshape(-1, 3)
    assert segments[0].tolist() == [0, 0, WHOLE]
    assert segments[-1].tolist() == [2, 0, WHOLE]
    assert (segments[1:-1, 0] == 1).all()
    assert packed.manifest.tolist() == [[7, 16], *([7, 10 + row] for row in range(len(segments) - 2)), [8, 1]]
    assert np.frombuffer(packed.vector_codes, np.int32).tolist() == [5] * (len(segments) - 1) + [0]
    assert first.describe(0).startswith("the part of text 0 from character 0 to ")


def test_windows_return_from_tokenizer_processes_unchanged() -> None:
    made = tokenize_windows(tokenizer("wordpiece", 9, 32), [SENTENCE * 6, SENTENCE], "", False)
    found = TaskResult.of(3, made).to_tokenized()
    for name in ("input_ids", "lengths", "truncated", "parts", "segments"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
