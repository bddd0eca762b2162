"""`ConcurrentBertClient`: a client that limits its concurrent requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

from ._arguments import whole_number
from ._client import BertClient
from ._deadline import seconds
from ._encoding import E, NestedList
from .errors import RequestTimeoutError
from .protocol import FloatArray

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ._options import Options


class ConcurrentBertClient(BertClient[E]):
    """A `BertClient` for many threads, with at most ``max_concurrency`` concurrent blocking calls.

    Threads may share any `BertClient`. This class also bounds the requests of a busy program, for example a web
    server. A call beyond the limit waits for a slot, for ``timeout`` at most.

    Args:
        max_concurrency: most concurrent calls.
        kwargs: as for `BertClient`.
    """

    if TYPE_CHECKING:

        @overload
        def __init__(
            self: ConcurrentBertClient[FloatArray],
            max_concurrency: int = ...,
            *,
            ip: str | Sequence[str] = ...,
            port: int = ...,
            port_out: int = ...,
            output_fmt: Literal["ndarray"] = ...,
            **kwargs: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(
            self: ConcurrentBertClient[NestedList],
            max_concurrency: int = ...,
            *,
            ip: str | Sequence[str] = ...,
            port: int = ...,
            port_out: int = ...,
            output_fmt: Literal["list"],
            **kwargs: Unpack[Options],
        ) -> None: ...
        @overload
        def __init__(
            self: ConcurrentBertClient[Any],
            max_concurrency: int = ...,
            *,
            output_fmt: Literal["torch"],
            **kwargs: Any,
        ) -> None: ...

    def __init__(self, max_concurrency: int = 10, **kwargs: Any) -> None:
        self.max_concurrency = whole_number("max_concurrency", max_concurrency, 1)
        self._slots = threading.BoundedSemaphore(self.max_concurrency)
        super().__init__(**kwargs)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=seconds(self.timeout)):
            raise RequestTimeoutError(
                f'all max_concurrency={self.max_concurrency} slots were in use for "timeout"={self.timeout} ms; '
                "raise max_concurrency or timeout"
            )
        try:
            yield
        finally:
            self._slots.release()
