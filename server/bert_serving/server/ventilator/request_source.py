"""Names the connection that a message came from."""

from __future__ import annotations

import msgspec
import zmq

from ..ipc.descriptors import CLOSED, inode

_UNKNOWN = -1
_SRCFD = int(zmq.SRCFD)


class RequestSource(msgspec.Struct, frozen=True):
    """A connection. Its descriptor may be used again after its end; its inode tells the two connections apart."""

    descriptor: int
    inode: int

    def lets_cancel(self, other: RequestSource) -> bool:
        """Whether another connection may cancel a request from this one.

        A client that has lost its connection cancels on its next one, which cannot be told from a stranger's.
        """
        is_open = self.inode != CLOSED and inode(self.descriptor) == self.inode
        return other == self or self.descriptor == _UNKNOWN or not is_open


#: Where ZeroMQ does not name the connection.
UNKNOWN_SOURCE = RequestSource(_UNKNOWN, CLOSED)


def source_of(frame: zmq.Frame) -> RequestSource:
    """Returns the connection of a frame."""
    try:
        descriptor = int(frame.get(_SRCFD))
    except zmq.ZMQError:
        return UNKNOWN_SOURCE
    return RequestSource(descriptor, inode(descriptor))
