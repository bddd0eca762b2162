"""Compares tokenization with an oracle that works character by character, and tests invalid input."""

# ruff: noqa: RUF001 (ambiguous letters are intended)

from __future__ import annotations

import functools
import json
import re
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert_serving.server.tokenization import characters, wordpiece
from bert_serving.server.tokenization.factory import load_tokenizer, wordpiece_tokenizer
from bert_serving.server.tokenization.tokenizer import Tokenized, Tokenizer
from bert_serving.server.tokenization.vocabulary import Vocabulary, read_vocabulary

VOCAB = Path(__file__).parent.parent / "data" / "bert_uncased_vocab.txt"
IDS = load_tokenizer(VOCAB, lower_case=True, max_seq_len=25, max_tokens=512).ids


def tokenizer(**settings: Any) -> Tokenizer:
    settings = {"lower_case": True, "max_seq_len": 25, "max_tokens": 512} | settings
    return load_tokenizer(VOCAB, **settings)


#: The tokenizer with these settings, made once: reading the vocabulary takes longer than most examples.
shared_tokenizer = functools.cache(tokenizer)


# -- the oracle -------------------------------------------------------------------------------------------------------


def oracle_words(text: str, lower_case: bool) -> list[str]:
    clean = ""
    for char in text:
        code, category = ord(char), unicodedata.category(char)
        is_han = any(
            low <= code <= high
            for low, high in [
                (0x4E00, 0x9FFF),
                (0x3400, 0x4DBF),
                (0x20000, 0x2A6DF),
                (0x2A700, 0x2B73F),
                (0x2B740, 0x2B81F),
                (0x2B820, 0x2CEAF),
                (0xF900, 0xFAFF),
                (0x2F800, 0x2FA1F),
            ]
        )
        if char in "\t\n\r" or category == "Zs":
            clean += " "
        elif category.startswith("C") or char in "\0\ufffd":
            pass
        else:
            clean += f" {char} " if is_han else char
    parts: list[str] = []
    for word in clean.split():
        if lower_case:
            word = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if unicodedata.category(c) != "Mn")
        for char in word:
            ascii_symbol = char.isascii() and char.isprintable() and not char.isalnum()
            parts.append(f" {char} " if ascii_symbol or unicodedata.category(char).startswith("P") else char)
        parts.append(" ")
    return "".join(parts).split()


def oracle_pieces(word: str) -> list[str]:
    if len(word) > 100:
        return ["[UNK]"]
    pieces: list[str] = []
    while word:
        prefix = "##" if pieces else ""
        end = next((end for end in range(len(word), 0, -1) if prefix + word[:end] in IDS), 0)
        if not end:
            return ["[UNK]"]
        pieces.append(prefix + word[:end])
        word = word[end:]
    return pieces


def oracle(text: str, lower_case: bool = True, max_seq_len: int = 25) -> tuple[list[str], int]:
    """Returns the tokens, and the number of tokens in the second segment."""
    pair = re.match(r"^(.*) \|\|\| (.*)$", text.strip())
    texts = pair.groups() if pair else (text, "")
    a, b = ([p for w in oracle_words(t, lower_case) for p in oracle_pieces(w)] for t in texts)
    if not b:
        return ["[CLS]", *a[: max_seq_len - 2], "[SEP]"], 0
    while len(a) + len(b) > max_seq_len - 3:
        (a if len(a) > len(b) else b).pop()
    if not b:
        return ["[CLS]", *a, "[SEP]"], 0
    return ["[CLS]", *a, "[SEP]", *b, "[SEP]"], len(b) + 1


