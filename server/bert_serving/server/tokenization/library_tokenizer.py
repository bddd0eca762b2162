"""Tokenizes with the Hugging Face library `tokenizers`: any ``tokenizer.json`` that is not BERT's WordPiece.

The library is imported when a model needs it (extra ``tokenizers``). Truncation and padding of the file are switched
off, because the server truncates itself and never pads texts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..model.errors import ModelConfigError
from .frame import Frame
from .vocabulary import find_padding, first_id

#: A text whose tokens show where the special tokens of a sequence stand.
_PROBE = "a"
#: Characters that vocabularies rarely have: a tokenizer without a token for unknown text fails on them.
_RARE = "\ue000 \U00010380 \u2603"
#: Usual names of the token for unknown text.
_UNKNOWN = ("<unk>", "[UNK]")


class LibrarySegmenter:
    """Converts texts to token ids without special tokens. Thread-safe.

    Attributes:
        ids: token -> id, added tokens included.
        description: the kind of the tokenizer.
        frame: the special tokens of a sequence.
        unknown: the id of a token that the vocabulary lacks; None if there is no such id. Texts of a byte-level
            tokenizer have no unknown part.
    """

    def __init__(self, path: str, parsed: dict[str, Any], lower_first: bool = False) -> None:
        """
        Args:
            path: the ``tokenizer.json``.
            parsed: its content.
            lower_first: texts between added tokens are lower-cased before any other step.

        Raises:
            LibraryMissing: the package `tokenizers` is not installed.
            ValueError: the library cannot read the file, or its special tokens are none that the server can place.
        """
        self._tokenizer = _load(path)
        if lower_first:
            _lower_first(self._tokenizer, parsed)
        self.ids: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        if getattr(self._tokenizer.model, "dropout", None):
            raise ModelConfigError(
                f"{path} drops merges at random (dropout {self._tokenizer.model.dropout}), so equal texts have "
                "different vectors; set dropout to null"
            )
        with _refusing(f"{path} cannot tokenize every text"):
            self._tokenizer.encode(_RARE)
            self.frame = find_frame(self._tokenizer, path, find_padding(parsed, self.ids))
        self.unknown = _find_unknown(parsed["model"], self.ids)
        self.description = f"{type(self._tokenizer.model).__name__}, computed by the library tokenizers"

    def encode(self, segments: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all segments, concatenated, int32, and the number of ids per segment, int32 ``[n]``."""
        found = self._tokenizer.encode_batch_fast([_clean(text) for text in segments], add_special_tokens=False)
        rows = [encoding.ids for encoding in found]
        lengths = np.fromiter(map(len, rows), np.int32, len(rows))
        ids = np.fromiter((index for row in rows for index in row), np.int32, int(lengths.sum()))
        return ids, lengths

    def encode_one(self, text: str) -> list[int]:
        """Returns the ids of one text."""
        ids: list[int] = self._tokenizer.encode(_clean(text), add_special_tokens=False).ids
        return ids

    def decode(self, ids: list[int], tokens: list[str], skip_special: bool) -> str:
        """Returns the text of ids."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special)
        return text


class LibraryMissing(ValueError):
    """The package `tokenizers` is not installed."""


@contextlib.contextmanager
def _refusing(problem: str) -> Iterator[None]:
    """Refuses the file if the library fails: it raises plain ``Exception``, or a panic, which is none.

    Raises:
        ModelConfigError: the library failed.
    """
    try:
        yield
    except (ValueError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ModelConfigError(f"{problem} ({error}); save the fast tokenizer again") from None


def _load(path: str) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise LibraryMissing(
            f"{path} is not BERT's WordPiece tokenizer and needs the package tokenizers; "
            "pip install 'bert-serving-server[tokenizers]'"
        ) from None
    with _refusing(f"the library tokenizers cannot read {path}"):
        tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _lower_first(tokenizer: Any, parsed: dict[str, Any]) -> None:
    """Puts the normalizer ``Lowercase`` before the others, unless it is one of them."""
    from tokenizers import normalizers

    given = parsed.get("normalizer") or {}
    kinds = [part.get("type") for part in (given, *given.get("normalizers", ()))]
    if "Lowercase" not in kinds:
        others = [] if tokenizer.normalizer is None else [tokenizer.normalizer]
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *others])


def find_frame(tokenizer: Any, path: str, padding: int | None) -> Frame:
    """Derives the special tokens of a sequence and of a pair from a probe.

    A pair needs one token in front, one behind, and some between its texts; otherwise the frame has none.

    Args:
        padding: id of the padding token.

    Raises:
        ValueError: a single text does not get one token in front and one behind.
    """
    bare = tokenizer.encode(_PROBE, add_special_tokens=False).ids
    encoding = tokenizer.encode(_PROBE)
    pair = tokenizer.encode(_PROBE, _PROBE)
    single, size = encoding.ids, len(bare)
    separators = tuple(pair.ids[1 + size : -1 - size])
    if not size or len(single) != size + 2 or single != [single[0], *bare, single[-1]]:
        raise ModelConfigError(
            f"{path} adds the special tokens {single} to {bare}; the server supports one in front and one behind"
        )
    if pair.ids != [single[0], *bare, *separators, *bare, single[-1]] or not separators:
        problem = "the tokenizer of this model has no form for pairs"
        return Frame(single[0], (), single[-1], 0, padding, pair_problem=problem)
    second_type = pair.type_ids[-1]
    second_size = size + 1
    expected = [0] * (len(pair.ids) - second_size) + [second_type] * second_size
    if any(encoding.type_ids) or pair.type_ids != expected:
        raise ModelConfigError(
            f"{path} gives the tokens of a text the types {encoding.type_ids} and those of a pair {pair.type_ids}; the "
            "server supports type 0 up to the second text of a pair"
        )
    return Frame(single[0], separators, single[-1], second_type, padding, favors_longer=True)


def _find_unknown(model: dict[str, Any], ids: dict[str, int]) -> int | None:
    """Returns the id of unknown text, or else the usual one for a token that the vocabulary lacks."""
    if model.get("type") == "Unigram" and model.get("unk_id") is not None:
        return int(model["unk_id"])
    return first_id([model.get("unk_token"), *_UNKNOWN], ids)


def _clean(text: str) -> str:
    """Removes surrogates, which the library cannot encode."""
    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")
