"""The wire protocol between client and server: the frames of requests and replies.

Client and server import this module, so frames are written and read in one place. ``docs/protocol.md`` is the
specification. The frames are those of bert-as-service 1.10.0: a client of that version works with this server, and this
client with a server of that version. New values are extra keys in the JSON frames, which the old client ignores.

Client to server (PUSH to the port)::

    identity | command or JSON list of texts | request id, ASCII digits | number of texts, ASCII digits [| options]

Server to client (XPUB on the result port)::

    topic | JSON | request id                      reply to SHOW_CONFIG, SHOW_STATUS and SHOW_PENDING
    topic | JSON info | array bytes | request id   reply to an encode request

``topic`` starts with the identity. A client does not parse it; the *last* frame is the request id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np

#: Value of ``server_version``. A 1.10.0 client refuses every other value.
COMPATIBLE_VERSION = "1.10.0"
#: Version of the extensions described in ``docs/protocol.md``; absent in a reply of an original server.
PROTOCOL_VERSION = 10
#: Versions from which on a server understands ``CANCEL``, options that change vectors, pairs and scores, parts of long
#: texts, embedding types, several models, several outputs, and a pooling.
CANCEL_VERSION, OPTIONS_VERSION, SCORES_VERSION, PARTS_VERSION, TYPES_VERSION, MODELS_VERSION = 3, 4, 5, 6, 7, 8
OUTPUTS_VERSION, POOLING_VERSION = 9, 10

SHOW_CONFIG = b"SHOW_CONFIG"
SHOW_STATUS = b"SHOW_STATUS"
#: Query: which of the request ids in the options are unknown to the server? Not in 1.10.0.
SHOW_PENDING = b"SHOW_PENDING"
#: Drops the requests with the ids in the options; has no reply. Send it to a server of ``CANCEL_VERSION`` only: one of
#: 1.10.0 loses a worker to a message that it does not know.
CANCEL = b"CANCEL"
TERMINATION = b"TERMINATION"
COMMANDS = frozenset((SHOW_CONFIG, SHOW_STATUS, SHOW_PENDING, CANCEL, TERMINATION))

#: Longest identity. ZeroMQ limits the practical length of a subscription.
MAX_IDENTITY_BYTES = 255
#: Most decimal digits of a request id, a number of at most 64 bits.
MAX_REQUEST_ID_DIGITS = 20
#: Most characters of the option ``model``.
MAX_MODEL_NAME = 128
#: Most characters of the option ``prompt``.
MAX_PROMPT_LENGTH = 4096
#: Values of the option ``embedding_type``. Their order is part of the messages between processes of the server.
EMBEDDING_TYPES = ("float", "float16", "int8", "uint8", "binary", "ubinary")
#: Values of the option ``outputs``: one vector for each text, the weights of tokens of the vocabulary, and one vector
#: for each token of the text.
OUTPUTS = ("dense", "sparse", "multi")
#: Most texts in one request for other outputs than dense vectors, whose size the server must assume.
OUTPUTS_BATCH_SIZE = 256
#: Most layers of the option ``pooling_layer``.
MAX_LAYERS = 256
#: Most request ids in one SHOW_PENDING or CANCEL command.
MAX_QUERIED = 1000

#: Values of the option ``long`` with which a text that is too long becomes several parts.
PART_MODES = ("mean", "chunks", "late")
#: Those of them with which the reply has a row for each part.
ROW_MODES = ("chunks", "late")
#: Values of the option ``long`` that say the same as the option ``truncate``.
LONG_OF_TRUNCATE = {True: "cut", False: "error"}

#: Prefix of a ``dtype`` that makes a 1.10.0 client raise a readable ``TypeError``.
ERROR_DTYPE_PREFIX = "SERVER_ERROR "

#: Values of ``error.type`` in a reply with their meanings. See ``docs/protocol.md``.
ERROR_TYPES = {
    "invalid_request": "the message or a value in it is not valid; the same request always fails",
    "too_large": "a limit of the server is exceeded; the message names the limit",
    "vector_space_mismatch": "the vectors of the server are of another vector space than the request expects",
    "encoding_failed": "the engine could not encode one of the sequences; the others were not affected",
    "overloaded": "too much was unread, and the server dropped this request or its result; send it again later",
    "rate_limited": "a limit of the client's key is used up; send it again after ``retry_after`` seconds",
    "draining": "the server is stopping and accepts no new requests",
    "forbidden": "the client has no permission for this request",
    "internal": "the server failed unexpectedly",
}

#: Options of a request for the timing of its reply. Only a server of this project understands them.
WITH_TIMING = b'{"timing":true}'
#: Any option: the reply to a request with options names the space of its vectors.
WITH_SPACE = b'{"num_tokens":true}'
#: The same, with the number of tokens.
WITH_DETAILS = b'{"timing":true,"num_tokens":true}'

#: Vectors of type float32; float16 from a server with ``-fp16``; with ``embedding_type``, of another one.
FloatArray: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Texts = Sequence[str] | Sequence[Sequence[str]]

# `json.dumps` makes an encoder in each call with such arguments.
_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode_json = json.JSONDecoder().raw_decode


@dataclass(slots=True)  # frozen, it would take three times as long to make
class Reply:
    """One decoded reply of the server.

    Attributes:
        request_id: id of the request.
        info: the JSON frame; the whole reply to a command.
        content: bytes of the little-endian array, or ``None`` in a reply to a command.
    """

    request_id: int
    info: dict[str, Any]
    content: memoryview | None = None

    @property
    def error(self) -> dict[str, Any] | None:
        """``{"type": ..., "message": ...}`` and further values if the request failed, else ``None``."""
        error = self.info.get("error")
        if isinstance(error, dict):
            return {**error, "type": str(error.get("type", "internal")), "message": str(error.get("message", ""))}
        dtype = self.info.get("dtype")
        if isinstance(dtype, str) and dtype.startswith(ERROR_DTYPE_PREFIX):
            return {"type": "internal", "message": dtype[len(ERROR_DTYPE_PREFIX) :]}
        return None

    def view(self) -> FloatArray:
        """Returns the vectors without a copy: a read-only array that keeps the received frame alive.

        Raises:
            ValueError: the frames are inconsistent.
        """
        if self.content is None:
            raise ValueError(f"the reply to request {self.request_id} holds no array")
        vectors: FloatArray = np.frombuffer(self.content, dtype=np.dtype(str(self.info["dtype"])))
        return vectors.reshape(tuple(self.info["shape"]))

    def array(self) -> FloatArray:
        """Returns the vectors as a new, writable array of the shape and dtype in ``info``.

        Raises:
            ValueError: the frames are inconsistent.
        """
        vectors: FloatArray = self.view().copy()
        return vectors


class OutputArray(NamedTuple):
    """An array in a reply to a request with the option ``outputs``. The array frame has them one after the other.

    Attributes:
        output: one of ``OUTPUTS``.
        name: ``vectors``; ``counts``, the number of values of each text; ``ids`` and ``weights`` of sparse vectors.
    """

    output: str
    name: str
    dtype: str
    shape: Sequence[int]


@dataclass(frozen=True, slots=True)
class EncodeInfo:
    """The JSON frame of a reply to an encode request.

    Attributes:
        num_truncated: number of texts that were truncated to ``max_seq_len``.
        truncated: their rows, at most the first 1,000.
        timing: seconds of ``tokenize``, ``queue``, ``compute`` and ``total``, if requested.
        num_tokens: number of tokens of all texts in the input of the model, special tokens included, if requested.
        vector_space: space of the vectors, in the reply to a request with options.
        parts: row of the text, and offsets from and to in characters, of each row of the array, int32 ``[n, 3]``.
        outputs: the arrays that the array frame consists of.
        vocabulary: the token of each id of sparse vectors.
    """

    dtype: str
    shape: Sequence[int]
    tokens: Any = ""
    num_truncated: int = 0
    truncated: Sequence[int] = field(default_factory=tuple)
    timing: dict[str, float] | None = None
    num_tokens: int | None = None
    vector_space: str | None = None
    parts: np.ndarray | None = None
    outputs: Sequence[OutputArray] | None = None
    vocabulary: dict[str, str] | None = None

    def to_json(self) -> bytes:
        info: dict[str, Any] = {"dtype": self.dtype, "shape": list(self.shape), "tokens": self.tokens}
        if self.num_truncated:
            info["num_truncated"] = self.num_truncated
            info["truncated"] = [int(row) for row in self.truncated[:1000]]
        if self.timing is not None:
            info["timing"] = self.timing
        if self.num_tokens is not None:
            info["num_tokens"] = self.num_tokens
        if self.vector_space is not None:
            info["vector_space"] = self.vector_space
        if self.parts is not None:
            info["parts"] = self.parts.tolist()
        if self.outputs is not None:
            info["outputs"] = [each._asdict() for each in self.outputs]
        if self.vocabulary is not None:
            info["vocabulary"] = self.vocabulary
        return json.dumps(info).encode()


def error_info(error_type: str, message: str, details: Mapping[str, Any] | None = None) -> bytes:
    """Returns the JSON frame of a reply to an encode request that failed.

    ``error_type`` is a key of ``ERROR_TYPES``. ``details`` are further values of ``error``.

    A 1.10.0 client passes the ``dtype`` to numpy, which raises ``TypeError: data type 'SERVER_ERROR ...' not
    understood``. In this copy of the message, commas are replaced because numpy parses them as a list of types, and
    non-ASCII characters are escaped because Python 2 cannot print them there.
    """
    plain = message.replace(",", ";").encode("ascii", "backslashreplace").decode("ascii")
    info = {
        "dtype": ERROR_DTYPE_PREFIX + plain,
        "shape": [0],
        "tokens": "",
        "error": {"type": error_type, "message": message, **(details or {})},
    }
    return json.dumps(info).encode()


def request_frames(
    identity: bytes, message: bytes, request_id: int, num_texts: int = 0, options: bytes = b""
) -> list[bytes]:
    """Returns the four frames of a request, and a fifth with its options if it has any."""
    frames = [identity, message, b"%d" % request_id, b"%d" % num_texts]
    return [*frames, options] if options else frames


def texts_to_json(texts: Texts) -> bytes:
    """Returns texts as a JSON frame in UTF-8, which is half the size of ASCII escapes for Chinese.

    A lone surrogate has no UTF-8 form. Such texts are sent in ASCII escapes, as in the original client.
    """
    try:
        return _encode_json(texts).encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(texts, separators=(",", ":")).encode("ascii")


def parse_reply(frames: Sequence[Any]) -> Reply:
    """Parses the frames of a reply (bytes, memoryviews or ``zmq.Frame`` objects).

    Raises:
        ValueError: fewer than three frames, a request id that is not a number, or JSON that is not an object.
    """
    if len(frames) < 3:
        raise ValueError(f"a reply has 3 or 4 frames, received {len(frames)}")
    request_id = int(_bytes(frames[-1]))
    info = _read_json(_bytes(frames[1]))
    if not isinstance(info, dict):
        raise ValueError(f"the JSON part of a reply must be an object, received {type(info).__name__}")
    content = None
    if len(frames) > 3:
        content = memoryview(getattr(frames[2], "buffer", frames[2]))
    return Reply(request_id, info, content)


def _read_json(frame: bytes) -> Any:
    """Decodes JSON: ``json.loads`` without its searches for an encoding and for white space."""
    text = frame.decode("utf-8", "surrogatepass")
    if text.startswith("{"):
        value, end = _decode_json(text)
        if end == len(text):
            return value
    return json.loads(text)


def _bytes(frame: Any) -> bytes:
    if isinstance(frame, bytes):
        return frame
    content: bytes | None = getattr(frame, "bytes", None)  # of a ``zmq.Frame``
    return bytes(frame) if content is None else content
