"""`ConcurrentBertClient`: a client that limits how many of its requests run at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._client import BertClient
from ._deadline import seconds
from .errors import OptionError, RequestTimeoutError


class ConcurrentBertClient(BertClient):
    """A `BertClient` for many threads, with at most ``max_concurrency`` blocking calls at a time.

    Any `BertClient` may be shared by threads; this one also keeps a busy program (a web server, say) from piling up
    requests. A call beyond the limit waits for its turn, ``timeout`` at most.

    Args:
        max_concurrency: most calls at the same time.
        kwargs: as for `BertClient`.
    """

    def __init__(self, max_concurrency: int = 10, **kwargs: Any) -> None:
        if max_concurrency < 1:
            raise OptionError(f"max_concurrency must be at least 1, but is {max_concurrency}")
        self.max_concurrency = max_concurrency
        self._slots = threading.BoundedSemaphore(max_concurrency)
        super().__init__(**kwargs)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=seconds(self.timeout)):
            raise RequestTimeoutError(
                f'all of max_concurrency={self.max_concurrency} calls were taken for "timeout"={self.timeout} ms; '
                "allow more of them, or a longer timeout"
            )
        try:
            yield
        finally:
            self._slots.release()
