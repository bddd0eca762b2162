"""Client of a bert-serving server, which encodes sentences into vectors.

>>> from bert_serving.client import BertClient          # doctest: +SKIP
>>> bc = BertClient()                                   # doctest: +SKIP
>>> bc.encode(["First do it", "then do it right"])      # doctest: +SKIP
"""

from __future__ import annotations

from ._asyncio import AsyncBertClient
from ._client import BertClient
from ._concurrent import ConcurrentBertClient
from ._encoding import Response
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
    ReplyError,
    RequestTimeoutError,
    ServerError,
    ServerUnreachableError,
    TooLargeError,
    VectorSpaceError,
    VersionMismatchError,
)

__all__ = [
    "AsyncBertClient",
    "BertClient",
    "BertServingError",
    "ClientClosedError",
    "ClientForkedError",
    "ClientStateError",
    "ConcurrentBertClient",
    "DrainingError",
    "EncodingFailedError",
    "ForbiddenError",
    "InputTypeError",
    "InputValueError",
    "InternalServerError",
    "InvalidInputError",
    "InvalidRequestError",
    "OptionError",
    "OverloadedError",
    "ReplyError",
    "RequestTimeoutError",
    "Response",
    "ServerError",
    "ServerUnreachableError",
    "TooLargeError",
    "VectorSpaceError",
    "VersionMismatchError",
    "__version__",
]