ALPHABET = st.one_of(
    st.sampled_from(list("aAeEsS1 \t\n\r\0\x0b\x1c\x7f\x85.,'|#[]`^$~")),
    st.sampled_from(list("éÉİıßΣσςΑÅ\u212b中文\uf900가ﬁ€≠´’“—。、？\u00a0\u3000\u2028\u2029\u200b\u00ad\ufeff\ufffd")),
    st.sampled_from(list("\u0300\u0301\u0345\u0327\u302e\u302f\u3099\u0903\u20dd\u1fef\u037e\ud800\udc00\U0001f600")),
    st.characters(),
)
TEXTS = st.one_of(
    st.text(ALPHABET, max_size=40),
    st.lists(st.sampled_from(["the", "unaffable", "ΟΔΥΣΣΕΥΣ", "|||", " ||| ", " ", "\n", "x" * 99, "naïve"])).map(
        "".join
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.booleans(), st.sampled_from([4, 5, 6, 25, 512]))
@example(["ΑΣ", "ΑΣ.", "ΑΣ\u0301", "ΑΣ\u00adΑ", "ΑΣ中Α", "a\nΣ"], True, 25)
@example(["\u302f\u302e\u3099", "\u0344", "각"], True, 25)
@example(["a ||| b ||| c", "a\n ||| b", "\0 ||| b", "a ||| \0", "||| b", "a |||"], True, 4)
def test_equals_the_oracle(texts: list[str], lower_case: bool, max_seq_len: int) -> None:
    subject = shared_tokenizer(lower_case=lower_case, max_seq_len=max_seq_len)
    tokenized = subject.encode(texts)
    check_shape(tokenized, len(texts))
    ends = np.cumsum(tokenized.lengths)
    for text, tokens, end in zip(texts, subject.tokens(tokenized), ends, strict=True):
        expected, of_second = oracle(text, lower_case, max_seq_len)
        assert tokens == expected
        types = tokenized.type_ids
        assert (0 if types is None else types[end - len(tokens) : end].sum()) == of_second
    assert tokenized.num_unknown == sum(token == "[UNK]" for row in subject.tokens(tokenized) for token in row)


# Accents, marks that are kept, accents without a class, one that is two others, letters that come apart, a tone mark.
MARKS = st.sampled_from(
    list("\u0301\u0323\u0327\u0344\u0f73\U0001d16d\U0001d165\u302e\u1b44\u0941\u034féấ\uac01aß!  ,")
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(MARKS, min_size=1, max_size=4), st.sampled_from([1, 1, 3, 20, 70, 130])), max_size=8))
@example([("a", 1), ("\U0001d16d\u0301\U0001d165\u0323", 20), ("\u0f73", 70), (" ", 1), ("b\u0323\u0301", 1)])
@example([("é\U0001d16d", 1), ("\u0323\u0301", 60), ("\U0001d165", 1)])
def test_long_runs_of_marks_equal_the_oracle(runs: list[tuple[str, int]]) -> None:
    text = "".join(marks * count for marks, count in runs)
    subject = shared_tokenizer(max_seq_len=512)
    for texts in ([text], ["hello", text, text * 2]):
        rows = subject.tokens(subject.encode(texts))
        assert rows[-1] == oracle(texts[-1], True, 512)[0]
        assert rows[len(rows) // 2] == oracle(text, True, 512)[0]


@pytest.mark.parametrize("rules", [characters.python_rules(), characters.library_rules()], ids=["python", "library"])
def test_marks_hold_for_every_character(rules: characters.CharacterRules) -> None:
    """Checks the assumptions of ``decompose``: range of marks, their decompositions, decomposed length of a letter."""
    for code in range(sys.maxunicode + 1):
        parts = rules.decompose(chr(code))
        classes = list(map(unicodedata.combining, parts))
        if rules._long_runs.fullmatch(chr(code) * characters.MAX_MARKS):
            assert all(classes)
            assert {rules.is_accent(part) for part in parts} == {code in rules._accents}
        else:
            assert code not in rules._accents
            assert classes[0] == 0 or (rules._newer and rules._newer.match(chr(code)))
            assert len(parts) <= 4


def check_shape(tokenized: Tokenized, count: int) -> None:
    assert tokenized.lengths.shape == (count,)
    assert tokenized.lengths.sum() == len(tokenized.input_ids)
    for array in (tokenized.input_ids, tokenized.type_ids, tokenized.mask, tokenized.lengths, tokenized.truncated):
        assert array is None or array.dtype == np.int32


def test_every_character_alone_and_inside_a_word() -> None:
    subject = tokenizer(max_seq_len=512)
    codes = [
        *range(0x3400),
        *range(0x4DB0, 0x4E10),
        *range(0x9FF0, 0xAC10),
        *range(0xD790, 0x11000),
        *range(0x1F000, 0x1FB00),
    ]
    texts = [f"{chr(code)} e{chr(code)}s" for code in codes]
    tokens = subject.tokens(subject.encode(texts))
    wrong = [code for code, text, row in zip(codes, texts, tokens, strict=True) if row != oracle(text, True, 512)[0]]
    assert wrong == []


# -- requests ---------------------------------------------------------------------------------------------------------


def test_encodes_an_empty_list() -> None:
    tokenized = tokenizer().encode([])
    check_shape(tokenized, 0)
    assert tokenizer().tokens(tokenized) == []


def test_empty_and_blank_texts_are_empty_sequences() -> None:
    subject = tokenizer()
    assert subject.tokens(subject.encode(["", " ", "\0\ud800", "a"])) == [["[CLS]", "[SEP]"]] * 3 + [
        ["[CLS]", "a", "[SEP]"]
    ]


def test_special_tokens_in_a_text_are_text() -> None:
    subject = tokenizer()
    assert subject.tokens(subject.encode(["[CLS] [MASK]"])) == [
        ["[CLS]", "[", "cl", "##s", "]", "[", "mask", "]", "[SEP]"]
    ]


def test_joint_encoding_equals_separate_encoding() -> None:
    subject = tokenizer(max_seq_len=8)
    texts = [f"number {i}" + " and more words" * (i % 5) + (" ||| pair" * (i % 7 == 3)) for i in range(1000)]
    whole = subject.encode(texts)
    assert subject.tokens(whole) == [subject.tokens(subject.encode([text]))[0] for text in texts]
    assert list(whole.truncated) == [i for i, text in enumerate(texts) if len(subject.encode([text]).truncated)]


def test_token_lists_are_not_tokenized() -> None:
    subject = tokenizer(max_seq_len=10)
    rows = [["hello", "Hello", "[CLS]", "un ##able"], ["a", "|||", "b", "|||", "a"], ["|||", "b"], ["a", "|||"], []]
    tokenized = subject.encode(rows)
    assert subject.tokens(tokenized) == [
        ["[CLS]", "hello", "[UNK]", "[CLS]", "[UNK]", "[SEP]"],
        ["[CLS]", "a", "[SEP]", "b", "[UNK]", "a", "[SEP]"],
        ["[CLS]", "[SEP]", "b", "[SEP]"],
        ["[CLS]", "a", "[SEP]"],
        ["[CLS]", "[SEP]"],
    ]
    assert tokenized.num_unknown == 3
    assert tokenized.type_ids is not None
    assert tokenized.type_ids.tolist() == [0] * 6 + [0, 0, 0, 1, 1, 1, 1] + [0, 0, 1, 1] + [0] * 5


def test_no_special_token_applies_to_token_lists_that_are_not_pairs() -> None:
    subject = tokenizer(max_seq_len=6, no_special_token=True)
    rows = [["a"] * 9, [], ["a", "|||", "b"], ["a"]]
    tokenized = subject.encode(rows)
    assert subject.tokens(tokenized) == [["a"] * 6, [], ["[CLS]", "a", "[SEP]", "b", "[SEP]"], ["a"]]
    assert tokenized.lengths.tolist() == [6, 1, 5, 1], "an empty sequence has a hidden token, so that it has a row"
    assert tokenized.mask is not None
    assert tokenized.mask.tolist() == [1] * 6 + [0] + [1] * 6
    assert list(tokenized.truncated) == [0]
    assert subject.encode([["a"], ["b"]]).mask is None
    assert subject.tokens(subject.encode([[], ["a"]])) == [[], ["a"]]
    assert subject.tokens(subject.encode(["a " * 9])) == [["[CLS]", *"aaaa", "[SEP]"]]


def test_mask_cls_sep_masks_the_special_tokens() -> None:
    tokenized = tokenizer(mask_cls_sep=True).encode(["a b", "a ||| b", ""])
    assert tokenized.mask is not None
    assert tokenized.mask.tolist() == [*(0, 1, 1, 0), *(0, 1, 0, 1, 0), *(0, 0)]
    assert tokenizer().encode(["a ||| b"]).mask is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 5], "item 1 is a number, but item 0 is a string"),
        (["a", "b", ["c"]], "item 2 is a list, but item 0 is a string"),
        ([["a"], "b"], "item 1 is a string, but item 0 is a list"),
        ([["a"], ["b", None]], "item 1 contains null; a token must be a string"),
        ([["a"], [["b"]]], "item 1 contains a list"),
        ([True], "item 0 is a boolean; send texts only, or lists of tokens only"),
        ([{"a": 1}], "item 0 is an object"),
        ([None], "item 0 is null"),
    ],
)
def test_items_of_a_wrong_type_are_rejected_with_their_index(texts: list[Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        tokenizer().encode(texts)


# -- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("x", "a,", "a b ", "中", "é", " ", "\0", "\ud800", "a\tb\t", "z" * 99 + " ", "|||", " ||| ", "a ||| \n"),
        *("\u0323\u0301", "\u0f73", "\U0001d16d\U0001d165", "a" + "\u0301" * 31 + "\u0323" * 32, "Σ", "\u0344Σ"),
    ],
)
def test_a_very_long_text_takes_linear_time(text: str) -> None:
    subject = tokenizer(max_seq_len=128)

    def seconds(size: int) -> float:
        long_text = text * (size // len(text))
        start = time.process_time()
        subject.encode([long_text])
        return time.process_time() - start

    seconds(20_000)
    small, large = min(seconds(100_000) for _ in range(3)), seconds(1_600_000)
    # 16 times the text; quadratic time would be 256 times as long.
    assert large < 64 * max(small, 0.002)


def test_reading_a_long_text_by_blocks_gives_the_same_tokens() -> None:
    words = "The Quick, brown naïve ΟΔΥΣΣΕΥΣ. 你好 " + "e\u0301" * 70 + " " + "x" * 150 + "\n don't\tgo "
    subject = tokenizer(max_seq_len=4096, max_tokens=4096)
    for text in (words * 40, (words * 40).replace(" ", "\t"), "中" * 3000 + words * 40, "y" * 20_000 + " " + words):
        assert len(text) > wordpiece.LONG_TEXT / 2
        long = text + " " * wordpiece.LONG_TEXT
        assert subject.tokens(subject.encode([long, "a"])) == [oracle(text, True, 4096)[0], ["[CLS]", "a", "[SEP]"]]


def test_the_word_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "MAX_CACHED_WORDS", 50)
    subject = tokenizer()
    texts = [f"word{i} and words" for i in range(500)] + ["x" * 5000]
    for _ in range(2):
        assert subject.tokens(subject.encode(texts)) == [oracle(text)[0] for text in texts]
        assert len(subject._segmenter._pieces) <= 50


