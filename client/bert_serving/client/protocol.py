"""The wire protocol between a client and a server: frames in, frames out.

Both sides import this module, so there is one place where a frame is written or read. The text of the
specification is ``docs/protocol.md``. The frames are those of bert-as-service 1.10.0, so a client of that version
works against this server and the other way round; what is new travels as extra keys in the JSON parts, which the
old client ignores.

Client to server (PUSH to the port)::

    identity | command or JSON list of texts | request id, ASCII digits | number of texts, ASCII digits [| options]

Server to client (XPUB on the result port)::

    topic | JSON | request id                      answer to SHOW_CONFIG, SHOW_STATUS and SHOW_PENDING
    topic | JSON info | array bytes | request id   answer to an encode request

``topic`` begins with the identity. A client must not read it: it reads the *last* frame for the request id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

#: What this server says in ``server_version``: a 1.10.0 client refuses every other string.
COMPATIBLE_VERSION = "1.10.0"
#: Version of the extensions described in ``docs/protocol.md``; absent in the answer of an original server.
PROTOCOL_VERSION = 2

SHOW_CONFIG = b"SHOW_CONFIG"
SHOW_STATUS = b"SHOW_STATUS"
#: Which of these requests of mine do you not know, or no longer? They are named in the options. Not in 1.10.0.
SHOW_PENDING = b"SHOW_PENDING"
TERMINATION = b"TERMINATION"
COMMANDS = frozenset((SHOW_CONFIG, SHOW_STATUS, SHOW_PENDING, TERMINATION))

#: ZeroMQ limits a subscription's practical length; identities above it are refused.
MAX_IDENTITY_BYTES = 255
#: A request id is a decimal number of at most 64 bits.
MAX_REQUEST_ID_DIGITS = 20
#: So many requests may be asked after at a time.
MAX_ASKED = 1000

#: Prefix of the ``dtype`` text that makes a 1.10.0 client raise a readable ``TypeError``.
ERROR_DTYPE_PREFIX = "SERVER_ERROR "

#: Values of ``error.type`` in a reply, and what they mean. See ``docs/protocol.md``.
ERROR_TYPES = {
    "invalid_request": "the message or a value in it is not valid; sending it again gives the same answer",
    "too_large": "a limit of the server is exceeded; the message names the limit",
    "encoding_failed": "the engine could not encode one of the sequences; the others were not affected",
    "overloaded": "the server could not keep the answer, because too much waited unread; ask again, and read sooner",
    "draining": "the server is stopping and takes no new work",
    "forbidden": "the sender may not do this",
    "internal": "the server failed in a way it did not foresee",
}

#: Options of a request whose reply is to tell its timing. Only a server of this project understands them.
WITH_TIMING = b'{"timing":true}'
#: The same, and how many tokens its texts have.
WITH_DETAILS = b'{"timing":true,"num_tokens":true}'

#: Vectors of type float32, or float16 from a server with ``-fp16``.
FloatArray: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Texts = Sequence[str] | Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the server, decoded.

    Attributes:
        request_id: the id that the request carried.
        info: the JSON part. For an answer to a command this is the whole answer.
        content: raw little-endian array bytes, or ``None`` for an answer to a command.
    """

    request_id: int
    info: dict[str, Any]
    content: memoryview | None = None

    @property
    def error(self) -> dict[str, str] | None:
        """``{"type": ..., "message": ...}`` if the request failed, else ``None``."""
        error = self.info.get("error")
        if isinstance(error, dict):
            return {"type": str(error.get("type", "internal")), "message": str(error.get("message", ""))}
        dtype = self.info.get("dtype")
        if isinstance(dtype, str) and dtype.startswith(ERROR_DTYPE_PREFIX):
            return {"type": "internal", "message": dtype[len(ERROR_DTYPE_PREFIX) :]}
        return None

    def view(self) -> FloatArray:
        """The vectors, without a copy: a read-only array that keeps the received frame alive.

        Raises:
            ValueError: the frames do not fit together.
        """
        if self.content is None:
            raise ValueError(f"the answer to request {self.request_id} holds no array")
        vectors: FloatArray = np.frombuffer(self.content, dtype=np.dtype(str(self.info["dtype"])))
        return np.reshape(vectors, tuple(self.info["shape"]))

    def array(self) -> FloatArray:
        """The vectors: a new, writable array of the shape and dtype that ``info`` names.

        Raises:
            ValueError: the frames do not fit together.
        """
        vectors: FloatArray = self.view().copy()
        return vectors


