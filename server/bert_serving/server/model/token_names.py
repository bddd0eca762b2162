"""Reads the token of each id of a vocabulary, and which tokens are special."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ModelConfigError
from .json_files import read_object, read_optional

#: Keys of ``tokenizer_config.json`` with tokens that are no text, and their usual names.
_KEYS = {
    "cls_token": ("<s>", "[CLS]"),
    "eos_token": ("</s>",),
    "pad_token": ("<pad>", "[PAD]"),
    "unk_token": ("<unk>", "[UNK]"),
}


def read_token_names(path: str | Path) -> list[str]:
    """Returns the token of each id, as the library transformers names it; an empty text for an id without a token.

    Args:
        path: a ``vocab.txt`` or a ``tokenizer.json``.

    Raises:
        ModelConfigError: the file is not valid.
    """
    path = Path(path)
    if path.suffix != ".json":
        return [line.strip() for line in path.read_text("utf-8-sig").rstrip("\n").split("\n")]
    parsed = read_object(path)
    try:
        vocab = parsed["model"]["vocab"]
        # Unigram lists its pieces, the other kinds map them to ids.
        ids = (
            {str(piece): number for number, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        )
        ids |= {token["content"]: token["id"] for token in parsed.get("added_tokens") or ()}
        names = [""] * (1 + max(ids.values()))
        for token, number in ids.items():
            names[number] = token
    except (KeyError, TypeError, ValueError) as error:
        raise ModelConfigError(f"{path} has no vocabulary ({error!r}); copy the file of the model") from error
    return names


def read_unused_ids(path: str | Path) -> tuple[int, ...]:
    """Returns the ids of the tokens that frame, pad or replace text: those of CLS, EOS, padding and unknown text.

    Args:
        path: as for :func:`read_token_names`; the files beside it may name the tokens.
    """
    names = read_token_names(path)
    folder, found = Path(path).parent, set()
    files = [read_optional(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json")]
    for key, usual in _KEYS.items():
        given = next((values[key] for values in files if values.get(key) is not None), None)
        tokens = usual if given is None else (_content(given),)
        found |= {index for index, name in enumerate(names) if name in tokens}
    return tuple(sorted(found))


def _content(token: Any) -> str:
    """Returns the text of a token, which may be an object."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
