"""Reads vocabulary files: the tokens of a model, and its settings for text normalization."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ..model.errors import ModelConfigError
from .frame import Frame
from .word_piece_file import parse_word_piece

#: File with the normalization settings of a ``vocab.txt``, in the same folder.
_SETTINGS = "tokenizer_config.json"
#: Special tokens of BERT.
BERT_SPECIAL = frozenset(("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"))
#: Usual names of padding.
_PADDING = ("<pad>", "[PAD]")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Holds the tokens of a model and its normalization settings.

    Attributes:
        ids: token -> id.
        lower_case: texts are lower-cased; None if no file of the model states it.
        strip_accents: accents are removed; None means the value of ``lower_case``.
        split_cjk: each Chinese character is a word of its own.
        added: tokens that are one id wherever they stand in a text, such as ``[MASK]``.
        added_normalized: such tokens that are found after lower-casing and the other steps of normalization.
        special: tokens that are no text.
        frame: the special tokens of a sequence; None means ``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``.
        has_library_rules: characters are classified as the library `tokenizers` does, else by Python's Unicode tables.
    """

    ids: dict[str, int]
    lower_case: bool | None = None
    strip_accents: bool | None = None
    split_cjk: bool = True
    added: frozenset[str] = frozenset()
    added_normalized: frozenset[str] = frozenset()
    special: frozenset[str] = BERT_SPECIAL
    frame: Frame | None = None
    has_library_rules: bool = False


