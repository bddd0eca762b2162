"""Client of a bert-serving server, which encodes sentences into vectors.

>>> from bert_serving.client import BertClient          # doctest: +SKIP
>>> bc = BertClient()                                   # doctest: +SKIP
>>> bc.encode(["First do it", "then do it right"])      # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import (
    BertServingError,
    ClientClosedError,
    ClientForkedError,
    ClientStateError,
    DrainingError,
    EncodingFailedError,
    ForbiddenError,
    InputTypeError,
    InputValueError,
    InternalServerError,
    InvalidInputError,
    InvalidRequestError,
    OptionError,
    OverloadedError,
    RateLimitedError,
    ReplyError,
    RequestTimeoutError,
    ServerError,
    ServerUnreachableError,
    TaskError,
    TooLargeError,
    VectorSpaceError,
    VersionMismatchError,
)

if TYPE_CHECKING:
    from ._asyncio import AsyncBertClient
    from ._client import BertClient
    from ._concurrent import ConcurrentBertClient
    from ._encoding import Response
    from ._output_scores import max_sim
    from ._outputs import EncodedOutputs, SparseVector
    from ._parts import EncodedParts, TextPart
    from ._scores import Classification, Ranked

__all__ = [
    "AsyncBertClient",
    "BertClient",
    "BertServingError",
    "Classification",
    "ClientClosedError",
    "ClientForkedError",
    "ClientStateError",
    "ConcurrentBertClient",
    "DrainingError",
    "EncodedOutputs",
    "EncodedParts",
    "EncodingFailedError",
    "ForbiddenError",
    "InputTypeError",
    "InputValueError",
    "InternalServerError",
    "InvalidInputError",
    "InvalidRequestError",
    "OptionError",
    "OverloadedError",
    "RateLimitedError",
    "Ranked",
    "ReplyError",
    "RequestTimeoutError",
    "Response",
    "ServerError",
    "ServerUnreachableError",
    "SparseVector",
    "TaskError",
    "TextPart",
    "TooLargeError",
    "VectorSpaceError",
    "VersionMismatchError",
    "__version__",
    "max_sim",
]

#: Modules of names that are imported on first use: each process of a server imports the wire format without a client.
_MODULES = {
    "AsyncBertClient": "_asyncio",
    "BertClient": "_client",
    "Classification": "_scores",
    "ConcurrentBertClient": "_concurrent",
    "EncodedOutputs": "_outputs",
    "EncodedParts": "_parts",
    "Ranked": "_scores",
    "Response": "_encoding",
    "SparseVector": "_outputs",
    "TextPart": "_parts",
    "max_sim": "_output_scores",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
