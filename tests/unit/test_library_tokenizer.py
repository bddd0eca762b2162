"""Compares the tokens of ``tokenizer.json`` files with those of the library `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.library_tokenizer import LibrarySegmenter
from bert_serving.server.tokenization.tokenizer import Tokenizer
from bert_serving.server.tokenization.wordpiece import WordPiece
from family_tokenizers import MULTILINGUAL

tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")

VOCAB = Path(__file__).parent.parent / "data" / "bert_uncased_vocab.txt"
TEXTS = [
    "hello world",
    "A cat sat [MASK] the mat. [SEP] And then?",
    "[CLS][SEP] x[MASK]y",
    "Ein schöner Tag im Café",
    "私は猫が好きです",
    "",
    "word " * 100,
    "<mask> in </s> between",
]
PAIRS = [("who is it", "it is me"), ("word " * 40, "short"), ("short", "word " * 40)]
Make = Callable[..., Path]


def bert(**changes: Any) -> Any:
    """BERT's own fast tokenizer, with components replaced."""
    words = [*changes.get("first_words", []), *VOCAB.read_text("utf-8").splitlines()]
    ids = {word: index for index, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = changes.get("normalizer", tokenizers.normalizers.BertNormalizer(lowercase=True))
    made.pre_tokenizer = changes.get("pre_tokenizer", tokenizers.pre_tokenizers.BertPreTokenizer())
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.add_tokens(changes.get("added", []))
    return made


def mpnet(**changes: Any) -> Any:
    """BERT's WordPiece between ``<s>`` and ``</s>``, as MPNet has it: ``<unk>`` is found in lower-cased text."""
    made = bert(first_words=["<s>", "</s>", "<pad>", "<unk>"], **changes)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    special = [tokenizers.AddedToken("<mask>", lstrip=True), tokenizers.AddedToken("<unk>", normalized=True)]
    made.add_special_tokens(["<s>", "</s>", "<pad>", *special])
    return made


def unigram() -> Any:
    """A tokenizer as XLM-RoBERTa has it: four special tokens around a pair, no type 1."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -5.0) for word in ("hello", "world", "word", "cat", "who", "is", "it", "me", "short")]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyz.?私猫好"]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    made.normalizer = tokenizers.normalizers.NFKC()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    return made


def byte_level() -> Any:
    """A tokenizer as RoBERTa has it, without merges: bytes."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    ids = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *alphabet])}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return made


KINDS = {
    "bert": (bert, WordPiece),
    "mpnet": (mpnet, WordPiece),
    "bert with words of its own": (lambda: bert(added=["bert-as-service", "ninja"]), LibrarySegmenter),
    "bert with other rules": (
        lambda: bert(
            normalizer=tokenizers.normalizers.Lowercase(), pre_tokenizer=tokenizers.pre_tokenizers.Whitespace()
        ),
        LibrarySegmenter,
    ),
    "unigram": (unigram, LibrarySegmenter),
    "byte level": (byte_level, LibrarySegmenter),
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, type]:
    """The library's tokenizer, its file (with truncation and padding switched on), and what should compute it."""
    make, segmenter = KINDS[request.param]
    made = make()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.enable_truncation(8)
    made.enable_padding(length=8)
    made.save(str(path))
    made.no_truncation()
    made.no_padding()
    return made, path, segmenter


def read(path: Path, max_seq_len: int = 512) -> Tokenizer:
    return load_tokenizer(path, lower_case=None, max_seq_len=max_seq_len, max_tokens=512)


def rows_of(tokenizer: Tokenizer, texts: list[Any]) -> list[list[int]]:
    found = tokenizer.encode(texts)
    ends = found.lengths.cumsum()
    return [found.input_ids[end - size : end].tolist() for end, size in zip(ends, found.lengths, strict=True)]


def test_the_fast_path_is_taken_for_bert_alone(kind: tuple[Any, Path, type]) -> None:
    _, path, segmenter = kind
    assert type(read(path)._segmenter) is segmenter


def test_ids_are_those_of_the_library(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    tokenizer = read(path)
    expected = [encoding.ids for encoding in library.encode_batch(TEXTS)]
    assert rows_of(tokenizer, TEXTS) == expected
    assert [rows_of(tokenizer, [text])[0] for text in TEXTS] == expected


def test_ids_of_many_scripts_are_those_of_the_library(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    tokenizer = read(path)
    texts = [*MULTILINGUAL, " | ".join(MULTILINGUAL)[:100], *map(str.upper, MULTILINGUAL)]
    expected = [encoding.ids for encoding in library.encode_batch(texts)]
    assert rows_of(tokenizer, texts) == expected
    assert [rows_of(tokenizer, [text])[0] for text in texts] == expected


def test_lone_surrogates_are_removed(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    texts = ["h\ud800ello", "\udfff", "cat \ud83d\ud83d ||| \ude00world"]
    expected = [library.encode("hello").ids, library.encode("").ids, library.encode("cat ", "world").ids]
    assert rows_of(read(path), texts) == expected
    assert rows_of(read(path), texts[:1]) == expected[:1]


def test_a_pair_in_the_request_changes_no_other_text(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    texts = ["  hello  world ", "\n hello\n", "\u3000cat\u3000", "hello ||| "]
    expected = [library.encode(text).ids for text in texts]
    assert rows_of(read(path), [*texts, "who is it ||| it is me"])[:-1] == expected


def test_pairs_are_framed_and_cut_as_by_the_library(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    for first, second in PAIRS:
        encoding = library.encode(first.strip(), second.strip())
        tokenized = read(path).encode([f"{first.strip()} ||| {second.strip()}", "x"])
        size = int(tokenized.lengths[0])
        assert tokenized.input_ids[:size].tolist() == encoding.ids
        types = [0] * size if tokenized.type_ids is None else tokenized.type_ids[:size].tolist()
        assert types == encoding.type_ids


def test_long_texts_are_cut_as_by_the_library(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    library.enable_truncation(12)
    try:
        expected = [encoding.ids for encoding in library.encode_batch(TEXTS)]
    finally:
        library.no_truncation()
    assert rows_of(read(path, 12), TEXTS) == expected


def test_listed_tokens_are_looked_up(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    tokens = library.encode("hello world").tokens
    assert rows_of(read(path), [tokens[1:-1]]) == [library.encode("hello world").ids]


def test_segments_are_whole_texts_without_special_tokens(kind: tuple[Any, Path, type]) -> None:
    library, path, _ = kind
    texts = [*TEXTS, *MULTILINGUAL, "hello ||| world"]
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert list(map(read(path, 8).segment, texts)) == expected


def test_decoded_texts_are_those_of_the_library(kind: tuple[Any, Path, type]) -> None:
    library, path, segmenter = kind
    tokenizer = read(path)
    if segmenter is WordPiece:
        library.decoder = tokenizers.decoders.WordPiece()
    for text in [*TEXTS, *MULTILINGUAL, "don't stop! is it 3.5, or [it's]?"]:
        ids = library.encode(text, "hello, world").ids
        for skip in (True, False):
            assert tokenizer.decode(ids, skip) == library.decode(ids, skip_special_tokens=skip)
    assert tokenizer.decode([]) == ""
    for index in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"token id {index} "):
            tokenizer.decode([index])


LIBRARY = mpnet()
OURS: list[Tokenizer] = []
ADDED = [
    "",
    "[MASK]",
    "[SEP]",
    "[CLS] ",
    " [PAD]",
    "<unk>",
    "<UNK>",
    "<<unk>unk>",
    "<u\u0301nk\u200b>",
    "<s>",
    " <mask>",
]


@given(st.text(st.characters(codec="ascii"), max_size=40), st.sampled_from(ADDED))
@example("a", "[MASK]")
@example("[MA", "SK]")
@example("\u4e2d\u2014", "<unk>")
def test_added_tokens_anywhere_in_a_text(tmp_path_factory: pytest.TempPathFactory, text: str, token: str) -> None:
    if not OURS:
        path = tmp_path_factory.mktemp("bert") / "tokenizer.json"
        LIBRARY.save(str(path))
        OURS.append(read(path))
    if "|||" in text:
        return
    mixed = f"{text}{token}{text[::-1]}"
    assert rows_of(OURS[0], [mixed]) == [LIBRARY.encode(mixed).ids]


def test_a_frame_that_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    made = bert()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A [SEP]", pair="$A $B [SEP]", special_tokens=[("[SEP]", 3)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="special tokens"):
        read(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "words", [["<tag>"], ["Tag"], ["<Tag>"], ["a b"], ["<a b>"], ["<na\u00efve>"], ["<a>", "<a><b>"]]
)
def test_added_words_are_found_as_by_the_library(tmp_path: Path, words: list[str]) -> None:
    library = mpnet(added=words)
    path = tmp_path / "tokenizer.json"
    library.save(str(path))
    tokenizer = read(path)
    texts = ["x<tag>y <TAG> tag", "<a><b> <a b> a b <a>b", "na\u00efve <naive> <NAI\u0308VE>", "<t\u4e2dag> < tag>"]
    assert rows_of(tokenizer, texts) == [encoding.ids for encoding in library.encode_batch(texts)]


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "Unknown", "vocab": {"a": 0}}}))
    with pytest.raises(ValueError, match="cannot read"):
        read(path)
