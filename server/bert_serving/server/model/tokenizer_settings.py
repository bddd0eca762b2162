"""Rejects settings beside a vocabulary that the server's tokenizer would ignore: by name and with the remedy.

The library transformers applies them on top of ``tokenizer.json`` or ``vocab.txt``: ``tokenizer_config.json``,
``special_tokens_map.json`` and ``added_tokens.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ModelConfigError, ModelUnsupported
from .json_files import read_optional

#: Settings of BERT's tokenizers, and their names in a ``tokenizer.json``.
_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
#: Special tokens of a ``vocab.txt``.
_SPECIAL = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
#: Values of ``tokenizer_class`` for which transformers takes ``tokenizer.json`` as it is. Without a value, it takes the
#: class of the family, which sets normalizer and special tokens again.
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_REMEDY = (
    "save the fast tokenizer, which writes a complete tokenizer.json: "
    "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
)


def reject_tokenizer_settings(vocab_path: Path, content: dict[str, Any] | None) -> None:
    """Rejects settings that contradict the vocabulary, or that the server does not honour.

    Args:
        vocab_path: ``vocab.txt`` or ``tokenizer.json``.
        content: that of the ``tokenizer.json``; None for a ``vocab.txt``.

    Raises:
        ModelUnsupported: the message names the file and the setting.
        ModelConfigError: a file is broken.
    """
    folder = vocab_path.parent
    source = folder / "tokenizer_config.json"
    settings = read_optional(source)
    if content is not None:
        ids = _ids(content)
        side = _part(content, "truncation", vocab_path).get("direction", "Right")
        if settings.get("tokenizer_class") not in _PLAIN_CLASSES:
            _reject_contradictions(_part(content, "normalizer", vocab_path), settings, vocab_path, source)
            _reject_other_special_tokens(content, settings, vocab_path, source)
    else:
        ids = {token.strip(): index for index, token in enumerate(vocab_path.read_text("utf-8-sig").split("\n"))}
        side = "Right"
        special = read_optional(folder / "special_tokens_map.json") | settings
        for key, expected in _SPECIAL.items():
            token = _content(special.get(key))
            if token not in (None, expected):
                raise ModelUnsupported(
                    f"{folder}: {key} is {token!r}, but {vocab_path.name} needs {expected}; {_REMEDY}"
                )
    side = settings.get("truncation_side") or side
    if side not in ("right", "Right"):
        raise ModelUnsupported(
            f"{folder}: the tokenizer cuts long texts on the {side} (truncation_side), but this server cuts the right; "
            "set truncation_side to right if that suits the model"
        )
    for path, token, index in _added_tokens(folder, settings):
        if ids.get(token) != index:
            raise ModelUnsupported(
                f"{path} has the token {token[:100]!r} with the id {index}, but {vocab_path.name} has "
                f"{'another id' if token in ids else 'no such token'}; {_REMEDY}"
            )


def _ids(content: dict[str, Any]) -> dict[str, int]:
    """Returns token → id of a ``tokenizer.json``."""
    vocab = content["model"]["vocab"]
    ids = {piece[0]: index for index, piece in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {token["content"]: token["id"] for token in content.get("added_tokens") or ()}


def _part(content: dict[str, Any], key: str, source: Path) -> dict[str, Any]:
    part = content.get(key) or {}
    if not isinstance(part, dict):
        raise ModelConfigError(f"{source}: {key} must be an object, it is {str(part)[:100]}; copy the file again")
    return part


def _reject_contradictions(
    normalizer: Mapping[str, Any], settings: Mapping[str, Any], vocab_path: Path, source: Path
) -> None:
    if normalizer.get("type") != "BertNormalizer":
        return
    for key, name in _NORMALIZER.items():
        if key in settings and settings[key] != normalizer.get(name):
            raise ModelUnsupported(
                f"{source} has {key} {settings[key]!r}, but {vocab_path.name} has {name} {normalizer.get(name)!r}; "
                f"{_REMEDY}"
            )


def _reject_other_special_tokens(
    content: dict[str, Any], settings: Mapping[str, Any], vocab_path: Path, source: Path
) -> None:
    for key, expected in _special_tokens(content).items():
        token = _content(settings.get(key))
        if token not in (None, expected):
            raise ModelUnsupported(f"{source} has {key} {token!r}, but {vocab_path.name} has {expected!r}; {_REMEDY}")


def _special_tokens(content: dict[str, Any]) -> dict[str, str]:
    """Returns the tokens of a ``tokenizer.json`` for unknown text and around a text, by their keys in the settings."""
    model: Any = content["model"]
    processor: Any = content.get("post_processor")
    found: dict[str, Any] = {"unk_token": model.get("unk_token")}
    try:
        if model.get("type") == "Unigram" and model.get("unk_id") is not None:
            found["unk_token"] = model["vocab"][model["unk_id"]][0]
        if processor["type"] in ("BertProcessing", "RobertaProcessing"):
            found |= {"cls_token": processor["cls"][0], "sep_token": processor["sep"][0]}
        elif processor["type"] == "TemplateProcessing":
            first, last = processor["single"][0], processor["single"][-1]
            found |= {"cls_token": first["SpecialToken"]["id"], "sep_token": last["SpecialToken"]["id"]}
    except (KeyError, IndexError, TypeError):
        pass  # of another form, which the tokenizer refuses or the library computes
    return {key: token for key, token in found.items() if isinstance(token, str)}


def _added_tokens(folder: Path, settings: Mapping[str, Any]) -> list[tuple[Path, str, Any]]:
    """Returns file, token and id of the tokens that files beside the vocabulary add."""
    path = folder / "added_tokens.json"
    added: list[tuple[Path, str, Any]] = [(path, token, index) for token, index in read_optional(path).items()]
    source = folder / "tokenizer_config.json"
    listed = settings.get("added_tokens_decoder") or {}
    try:
        return added + [(source, str(_content(token)), int(index)) for index, token in listed.items()]
    except (AttributeError, ValueError) as error:
        raise ModelConfigError(
            f"{source}: added_tokens_decoder must map ids to tokens ({error}); copy the file"
        ) from None


def _content(token: Any) -> Any:
    """Returns the text of a token, which is one or an object with it."""
    return token.get("content") if isinstance(token, dict) else token
