"""Reads vocabulary files: the tokens of a model, and its settings for text normalization."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Holds the tokens of a model and its normalization settings.

    Attributes:
        ids: token -> id.
        lower_case: texts are lower-cased; None if no file of the model states it.
        strip_accents: accents are removed; None means the value of ``lower_case``.
        split_cjk: each Chinese character is a word of its own.
    """

    ids: dict[str, int]
    lower_case: bool | None = None
    strip_accents: bool | None = None
    split_cjk: bool = True


def read_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Reads ``vocab.txt`` (one token per line) or a ``tokenizer.json`` of the Hugging Face `tokenizers` library.

    A ``tokenizer_config.json`` in the folder of ``vocab.txt`` provides the normalization settings.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a WordPiece vocabulary that BERT uses.
    """
    path = os.fspath(path)
    return _read_tokenizer_json(path) if path.endswith(".json") else _read_vocab_txt(path)


def _read_vocab_txt(path: str) -> Vocabulary:
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            # The last of equal lines counts, as in bert-as-service 1.10.0.
            ids = {line.strip(): index for index, line in enumerate(file)}
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the vocabulary {path}: not UTF-8 text ({error}); copy the file again") from error
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
    # Files of early versions lack the type of the model.
    kind = model.get("type") or ("WordPiece" if "continuing_subword_prefix" in model else None)
    if kind != "WordPiece" or not isinstance(model.get("vocab"), dict):
        raise ValueError(
            f"{path} is a tokenizer of type {kind}; only WordPiece tokenizers are supported: serve a BERT model"
        )
    for name, value, required in (
        ("normalizer", normalizer.get("type"), "BertNormalizer"),
        ("pre_tokenizer", (config.get("pre_tokenizer") or {}).get("type"), "BertPreTokenizer"),
        ("continuing_subword_prefix", model.get("continuing_subword_prefix", "##"), "##"),
        ("unk_token", model.get("unk_token", "[UNK]"), "[UNK]"),
        ("max_input_chars_per_word", model.get("max_input_chars_per_word", 100), 100),
        ("clean_text", normalizer.get("clean_text", True), True),
    ):
        if value != required:
            raise ValueError(f"{path} has the {name} {value!r}, only {required!r} is supported: serve a BERT model")
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
            raise ValueError(f"cannot read {path}: not valid JSON ({error}); copy the file again") from error
    if not isinstance(config, dict):
        raise ValueError(f"cannot read {path}: not a JSON object; copy the file again")
    return config
