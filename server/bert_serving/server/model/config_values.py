"""Reads single values of a configuration, with an error that names the key and the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .errors import ModelConfigError, ModelUnsupported

#: Supported activations: name in a configuration → canonical name.
HIDDEN_ACTS = {
    "gelu": "gelu",  # with the error function, as in Google's BERT and Hugging Face's "gelu"
    "gelu_new": "gelu_new",  # with tanh
    "gelu_pytorch_tanh": "gelu_new",
    "gelu_fast": "gelu_new",
    "relu": "relu",
    "tanh": "tanh",
    "silu": "silu",
    "swish": "silu",
}


class Values(Mapping[str, Any]):
    """The values of a configuration, with methods that check their types.

    Attributes:
        source: path of the file, for the messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self._values, self.source = values, source

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str, default: int | None = None, least: int = 0) -> int:
        """Returns an integer of at least ``least``.

        Raises:
            ModelConfigError: the key is missing and has no default, or its value is of another type or smaller.
        """
        value = self.get(key, default)
        if value is None:
            raise ModelConfigError(f"{self.source}: the key {key!r} is missing; use the configuration of the model")
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ModelConfigError(f"{self.source}: {key} is {value!r}; it must be an integer above {least - 1}")
        return value

    def positive(self, key: str, default: int | None = None) -> int:
        """Returns an integer above 0; see ``count``."""
        return self.count(key, default, least=1)

    def number(self, key: str, default: float) -> float:
        """Returns a number above 0.

        Raises:
            ModelConfigError: the value is of another type or smaller.
        """
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < sys.float_info.max:
            raise ModelConfigError(f"{self.source}: {key} is {value!r}; it must be a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns true or false.

        Raises:
            ModelConfigError: the value is another one.
        """
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelConfigError(f"{self.source}: {key} is {value!r}; it must be true or false")
        return value

    def act(self, key: str, default: str) -> str:
        """Returns the canonical name of an activation.

        Raises:
            ModelUnsupported: the server does not compute the activation.
        """
        value = self.get(key, default)
        if not isinstance(value, str) or value not in HIDDEN_ACTS:
            raise ModelUnsupported(
                f"{self.source}: {key} {value!r} is not supported; it must be one of {', '.join(HIDDEN_ACTS)}"
            )
        return HIDDEN_ACTS[value]

    def require(self, key: str, needed: Any) -> None:
        """Checks a key whose only supported value is ``needed``; a missing key or null has it.

        Raises:
            ModelUnsupported: the value is another one.
        """
        value = self.get(key)
        if value is not None and value != needed:
            raise ModelUnsupported(f"{self.source}: {key} {value!r} is not supported; it must be {needed!r}")
