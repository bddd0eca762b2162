"""Compares the words of BERT's normalization with those of the library `tokenizers`, for every character of Unicode."""

# ruff: noqa: RUF001 (ambiguous letters are intended)

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_serving.server.tokenization.characters import MAX_WORD_LENGTH
from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.tokenizer import Tokenizer
from bert_serving.server.tokenization.wordpiece import WordPiece

tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")

VOCAB = Path(__file__).parent.parent / "data" / "bert_uncased_vocab.txt"
#: Lower-casing, removal of accents (None: as lower-casing), separation of Chinese characters, and ``lower_first``.
SETTINGS = [
    (True, None, True, False),
    (False, None, True, False),
    (True, False, False, False),
    (False, True, True, False),
    (True, None, True, True),
    (False, None, True, True),
]
NAMES = ["uncased", "cased", "accents kept", "accents removed", "uncased, lower first", "cased, lower first"]
#: Characters with different meanings in Python's tables and the library's, and neighbours that may move or change them.
SPECIAL = list(
    "aéÉİıßΣσςΑÅ\u212b中\uf900가ﬁ€≠’。\u00a0\u2028\u200b\u00ad\ufeff\ufffd\x00\t\n.#"
    "\u0300\u0301\u0323\u0334\u0345\u0344\u302e\u3099\u0903\u1b44\U0001d165\U0001d16d"
    "\u0378\u166d\u1734\u1715\U000111c9\U0002b820\U0002b920\U00011938\U00011930\U00011935\u0c3c\u07fd\u0898\u1abf\u1acd"
    "\U0001e2ae\U0001e137\U0001d7d8\ua7cb\u1c89\U00016ea0\u2e5d\u1df6\u16ff\U00016ff0\U0010ffff"
)  # fmt: skip


def library_words(normalizer: Any, text: str) -> list[str]:
    pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return [word for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text))]


def our_words(segmenter: WordPiece, text: str) -> list[str]:
    return segmenter._find.findall(segmenter._normalize(segmenter._clean(text.replace("\n", " "))))


def is_surrogate(char: str) -> bool:
    return "\ud800" <= char <= "\udfff"


@pytest.fixture(scope="module", params=SETTINGS, ids=NAMES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Tokenizer]:
    """The library's tokenizer and the server's, from one file."""
    lower_case, strip_accents, chinese, lower_first = request.param
    ids = {word: index for index, word in enumerate(VOCAB.read_text("utf-8").splitlines())}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(
        lowercase=lower_case, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    path = tmp_path_factory.mktemp("bert") / "tokenizer.json"
    made.save(str(path))
    ours = load_tokenizer(path, lower_case=None, max_seq_len=512, max_tokens=512, lower_first=lower_first)
    assert type(ours._segmenter) is WordPiece
    if lower_first:  # as sentence-transformers does for do_lower_case
        made.normalizer = tokenizers.normalizers.Sequence([tokenizers.normalizers.Lowercase(), made.normalizer])
    return made, ours


def compare(pair: tuple[Any, Tokenizer], texts: Iterable[str]) -> None:
    """Compares the words of all texts, many at once, and names those around the first difference."""
    library, ours = pair
    left = iter(texts)
    while text := " | ".join(itertools.islice(left, 4096)):
        expected, found = library_words(library.normalizer, text), our_words(ours._segmenter, text)
        if found != expected:
            at = next(i for i, (one, other) in enumerate(itertools.zip_longest(found, expected)) if one != other)
            raise AssertionError(f"{found[at - 4 : at + 4]!a}, not {expected[at - 4 : at + 4]!a}")


@pytest.mark.parametrize("pair", SETTINGS[:1], indirect=True, ids=["uncased"])
def test_words_with_every_character(pair: tuple[Any, Tokenizer]) -> None:
    compare(pair, (f"a{char}e" for char in map(chr, range(sys.maxunicode + 1)) if not is_surrogate(char)))


def test_words_with_a_character_among_others(pair: tuple[Any, Tokenizer]) -> None:
    """Marks of the smallest and the largest class follow each character of the planes that have letters and marks."""
    codes = itertools.chain(range(0x3500), range(0x9F00, 0xAD00), range(0xD700, 0x12600), range(0x16000, 0x17000))
    codes = itertools.chain(codes, range(0x1B000, 0x1B200), range(0x1BC00, 0x20000), range(0xE0000, 0xE0200))
    compare(pair, (f"a{char}e\u0345{char}\u0334 Σ{char}" for char in map(chr, codes) if not is_surrogate(char)))


TEXTS = st.text(st.one_of(st.sampled_from(SPECIAL), st.characters(codec="utf-8")), max_size=20)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from([1, 1, 1, 40, 130]))
@example(["ΟΔΥΣΣΕΥΣ ΑΣ.", "ΑΣ\u0301", "\U00011935\U00011930\u0334", "\u0345\u0c3c\u0334"], 1)
@example(["\u1b44\u302e", "\u0c3c\u302e\u1b44", "\u1734\u302e\u0334"], 40)
def test_words_and_ids_of_any_text(pair: tuple[Any, Tokenizer], parts: list[str], count: int) -> None:
    library, ours = pair
    texts = [part * count for part in parts]
    for text in texts:
        words = library_words(library.normalizer, text)
        assert shortened(our_words(ours._segmenter, text)) == shortened(words)
    ids, lengths = ours._segmenter.encode(texts, 1_000_000)
    rows = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert lengths.tolist() == list(map(len, rows))
    assert ids.tolist() == list(itertools.chain.from_iterable(rows))
    assert [ours._segmenter.encode_one(text) for text in texts] == rows


def shortened(words: list[str]) -> list[str]:
    """Returns words whose marks may be in another order and number if the word is too long for the vocabulary."""
    return [word if len(word) <= MAX_WORD_LENGTH else "" for word in words]
