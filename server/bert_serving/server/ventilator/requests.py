"""Parses requests: checks the frames of a message. ``tokenization/request_texts.py`` decodes the texts."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import zmq

from bert_serving.client.protocol import COMMANDS, MAX_IDENTITY_BYTES, MAX_REQUEST_ID_DIGITS

from ..errors import InvalidRequest
from ..scheduling.jobs import RequestKey
from .request_options import MAX_OPTIONS_BYTES, NO_REQUEST_OPTIONS, RequestOptions, decode_options
from .request_source import UNKNOWN_SOURCE, RequestSource, source_of

#: Messages up to this size are decoded as a whole, larger ones piece by piece.
INLINE_BYTES = 8192


class Request(msgspec.Struct, frozen=True):
    """Holds the frames of a request with a valid envelope.

    Attributes:
        message: a command, or JSON that is not decoded yet. A large one is the buffer of its frame.
        options: the fifth frame.
        source: connection of the message.
        user_id: CURVE key of the connection in Z85, if it was asked for.
    """

    identity: bytes
    message: bytes | memoryview
    request_id: bytes
    options: RequestOptions = NO_REQUEST_OPTIONS
    source: RequestSource = UNKNOWN_SOURCE
    user_id: str = ""

    @property
    def is_command(self) -> bool:
        return isinstance(self.message, bytes) and self.message in COMMANDS

    def key_of(self, message_digest: bytes) -> RequestKey:
        """Returns the key by which a repetition is recognized. A request of another CURVE key is none."""
        if self.options is not NO_REQUEST_OPTIONS:
            message_digest += self.options.key
        return RequestKey(self.identity, self.request_id, message_digest + self.user_id.encode())


class BadEnvelope(InvalidRequest):
    """The frames of a message are not those of a request.

    ``reply_to`` is the identity and the request id for an error reply, None if the message has none.
    """

    def __init__(self, message: str, reply_to: tuple[bytes, bytes] | None = None) -> None:
        super().__init__(message)
        self.reply_to = reply_to


def read_envelope(frames: Sequence[zmq.Frame], reads_user: bool = False) -> Request:
    """Checks the number and the format of the frames, not the texts.

    Args:
        reads_user: reads the CURVE key of the connection.

    Raises:
        BadEnvelope: wrong number of frames, an oversized identity, a request id that is not a number, unknown options.
    """
    if len(frames) not in (4, 5):
        raise BadEnvelope(f"a request has 4 frames, or 5 with options; received {len(frames)}")
    if len(frames[0]) > MAX_IDENTITY_BYTES:
        raise BadEnvelope(f"an identity has at most {MAX_IDENTITY_BYTES} bytes, received {len(frames[0])}")
    identity, request_id = frames[0].bytes, bytes(frames[2].buffer[: MAX_REQUEST_ID_DIGITS + 1])
    # A large message is not copied.
    message = frames[1].bytes if len(frames[1]) <= INLINE_BYTES else frames[1].buffer
    if not request_id.isdigit() or len(request_id) > MAX_REQUEST_ID_DIGITS:
        shown = request_id[:MAX_REQUEST_ID_DIGITS]
        raise BadEnvelope(
            f"a request id is a decimal number of at most {MAX_REQUEST_ID_DIGITS} digits, received {shown!r}",
            reply_to=(identity, shown),
        )
    # The fourth frame, the number of texts, is not trusted: the texts are counted instead.
    user_id = str(frames[-1].get("User-Id")) if reads_user else ""
    if len(frames) == 4:
        return Request(identity, message, request_id, source=source_of(frames[-1]), user_id=user_id)
    if len(frames[4]) > MAX_OPTIONS_BYTES:  # the decoder would create a long list before it checks max_length
        raise BadEnvelope(
            f"the options of a request have at most {MAX_OPTIONS_BYTES} bytes, received {len(frames[4])}",
            reply_to=(identity, request_id),
        )
    try:
        options = decode_options(frames[4].bytes)
    except ValueError as error:
        raise BadEnvelope(str(error), reply_to=(identity, request_id)) from None
    return Request(identity, message, request_id, options, source_of(frames[-1]), user_id)