@dataclass(frozen=True, slots=True)
class EncodeInfo:
    """The JSON part of an answer to an encode request.

    ``truncated`` lists the rows whose text was cut to ``max_seq_len`` (at most the first 1,000 of them), with their
    number in ``num_truncated``. ``timing``, if it was asked for, holds seconds: ``tokenize``, ``queue``, ``compute``,
    ``total``; ``num_tokens``, if it was, the tokens of all texts as the model saw them, special ones included.
    """

    dtype: str
    shape: Sequence[int]
    tokens: Any = ""
    num_truncated: int = 0
    truncated: Sequence[int] = field(default_factory=tuple)
    timing: dict[str, float] | None = None
    num_tokens: int | None = None

    def to_json(self) -> bytes:
        info: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "tokens": self.tokens}
        if self.num_truncated:
            info["num_truncated"] = self.num_truncated
            info["truncated"] = [int(row) for row in self.truncated[:1000]]
        if self.timing is not None:
            info["timing"] = self.timing
        if self.num_tokens is not None:
            info["num_tokens"] = self.num_tokens
        return json.dumps(info).encode()


def error_info(kind: str, message: str) -> bytes:
    """JSON part of a reply that says why an encode request failed.

    The ``dtype`` carries the text to a 1.10.0 client, whose numpy then raises ``TypeError: data type
    'SERVER_ERROR ...' not understood``. Numpy reads a comma as a list of types and Python 2 cannot print other than
    ASCII there, so that copy of the text has neither.
    """
    plain = message.replace(",", ";").encode("ascii", "backslashreplace").decode("ascii")
    info = {
        "dtype": ERROR_DTYPE_PREFIX + plain,
        "shape": [0],
        "tokens": "",
        "error": {"type": kind, "message": message},
    }
    return json.dumps(info).encode()


def request_frames(
    identity: bytes, message: bytes, request_id: int, num_texts: int = 0, options: bytes = b""
) -> list[bytes]:
    """The four frames of a request, and a fifth with its options if it has any."""
    frames = [identity, message, b"%d" % request_id, b"%d" % num_texts]
    return [*frames, options] if options else frames


def texts_to_json(texts: Texts) -> bytes:
    """Texts as the JSON frame, in UTF-8: half the size of ASCII escapes for Chinese.

    A lone surrogate has no UTF-8 form; such a list is sent in ASCII escapes, as the original client always did.
    """
    try:
        return json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(texts, separators=(",", ":")).encode("ascii")


def parse_reply(frames: Sequence[Any]) -> Reply:
    """Reads the frames of a reply (bytes, memoryviews or ``zmq.Frame`` objects).

    Raises:
        ValueError: fewer than three frames, a request id that is not a number, or JSON that is not an object.
    """
    if len(frames) < 3:
        raise ValueError(f"a reply has 3 or 4 frames, received {len(frames)}")
    request_id = int(_bytes(frames[-1]))
    info = json.loads(_bytes(frames[1]))
    if not isinstance(info, dict):
        raise ValueError(f"the JSON part of a reply must be an object, received {type(info).__name__}")
    content = None
    if len(frames) > 3:
        content = memoryview(getattr(frames[2], "buffer", frames[2]))
    return Reply(request_id, info, content)


def _bytes(frame: Any) -> bytes:
    return frame if isinstance(frame, bytes) else bytes(getattr(frame, "buffer", frame))
