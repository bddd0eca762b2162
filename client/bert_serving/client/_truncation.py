"""Counts and warnings of texts that a server truncated."""

from __future__ import annotations

import threading
import warnings


class Truncation:
    """Counts the texts that were encoded, and those of them that were truncated.

    Args:
        warns: warn of truncated texts.

    Attributes:
        server_counts: the server reports truncated texts. An original one does not, so the client counts words.
    """

    def __init__(self, warns: bool) -> None:
        self.warns = warns
        self.server_counts = False
        self.num_texts = 0
        self.num_truncated = 0
        self._lock = threading.Lock()

    def count(self, num_truncated: int, num_texts: int) -> None:
        """Adds texts to the counts. Any thread may call this."""
        with self._lock:
            self.num_truncated += num_truncated
            self.num_texts += num_texts

    def warn(self, number: int, total: int, limit: int | None, stacklevel: int) -> None:
        """Warns if texts were truncated to ``limit`` tokens."""
        if number and self.warns:
            warnings.warn(
                f"{number} of {total} texts are longer than the server's max_seq_len={limit} and were "
                "truncated; start the server with a larger -max_seq_len, or silence this with "
                "BertClient(check_length=False)",
                stacklevel=stacklevel + 1,
            )

    def describe(self) -> str:
        """Returns the counts in words; empty if no text was truncated."""
        return f", {self.num_truncated} of {self.num_texts} texts truncated" if self.num_truncated else ""
