"""Compares the tokens of each family with those of transformers' ``AutoTokenizer`` on the same folder."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bert_serving.server.http.errors import BadRequest
from bert_serving.server.http.token_ids import TokenIds
from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.tokenizer import Tokenizer
from family_tokenizers import MULTILINGUAL, TOKENIZERS, write_tokenizer

pytest.importorskip("tokenizers")
pytest.importorskip("transformers")

#: White space at the ends, special tokens of all families inside, unknown characters, and a long text.
TEXTS = [
    "hello world",
    "  hello   world \n",
    "<s> hello </s> it <mask> is <pad> me <unk>",
    "[CLS] hello [SEP] it [MASK] is [PAD] me [UNK]",
    "<UNK> [unk] <Mask> it<unk>is",
    "''quoted'' ``quoted`` it's we'll",
    "word " * 100,
    "x" * 300,
]
PAIRS = [("who is it", "it is me"), ("hello", "你好"), ("word " * 40, "short"), ("short", "word " * 40), ("我", "Ё")]


@pytest.fixture(scope="module", params=TOKENIZERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """The tokenizer of transformers, and the file."""
    folder = tmp_path_factory.mktemp("tokenizer")
    return write_tokenizer(folder, request.param), folder / "tokenizer.json"


def read(path: Path, max_seq_len: int = 512, **settings: Any) -> Tokenizer:
    return load_tokenizer(path, lower_case=None, max_seq_len=max_seq_len, max_tokens=512, **settings)


def rows_of(tokenizer: Tokenizer, texts: list[Any]) -> list[list[int]]:
    found = tokenizer.encode(texts)
    ends = found.lengths.cumsum()
    return [found.input_ids[end - size : end].tolist() for end, size in zip(ends, found.lengths, strict=True)]


@pytest.mark.parametrize("max_seq_len", [512, 12])
def test_ids_are_those_of_transformers(written: tuple[Any, Path], max_seq_len: int) -> None:
    auto, path = written
    texts = [*TEXTS, *MULTILINGUAL, *map(str.upper, MULTILINGUAL)]
    expected = auto(texts, truncation=True, max_length=max_seq_len)["input_ids"]
    tokenizer = read(path, max_seq_len)
    assert rows_of(tokenizer, texts) == expected
    assert [rows_of(tokenizer, [text])[0] for text in texts] == expected


@pytest.mark.parametrize("max_seq_len", [512, 12])
def test_ids_and_types_of_pairs_are_those_of_transformers(written: tuple[Any, Path], max_seq_len: int) -> None:
    auto, path = written
    tokenizer = read(path, max_seq_len)
    for first, second in [*PAIRS, *pairwise(MULTILINGUAL)]:
        first, second = first.strip(), second.strip()
        expected = auto(first, second, truncation=True, max_length=max_seq_len, return_token_type_ids=True)
        found = tokenizer.encode([f"{first} ||| {second}", "x"])
        size = int(found.lengths[0])
        assert found.input_ids[:size].tolist() == expected["input_ids"]
        types = [0] * size if found.type_ids is None else found.type_ids[:size].tolist()
        assert types == expected["token_type_ids"]


def test_unknown_parts_are_counted(written: tuple[Any, Path]) -> None:
    auto, path = written
    texts = [*MULTILINGUAL, "hello"]
    expected = sum(row.count(auto.unk_token_id) for row in auto(texts)["input_ids"])
    assert read(path).encode(texts).num_unknown == expected
    assert read(path).encode(["hello"]).num_unknown == 0
    assert read(path).unknown_token == auto.unk_token


def test_listed_tokens_have_the_ids_of_transformers(written: tuple[Any, Path]) -> None:
    auto, path = written
    tokenizer = read(path)
    for ids in auto([*TEXTS, *MULTILINGUAL])["input_ids"]:
        assert rows_of(tokenizer, [auto.convert_ids_to_tokens(ids[1:-1])]) == [ids]
    listed = ["not-in-the-vocabulary", *auto.tokenize("hello")]
    inner = auto.convert_tokens_to_ids(listed)
    assert inner[0] == auto.unk_token_id
    found = tokenizer.encode([listed])
    assert found.input_ids[1:-1].tolist() == inner
    assert found.num_unknown == 1


def test_tokens_are_named_as_in_transformers(written: tuple[Any, Path]) -> None:
    auto, path = written
    tokenizer = read(path)
    expected = [auto.convert_ids_to_tokens(row) for row in auto(TEXTS)["input_ids"]]
    assert tokenizer.tokens(tokenizer.encode(TEXTS)) == expected


def test_padded_ids_of_transformers_are_the_texts_again(written: tuple[Any, Path]) -> None:
    auto, path = written
    tokenizer = read(path)
    token_ids = TokenIds(tokenizer.ids, tokenizer.frame, accept="framed")
    texts = [*MULTILINGUAL, *TEXTS[:2], TEXTS[5]]
    padded = auto(texts, padding=True)["input_ids"]
    assert rows_of(tokenizer, token_ids.tokens(padded)) == auto(texts)["input_ids"]
    firsts, seconds = zip(*[(first.strip(), second.strip()) for first, second in PAIRS], strict=True)
    padded = auto(list(firsts), list(seconds), padding=True)["input_ids"]
    assert rows_of(tokenizer, token_ids.tokens(padded)) == auto(list(firsts), list(seconds))["input_ids"]


def test_a_sequence_without_tokens_is_padding(written: tuple[Any, Path]) -> None:
    auto, path = written
    tokenizer = read(path, no_special_token=True)
    found = tokenizer.encode([[], auto.tokenize("hello")])
    assert found.mask is not None
    assert (found.input_ids[0], found.mask[0], found.lengths[0]) == (auto.pad_token_id, 0, 1)
    assert tokenizer.tokens(found)[0] == []


def test_the_shortest_length_is_that_of_a_pair(written: tuple[Any, Path]) -> None:
    auto, path = written
    shortest = auto.num_special_tokens_to_add(pair=True) + 1
    assert rows_of(read(path, shortest), ["hello ||| hello"])
    with pytest.raises(ValueError, match=f"max_seq_len is {shortest - 1}; it must be at least {shortest}"):
        read(path, shortest - 1)


def bytes_only(path: Path, vocab: list[str], post_processor: dict[str, Any]) -> Path:
    ids = {token: index for index, token in enumerate(vocab)}
    values = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": post_processor,
        "model": {"type": "BPE", "vocab": ids, "merges": []},
    }
    path.write_text(json.dumps(values), "utf-8")
    return path


FRAME = {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]}
FRAME |= {"trim_offsets": True, "add_prefix_space": False}


def test_a_vocabulary_without_unknown_token_refuses_tokens_that_it_lacks(tmp_path: Path) -> None:
    tokenizer = read(bytes_only(tmp_path / "tokenizer.json", ["<s>", "</s>", "a", "b", "|||"], FRAME))
    assert rows_of(tokenizer, ["ab", "abz"]) == [[0, 2, 3, 1], [0, 2, 3, 1]]
    assert rows_of(tokenizer, [["a", "b"]]) == [[0, 2, 3, 1]]
    with pytest.raises(ValueError, match="lacks the token 'z', and has no token for unknown text"):
        tokenizer.encode([["a"], ["a", "z"]])
    assert tokenizer.frame.padding is None
    assert tokenizer.unknown_token is None


def test_an_id_of_the_separator_of_pairs_is_refused(tmp_path: Path) -> None:
    tokenizer = read(bytes_only(tmp_path / "tokenizer.json", ["<s>", "</s>", "a", "b", "|||"], FRAME))
    token_ids = TokenIds(tokenizer.ids, tokenizer.frame)
    assert token_ids.tokens([[0, 2, 1, 1, 3, 1]]) == [["a", "|||", "b"]]
    with pytest.raises(BadRequest, match=r"item 1 has the token '\|\|\|'.*send the text"):
        token_ids.tokens([[2], [2, 4, 3]])


def test_types_that_cannot_be_placed_are_refused(tmp_path: Path) -> None:
    a, b = {"Sequence": {"id": "A", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 0}}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [end, a, end],
        "pair": [end, a, end, b, end],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    with pytest.raises(ValueError, match="types"):
        read(bytes_only(tmp_path / "tokenizer.json", ["<s>", "</s>", "a"], template))
