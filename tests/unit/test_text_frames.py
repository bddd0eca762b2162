"""Markers, lengths and expansions of tokenized texts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.model.token_heads import TextFrame
from bert_serving.server.tokenization.text_frames import put_frame
from bert_serving.server.tokenization.tokenizer import Tokenized

FRAMES = st.builds(
    TextFrame,
    marker_id=st.none() | st.just(7),
    max_length=st.none() | st.integers(3, 9),
    expansion_id=st.just(8),
    expansion_length=st.integers(0, 9),
    attends=st.booleans(),
)


def framed(tokens: list[int], frame: TextFrame) -> tuple[list[int], list[int], bool]:
    """Returns the tokens of one text, their mask, and whether the text is cut."""
    marker = [] if frame.marker_id is None else [frame.marker_id]
    limit = len(tokens) if frame.max_length is None else frame.max_length - len(marker)
    kept = tokens if len(tokens) <= limit else [*tokens[: limit - 1], tokens[-1]]
    whole = [kept[0], *marker, *kept[1:]]
    added = max(0, frame.expansion_length - len(whole))
    return whole + [8] * added, [1] * len(whole) + [int(frame.attends)] * added, len(tokens) > limit


@given(st.lists(st.lists(st.integers(10, 99), min_size=2, max_size=14), min_size=1, max_size=6), FRAMES)
def test_each_text_gets_its_frame(texts: list[list[int]], frame: TextFrame) -> None:
    ids = np.array([token for text in texts for token in text], np.int32)
    lengths = np.array([len(text) for text in texts], np.int32)
    truncated = np.array([0], np.int32)
    found = put_frame(Tokenized(ids, ids % 2, None, lengths, truncated, 3), frame)
    wanted = [framed(text, frame) for text in texts]
    assert found.input_ids.tolist() == [token for tokens, _, _ in wanted for token in tokens]
    masks = [value for _, mask, _ in wanted for value in mask]
    assert (found.mask is None) == all(masks)
    assert found.mask is None or found.mask.tolist() == masks
    assert found.lengths.tolist() == [len(tokens) for tokens, _, _ in wanted]
    assert found.truncated.tolist() == [row for row, (_, _, is_cut) in enumerate(wanted) if is_cut or row == 0]
    assert found.type_ids is not None
    own = np.array([token >= 10 for token in found.input_ids.tolist()])
    assert (found.type_ids == np.where(own, found.input_ids % 2, 0)).all()
    assert {array.dtype for array in (found.input_ids, found.type_ids, found.lengths, found.truncated)} == {
        np.dtype(np.int32)
    }
