"""Reads the token of each id of a vocabulary."""

from __future__ import annotations

from .vocabulary import read_object, read_vocabulary


def read_token_names(path: str) -> list[str]:
    """Returns the token of each id, as the library transformers names it; an empty text for an id without a token.

    Args:
        path: a ``vocab.txt`` or a ``tokenizer.json``.

    Raises:
        ModelConfigError: the file is not valid.
    """
    if path.endswith(".json"):
        parsed = read_object(path)
        vocab = parsed["model"]["vocab"]
        # Unigram lists its pieces, the other kinds map them to ids.
        ids = {piece: number for number, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
        ids |= {token["content"]: token["id"] for token in parsed.get("added_tokens") or ()}
    else:
        vocabulary = read_vocabulary(path)
        assert vocabulary is not None  # a vocab.txt always has one
        ids = vocabulary.ids
    names = [""] * (1 + max(ids.values()))
    for token, number in ids.items():
        names[number] = token
    return names
