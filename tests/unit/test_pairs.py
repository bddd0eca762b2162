"""Pairs of texts as data: their tokens are those of the library `tokenizers`, and their JSON is checked."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import InvalidRequest, RequestError, TooLarge
from bert_serving.server.model.errors import ModelError
from bert_serving.server.scheduling.jobs import JobOptions
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.tokenization.factory import load_tokenizer, make_tokenizer
from bert_serving.server.tokenization.request_texts import RequestLimits, read_pieces, read_texts, tokenize
from bert_serving.server.tokenization.tokenizer import Tokenizer
from bert_serving.server.tokenization.wordpiece import LONG_TEXT
from bert_serving.server.ventilator.requests import INLINE_BYTES
from model_folders import hf_tensors, write_hf

library = pytest.importorskip("tokenizers")

WORDS = ["a", "b", "##c", "d", "|||", "-"]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def wordpiece(folder: Path) -> Any:
    """Returns the tokenizer of BERT, and writes its ``tokenizer.json``."""
    ids = {token: index for index, token in enumerate([*SPECIALS, *WORDS])}
    made = library.Tokenizer(library.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = library.normalizers.BertNormalizer()
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.post_processor = library.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    made.save(str(folder / "tokenizer.json"))
    return made


def of_bytes(folder: Path, pair: str | None = None) -> Any:
    """Returns the tokenizer of RoBERTa, or one with another form of pairs, and writes its ``tokenizer.json``."""
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate([*specials, *alphabet])}
    made = library.Tokenizer(library.models.BPE(ids, []))
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = library.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    if pair is not None:
        template = {"single": "<s> $A </s>", "pair": pair, "special_tokens": [("<s>", 0), ("</s>", 2)]}
        made.post_processor = library.processors.TemplateProcessing(**template)
    made.save(str(folder / "tokenizer.json"))
    return made


def loaded(folder: Path, max_seq_len: int, **settings: Any) -> Tokenizer:
    path = folder / "tokenizer.json"
    return load_tokenizer(path, lower_case=None, max_seq_len=max_seq_len, max_tokens=512, **settings)


def assert_equal(tokenizer: Tokenizer, reference: Any, pairs: list[tuple[str, str]], longest: int) -> None:
    reference.enable_truncation(longest, strategy="longest_first")
    wanted = reference.encode_batch(pairs)
    found = tokenizer.encode(pairs, pairs=True)
    assert found.lengths.tolist() == [len(each.ids) for each in wanted]
    assert found.input_ids.tolist() == [number for each in wanted for number in each.ids]
    types = np.zeros_like(found.input_ids) if found.type_ids is None else found.type_ids
    assert types.tolist() == [kind for each in wanted for kind in each.type_ids]
    assert found.truncated.tolist() == [index for index, each in enumerate(wanted) if each.overflowing]


texts = st.lists(st.sampled_from(["a", "b", "ac", "dc", "|||", "-", "\n", "zz", ""]), max_size=12).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=5), st.integers(5, 15), st.booleans())
def test_the_tokens_of_pairs_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], longest: int, is_bert: bool
) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    reference = (wordpiece if is_bert else of_bytes)(folder)
    assert_equal(loaded(folder, longest), reference, pairs, longest)


@given(st.lists(texts, min_size=1, max_size=5))
def test_a_request_of_single_texts_has_no_pair(tmp_path_factory: pytest.TempPathFactory, singles: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tokenizer")
    reference = wordpiece(folder)
    tokenizer = loaded(folder, 100)
    for rows in (singles, ["a ||| b"], [*singles, "a ||| b"]):
        wanted = [reference.encode(text).ids for text in rows]
        found = tokenize(tokenizer, rows, JobOptions(pairs=False))
        assert found.type_ids is None
        assert found.input_ids.tolist() == [number for row in wanted for number in row]
        assert [tokenizer.count(text, pairs=False) for text in rows] == list(map(len, wanted))


def test_of_two_texts_that_are_not_read_to_their_end_the_longer_one_has_the_odd_token(tmp_path: Path) -> None:
    reference = wordpiece(tmp_path)
    unknown = "z" * 300  # one token; the library makes a row for each part that it cuts off, so there are few
    long, longer = (f"{unknown} " * number for number in (40, 41))
    assert len(long) > LONG_TEXT
    # The text with fewer words has more tokens.
    dense = f"{unknown} " * 20 + "ac " * 15
    pairs = [(long, longer), (longer, long), (dense, long), (long, dense), (long, long)]
    for longest in (8, 9, 10):
        assert_equal(loaded(tmp_path, longest), reference, pairs, longest)


def test_a_prompt_is_put_before_the_first_text(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    tokenizer = loaded(tmp_path, 20, prompt="d ")
    for prompt, one in ((None, "d a"), ("", "a"), ("b ", "b a")):
        found, wanted = (
            tokenizer.encode([["a", "b"]], prompt, pairs=True),
            tokenizer.encode([[one, "b"]], "", pairs=True),
        )
        assert found.input_ids.tolist() == wanted.input_ids.tolist()
        assert sum(tokenizer.count_pair(["a", "b"], prompt)) + 3 == len(wanted.input_ids)


def test_a_pair_that_is_too_long_is_refused_with_its_length(tmp_path: Path) -> None:
    wordpiece(tmp_path)
    tokenizer = loaded(tmp_path, 8)
    options = JobOptions(truncate=False, pairs=True)
    assert tokenize(tokenizer, [("a b", "a b d")], options).lengths.tolist() == [8]
    with pytest.raises(TooLarge, match=r"pair 7 has 20000 and 20000 tokens, 40003 with .* is 8 "):
        tokenize(tokenizer, [("a", ""), ("a " * 20_000, "b " * 20_000)], options, first_row=6)


@pytest.mark.parametrize("pair", ["<s> $A $B </s>", "$A:0 $B:0", "<s> $A </s> $B"])
def test_a_tokenizer_without_a_form_for_pairs_serves_single_texts(tmp_path: Path, pair: str) -> None:
    of_bytes(tmp_path, pair)
    tokenizer = loaded(tmp_path, 20)
    assert tokenizer.encode(["ab"]).lengths.tolist() == [4]
    for items, pairs in (([("a", "b")], True), (["x", "a ||| b"], None)):
        with pytest.raises(InvalidRequest, match=r"pairs of texts, but the tokenizer of this model has no form"):
            tokenize(tokenizer, items, JobOptions(pairs=pairs))


def test_a_model_with_one_type_of_token_has_no_pairs_unless_its_tokenizer_gives_them_one_type(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, hf_tensors(), type_vocab_size=1)
    config, model = read_model(ServerConfig.from_dict({"model_dir": str(folder)}), logging.getLogger("test"))
    with pytest.raises(InvalidRequest, match="pairs of texts, but the model has one type of token"):
        tokenize(make_tokenizer(config, model), [("a", "b")], JobOptions(pairs=True))
    with pytest.raises(ModelError, match=r"-task rerank scores pairs.*one type of token.*-task classify"):
        make_tokenizer(config.with_(task="rerank"), model)
    of_bytes(folder)
    model = dataclasses.replace(model, vocab_path=str(folder / "tokenizer.json"))
    assert tokenize(make_tokenizer(config, model), [("a", "b")], JobOptions(pairs=True)).lengths.tolist() == [6]


# ---- JSON --------------------------------------------------------------------------------------------------------

LIMITS = RequestLimits(max_request_size=5000, max_text_length=100)


def pieces(message: bytes, limits: RequestLimits = LIMITS) -> list[Any]:
    return [text for piece in read_pieces(message, limits, pairs=True) if piece for text in piece.texts]


def read_both_ways(message: bytes) -> list[Any]:
    """Reads a message in each way; both must give the same pairs, or the same error."""
    results: list[Any] = []
    for read in (lambda: read_texts(message, LIMITS, pairs=True), lambda: pieces(message)):
        try:
            results.append(read())
        except RequestError as error:
            results.append(error)
    if isinstance(results[0], RequestError) or isinstance(results[1], RequestError):
        assert type(results[0]) is type(results[1])
        raise results[0]
    assert results[0] == results[1]
    return results[0]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), min_size=1, max_size=10), st.booleans())
def test_pairs_of_any_texts_are_read(pairs: list[tuple[str, str]], is_ascii: bool) -> None:
    assert read_both_ways(json.dumps(pairs, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")) == pairs


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "the list of texts is empty"),
        (["a"], "item 0 must be a pair, a list of two texts, received a string"),
        ([["a", "b"], ["a"]], "item 1 must be a pair, .* received a list of 1 values"),
        ([["a", "b"], ["a", "b", "c"]], "item 1 must be a pair, .* received a list of 3 values"),
        ([["a", "b"], ["a", 3]], "item 1 must be a pair, .* received a list of a string and a number"),
        ([["a", "b"], ["a", ["b"]]], "item 1 must be a pair, .* received a list of a string and a list"),
        ([["a", "b"], None], "item 1 must be a pair, .* received null"),
        ([["a", "b"], {"a": "b"}], "item 1 must be a pair, .* received an object"),
        ({"a": "b"}, "the texts must be a JSON list, received an object"),
        ([["a", "b" * 101]], r"text 0 has 101 characters; the limit is 100 \(-max_text_length\)"),
    ],
)
def test_what_is_no_pair_is_refused_with_its_index(items: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_both_ways(json.dumps(items).encode())


def test_large_messages_of_pairs_are_counted_before_they_are_decoded() -> None:
    many = [[f"a{row}", "b"] for row in range(5000)]
    message = json.dumps(many).encode()
    assert len(message) > INLINE_BYTES
    assert pieces(message) == [tuple(pair) for pair in many]
    with pytest.raises(TooLarge, match="5001 texts in one request"):
        pieces(json.dumps([*many, ["a", "b"]]).encode())
    with pytest.raises(InvalidRequest, match="3000000 texts in 1 pairs; send a JSON list of pairs"):
        pieces(b"[[" + b",".join([b'""'] * 3_000_000) + b"]]")
    with pytest.raises(InvalidRequest, match="3000 texts in 3000 pairs"):
        pieces(json.dumps([["a"]] * 3000).encode())
    large = RequestLimits(10, 2**24)
    text = "x" * 2**23
    assert pieces(json.dumps([[text, text], ["a", text]]).encode(), large) == [(text, text), ("a", text)]
