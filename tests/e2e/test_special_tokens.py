"""Special and added tokens typed in a text: one rule for each kind of folder, and the same by every protocol."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from http_calls import float32, serving_http
from servers import TINY

tokenizers = pytest.importorskip("tokenizers", reason="the extra `tokenizers` is not installed")

#: Special tokens alone, at the ends, inside a word, twice, in the wrong case, and in parts.
TEXTS = [
    "hello [MASK] world",
    "[CLS]hello[SEP] world [SEP]",
    "un[MASK]able [UNK][PAD]",
    "[mask] [MA SK] [ MASK ]",
    "<s> hello </s> <mask> world",
    "hello world",
]


def vocab_txt(folder: Path) -> list[list[str]]:
    """With ``vocab.txt`` special tokens are text, as in 1.10; the tiny vocabulary lacks brackets and lower-cases."""
    (folder / "tokenizer.json").unlink(missing_ok=True)
    texts = [
        "hello ( m ##a ##s ##k ( world",
        "( c ##l ##s ( hello ( s ##e ##p ( world ( s ##e ##p (",
        "un ( m ##a ##s ##k ( a ##b ##l ##e ( un ##k ( ( p ##a ##d (",
        "( m ##a ##s ##k ( ( m ##a s ##k ( ( m ##a ##s ##k (",
        "( s ( hello ( ( s ( ( m ##a ##s ##k ( world",
        "hello world",
    ]
    return [["[CLS]", *text.replace("(", "[UNK]").split(), "[SEP]"] for text in texts]


def saved(made: Any, folder: Path) -> list[list[str]]:
    made.save(str(folder / "tokenizer.json"))
    return [[made.id_to_token(index) for index in made.encode(text).ids] for text in TEXTS]


def word_piece(folder: Path, added: tuple[str, ...] = ()) -> list[list[str]]:
    ids = {word: index for index, word in enumerate((folder / "vocab.txt").read_text("utf-8").split("\n")) if word}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    made.add_tokens(list(added))
    return saved(made, folder)


def word_piece_with_words(folder: Path) -> list[list[str]]:
    """A word of the author, which has an id of the vocabulary, makes the library compute the tokens."""
    return word_piece(folder, ("world",))


def unigram(folder: Path) -> list[list[str]]:
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁hello", -5.0), ("▁world", -5.0), ("▁", -6.0), ("[", -7.0), ("]", -7.0)]
    pieces += [(letter, -8.0) for letter in "abcdefghijklmnopqrstuvwxyzACKLMPSU"]
    made = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=3))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", tokenizers.AddedToken("<mask>", lstrip=True)])
    return saved(made, folder)


@pytest.mark.parametrize("kind", [vocab_txt, word_piece, word_piece_with_words, unigram])
def test_special_tokens_are_the_same_by_every_protocol(kind: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TINY, tmp_path / "model"))
    expected = kind(folder)
    with (
        serving_http("-show_tokens_to_client", "-max_seq_len", "64", model_dir=folder) as server,
        server.zmq_client() as client,
    ):
        vectors, tokens = client.encode(TEXTS, show_tokens=True)
        assert tokens == expected
        reply = server.call("/encode", {"texts": TEXTS, "show_tokens": True}).json
        assert reply["tokens"] == expected
        np.testing.assert_allclose(float32(reply["result"]), vectors, rtol=1e-5, atol=1e-6)
        data = server.call("/v1/embeddings", {"input": TEXTS}).json["data"]
        np.testing.assert_allclose(float32([row["embedding"] for row in data]), vectors, rtol=1e-5, atol=1e-6)
        # The tokens as a list give the same sequence again.
        inner = [row[1:-1] for row in expected]
        np.testing.assert_allclose(client.encode(inner, is_tokenized=True), vectors, rtol=1e-5, atol=1e-6)
        body = {"texts": inner, "is_tokenized": True}
        np.testing.assert_allclose(float32(server.call("/encode", body).json["result"]), vectors, rtol=1e-5, atol=1e-6)