def test_is_thread_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpiece, "MAX_CACHED_WORDS", 20)
    subject = tokenizer()
    texts = [f"word{i} naïve, 你好" for i in range(200)]
    expected = [oracle(text)[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for tokenized in pool.map(lambda _: subject.encode(texts), range(40)):
            assert subject.tokens(tokenized) == expected


# -- vocabularies -----------------------------------------------------------------------------------------------------

WORDPIECE_JSON: dict[str, Any] = {
    "added_tokens": [
        {
            "id": 7,
            "content": "[NEW]",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": False,
        }
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "lowercase": False,
        "strip_accents": None,
        "handle_chinese_chars": False,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "Hé": 4, "##llo": 5, "你好": 6},
    },
}


def write_json(folder: Path, content: Any, name: str = "tokenizer.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_tokenizer_json(tmp_path: Path) -> None:
    path = write_json(tmp_path, WORDPIECE_JSON)
    subject = load_tokenizer(path, lower_case=None, max_seq_len=None, max_tokens=64)
    assert (subject.vocab_size, subject.lower_case, subject.max_seq_len) == (8, False, 64)
    assert subject.tokens(subject.encode(["Héllo 你好"])) == [["[CLS]", "Hé", "##llo", "你好", "[SEP]"]]
    assert subject.tokens(subject.encode([["[NEW]"]])) == [["[CLS]", "[NEW]", "[SEP]"]]
    lower = load_tokenizer(path, lower_case=True, max_seq_len=None, max_tokens=64)
    assert lower.tokens(lower.encode(["Héllo"])) == [["[CLS]", "[UNK]", "[SEP]"]]


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"type": "BPE", "vocab": {}}},
        {"model": {"type": "Unigram", "vocab": []}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": None},
        {"normalizer": {"type": "BertNormalizer", "clean_text": False}},
        {"post_processor": None},
        {"post_processor": {"type": "ByteLevel"}},
        {"post_processor": {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}},
        {"added_tokens": [{"id": 7, "content": "new", "normalized": True}]},
    ],
)
def test_other_tokenizers_are_left_to_the_library(tmp_path: Path, change: dict[str, Any]) -> None:
    assert read_vocabulary(write_json(tmp_path, WORDPIECE_JSON)) is not None
    assert read_vocabulary(write_json(tmp_path, WORDPIECE_JSON | change)) is None


