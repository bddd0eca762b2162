"""Vocabulary files: the tokens of a model, and how it wants its texts normalized."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a model's folder says about its tokens.

    Attributes:
        ids: the id of each token.
        lower_case: texts are lower-cased; None where no file says.
        strip_accents: characters lose their accents; None does as ``lower_case`` does.
        split_cjk: each Chinese character is a word.
    """

    ids: dict[str, int]
    lower_case: bool | None = None
    strip_accents: bool | None = None
    split_cjk: bool = True


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Reads ``vocab.txt`` (a token per line) or a ``tokenizer.json`` of the Hugging Face `tokenizers` library.

    Beside ``vocab.txt``, a ``tokenizer_config.json`` is read for ``do_lower_case`` and the like.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it does not hold a WordPiece vocabulary of BERT's kind.
    """
    path = os.fspath(path)
    return _read_tokenizer_json(path) if path.endswith(".json") else _read_vocab_txt(path)


def _read_vocab_txt(path: str) -> Vocabulary:
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            # Of equal lines the last one counts, as in the original.
            ids = {line.strip(): index for index, line in enumerate(file)}
    except UnicodeDecodeError as error:
        raise ValueError(f"the vocabulary {path} is no UTF-8 text: {error}") from error
    config_path = os.path.join(os.path.dirname(path), "tokenizer_config.json")
    if not os.path.exists(config_path):
        return Vocabulary(ids)
    config = _read_object(config_path)
    return Vocabulary(
        ids,
        lower_case=config.get("do_lower_case"),
        strip_accents=config.get("strip_accents"),
        split_cjk=config.get("tokenize_chinese_chars", True),
    )


def _read_tokenizer_json(path: str) -> Vocabulary:
    config = _read_object(path)
    model, normalizer = config.get("model") or {}, config.get("normalizer") or {}
    # Early files leave the model's type out.
    kind = model.get("type") or ("WordPiece" if "continuing_subword_prefix" in model else None)
    if kind != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise ValueError(f"{path} is a tokenizer of type {kind}; only BERT's WordPiece can be served")
    for name, value, wanted in (
        ("normalizer", normalizer.get("type"), "BertNormalizer"),
        ("pre_tokenizer", (config.get("pre_tokenizer") or {}).get("type"), "BertPreTokenizer"),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
        ("unk_token", model.get("unk_token", "[UNK]"), "[UNK]"),
        ("max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 100),
        ("clean_text", normalizer.get("clean_text", True), True),
    ):
        if value != wanted:
            raise ValueError(
                f"{path} has the {name} {value!r}, BERT's is {wanted!r}; such a tokenizer cannot be served"
            )
    ids = {str(token): int(index) for token, index in model["vocab"].items()}
    for added in config.get("added_tokens") or ():
        ids.setdefault(added["content"], added["id"])
    return Vocabulary(
        ids,
        lower_case=normalizer.get("lowercase"),
        strip_accents=normalizer.get("strip_accents"),
        split_cjk=normalizer.get("handle_chinese_chars", True),
    )


def _read_object(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        try:
            config = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object")
    return config
