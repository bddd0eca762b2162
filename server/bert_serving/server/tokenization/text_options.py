"""Describes the options of a request that its tokenization needs."""

from __future__ import annotations

from typing import Protocol


class TextOptions(Protocol):
    """How the texts of a request are tokenized; see ``JobOptions``."""

    @property
    def prompt(self) -> str | None: ...

    @property
    def truncate(self) -> bool: ...

    @property
    def pairs(self) -> bool | None: ...

    @property
    def long(self) -> str: ...