def vocabulary_files(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """Returns name → content of the files that :func:`read_vocabulary` reads for ``path``.

    Raises:
        ModelConfigError: a file cannot be read.
    """
    names = [os.path.basename(path)]
    folder = os.path.dirname(path)
    if not names[0].endswith(".json") and os.path.exists(os.path.join(folder, _SETTINGS)):
        names.append(_SETTINGS)
    files = {}
    for name in names:
        try:
            with open(os.path.join(folder, name), "rb") as file:
                files[name] = file.read()
        except OSError as error:
            raise ModelConfigError(
                f"cannot read {os.path.join(folder, name)} ({error.strerror}); copy the file again"
            ) from error
    return files


def read_vocabulary(path: str | os.PathLike[str], parsed: dict[str, Any] | None = None) -> Vocabulary | None:
    """Reads ``vocab.txt`` (one token per line) or a ``tokenizer.json`` of the Hugging Face `tokenizers` library.

    Returns None for a ``tokenizer.json`` that is not exactly BERT's WordPiece, which the library computes. Its special
    tokens may be others than BERT's, as those of MPNet are.

    A ``tokenizer_config.json`` in the folder of ``vocab.txt`` provides the normalization settings.

    Args:
        parsed: content of the ``tokenizer.json``; None: it is read from ``path``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a WordPiece vocabulary that BERT uses.
    """
    path = os.fspath(path)
    if not path.endswith(".json"):
        return _read_vocab_txt(path)
    return _from_tokenizer_json(read_object(path) if parsed is None else parsed)


def with_library_rules(vocabulary: Vocabulary) -> Vocabulary:
    """Returns a ``vocab.txt`` as the library transformers reads it: special tokens are found in texts."""
    return replace(vocabulary, added=BERT_SPECIAL & vocabulary.ids.keys(), has_library_rules=True)


def case_warnings(ids: dict[str, int], lower_case: bool) -> list[str]:
    """Returns a warning if the case of the vocabulary contradicts ``lower_case``."""
    words = [token for token in ids if not token.startswith("[")]
    upper = sum(token != token.lower() for token in words)
    if lower_case and upper > len(words) / 100:
        return [
            f"{upper} of {len(words)} words in the vocabulary have upper-case letters, but texts are lower-cased; "
            "add -cased_tokenization"
        ]
    if not lower_case and words and not upper:
        return [
            f"none of {len(words)} words in the vocabulary has upper-case letters, but texts are not lower-cased; "
            "remove -cased_tokenization"
        ]
    return []


def _read_vocab_txt(path: str) -> Vocabulary:
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            # The last of equal lines counts, as in bert-as-service 1.10.0.
            ids = {line.strip(): index for index, line in enumerate(file)}
    except UnicodeDecodeError as error:
        raise ModelConfigError(
            f"cannot read the vocabulary {path}: not UTF-8 text ({error}); copy the file again"
        ) from error
    config_path = os.path.join(os.path.dirname(path), _SETTINGS)
    if not os.path.exists(config_path):
        return Vocabulary(ids)
    config = read_object(config_path)
    return Vocabulary(
        ids,
        lower_case=config.get("do_lower_case"),
        strip_accents=config.get("strip_accents"),
        split_cjk=config.get("tokenize_chinese_chars", True),
    )


def _from_tokenizer_json(config: dict[str, Any]) -> Vocabulary | None:
    file = parse_word_piece(config)
    if file is None:
        return None
    ids = file.model.vocab | {token.content: token.id for token in file.added_tokens}
    frame = _read_frame(file.post_processor, find_padding(config, ids))
    normalized = frozenset(token.content for token in file.added_tokens if token.normalized)
    if frame is None or not all(map(_is_symbolic, normalized)):
        return None
    return Vocabulary(
        ids,
        lower_case=file.normalizer.lowercase,
        strip_accents=file.normalizer.strip_accents,
        split_cjk=file.normalizer.handle_chinese_chars,
        # The library finds no token without characters.
        added=frozenset(token.content for token in file.added_tokens if token.content) - normalized,
        added_normalized=normalized,
        special=frozenset(token.content for token in file.added_tokens if token.special),
        frame=frame,
        has_library_rules=True,
    )


def _is_symbolic(token: str) -> bool:
    """Returns whether normalization keeps a token, and no word of a text can contain its start: ``<unk>``."""
    is_plain = token.isascii() and token.isprintable() and " " not in token and token == token.lower()
    return is_plain and bool(token) and not token[0].isalnum()


def _read_frame(post_processor: dict[str, Any], padding: int | None) -> Frame | None:
    """Returns the special tokens of a sequence and of a pair; None if the server does not place such ones."""
    kind = post_processor.get("type")
    try:
        if kind in ("BertProcessing", "RobertaProcessing"):
            start, end = int(post_processor["cls"][1]), int(post_processor["sep"][1])
            separators, second_type = ((end,), 1) if kind == "BertProcessing" else ((end, end), 0)
            return Frame(start, separators, end, second_type, padding, favors_longer=True)
        if kind != "TemplateProcessing":
            return None
        single, pair = (_template(post_processor, form) for form in ("single", "pair"))
        start, end, second_type = single[0][0], single[-1][0], pair[-1][1]
        separators = tuple(token for token, _ in pair[2:-2])
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        return None
    is_single = single == [(start, 0), ("A", 0), (end, 0)]
    before = [(start, 0), ("A", 0), *((separator, 0) for separator in separators)]
    is_pair = pair == [*before, ("B", second_type), (end, second_type)]
    if (
        not is_single
        or not is_pair
        or not all(type(token) is int and token >= 0 for token in (start, *separators, end))
    ):
        return None
    return Frame(start, separators, end, second_type, padding, favors_longer=True)


def _template(post_processor: dict[str, Any], form: str) -> list[tuple[Any, int]]:
    """Returns the items of a template with their types: ids of special tokens, and ``A`` and ``B`` for the texts.

    Raises:
        LookupError, ValueError: an item is not exactly one token or text.
    """
    items: list[tuple[Any, int]] = []
    for item in post_processor[form]:
        ((kind, values),) = item.items()
        name = values["id"]
        if type(values["type_id"]) is not int:
            raise ValueError("the type of a token must be a number")
        if kind == "SpecialToken":
            (name,) = post_processor["special_tokens"][name]["ids"]
        items.append((name, values["type_id"]))
    return items


def find_padding(parsed: dict[str, Any], ids: dict[str, int]) -> int | None:
    """Returns the id of padding: that of the padding in a ``tokenizer.json``, or else of the first usual name.

    A vocabulary may have two such names. The one that the author added as a token counts.
    """
    if parsed.get("padding"):
        return int(parsed["padding"]["pad_id"])
    added = [token["content"] for token in parsed.get("added_tokens") or ()]
    return first_id([*(name for name in added if name in _PADDING), *_PADDING], ids)


def first_id(names: Iterable[str | None], ids: dict[str, int]) -> int | None:
    """Returns the id of the first name that the vocabulary has."""
    return next((ids[name] for name in names if name and name in ids), None)


def read_object(path: str) -> dict[str, Any]:
    """Returns the JSON object in a file.

    Raises:
        ModelConfigError: the file is not valid JSON, or holds no object.
    """
    with open(path, encoding="utf-8-sig") as file:
        try:
            config = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ModelConfigError(f"cannot read {path}: not valid JSON ({error}); copy the file again") from error
    if not isinstance(config, dict):
        raise ModelConfigError(f"cannot read {path}: not a JSON object; copy the file again")
    return config
