"""Detects a TCP connection whose peer is unreachable, from the kernel's ``TCP_INFO``; on Linux only.

A path that swallows packets gives no error, and the kernel sends data again for many minutes. This module reports such
a connection after ``NO_ACK_SECONDS``. A peer that is alive and does not read acknowledges each segment and each probe
of its window, so it is never reported. ``TCP_USER_TIMEOUT`` also ends the connection of such a peer.

The client and the server use it.
"""

from __future__ import annotations

import struct

#: A peer that leaves all segments unacknowledged for this long (s) is unreachable.
NO_ACK_SECONDS = 30.0
#: Seconds between two looks at a connection.
CHECK_INTERVAL = 1.0
#: TCP keep-alive (s): the first probe of an idle connection, the interval of further ones, and their number. The kernel
#: itself ends an idle connection 37 s after the last segment of its peer.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 7, 5, 6
#: Length of the part of ``struct tcp_info`` (linux/tcp.h) that is read.
INFO_BYTES = 60

#: ``tcpi_probes``, ``tcpi_unacked``, ``tcpi_last_data_sent`` and ``tcpi_last_ack_recv``; times in milliseconds.
_FIELDS = struct.Struct("=3xB20xI16xI8xI")


class DeadPeerDetector:
    """Examines one connection. Call :meth:`is_dead` about every ``CHECK_INTERVAL`` seconds."""

    def __init__(self) -> None:
        self._unanswered_since: float | None = None

    def is_dead(self, info: bytes, now: float) -> bool:
        """Returns whether the peer has acknowledged nothing for ``NO_ACK_SECONDS``, although segments were sent.

        Args:
            info: ``TCP_INFO`` of the connection, at least ``INFO_BYTES``.
            now: monotonic seconds.
        """
        probes, unacked, last_sent, last_ack = _FIELDS.unpack_from(info)
        # A peer without a window acknowledges retransmissions, which are up to two minutes apart, without accepting
        # them. So unacknowledged data count only if they were sent after the last acknowledgement.
        is_unanswered = probes > 0 or (unacked > 0 and last_sent < last_ack)
        if not is_unanswered:
            self._unanswered_since = None
            return False
        # The connection may have been idle before, so the age of the last acknowledgement alone tells nothing.
        if self._unanswered_since is None or now - last_ack / 1000 > self._unanswered_since:
            self._unanswered_since = now
        return now - self._unanswered_since >= NO_ACK_SECONDS