def test_files_without_a_vocabulary_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "cut.json").write_text('{"model"')
    (tmp_path / "vocab.txt").write_text("a\nb\n[UNK]\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    for name, message in (
        ("list.json", "not a JSON object"),
        ("cut.json", "not valid JSON"),
        ("binary.txt", "not UTF-8 text"),
    ):
        with pytest.raises(ValueError, match=message):
            read_vocabulary(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_vocabulary(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"3 tokens lacks \[CLS\], \[SEP\]"):
        wordpiece_tokenizer(read_vocabulary(tmp_path / "vocab.txt"))


def test_vocab_txt_keeps_line_numbers(tmp_path: Path) -> None:
    # A carriage return or a line separator inside a line does not end it; the last of equal lines counts.
    (tmp_path / "vocab.txt").write_bytes("[UNK]\r\n[CLS]\n[SEP]\n\u2028\na\na\nb".encode())
    assert read_vocabulary(tmp_path / "vocab.txt").ids == {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "": 3, "a": 5, "b": 6}


@pytest.mark.parametrize(
    ("declared", "option", "expected"),
    [(False, None, False), (True, None, True), (False, True, True), (None, None, True)],
)
def test_the_option_overrides_the_declared_case(
    tmp_path: Path, declared: bool | None, option: bool | None, expected: bool
) -> None:
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\na\n")
    if declared is not None:
        write_json(tmp_path, {"do_lower_case": declared}, "tokenizer_config.json")
    subject = load_tokenizer(tmp_path / "vocab.txt", lower_case=option, max_seq_len=25, max_tokens=64)
    assert subject.lower_case is expected


def test_lower_case_may_keep_accents() -> None:
    ids = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "é": 3}
    subject = wordpiece_tokenizer(Vocabulary(ids, lower_case=True, strip_accents=False))
    assert subject.encode(["É"]).input_ids.tolist() == [1, 3, 2]


@pytest.mark.parametrize(
    ("length", "message"), [(65, "max_seq_len is 65, but the model has only 64 positions"), (3, "at least 4")]
)
def test_invalid_max_seq_len_is_rejected(length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer(max_seq_len=length, max_tokens=64)


def test_warns_if_the_case_contradicts_the_vocabulary() -> None:
    special = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}
    cased, uncased = Vocabulary(special | {"The": 3, "the": 4}), Vocabulary(special | {"the": 3})
    assert "add -cased_tokenization" in wordpiece_tokenizer(cased, lower_case=True).warnings[0]
    assert "remove -cased_tokenization" in wordpiece_tokenizer(uncased, lower_case=False).warnings[0]
    assert wordpiece_tokenizer(cased, lower_case=False).warnings == []
    assert wordpiece_tokenizer(uncased, lower_case=True).warnings == []
