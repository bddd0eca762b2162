"""Reads messages in bounded steps, and drops messages of too many frames.

ZeroMQ hands over a message when its last frame has arrived. Then it hands over nothing of any other connection until
that last frame is read.
"""

from __future__ import annotations

from collections.abc import Callable

import zmq

#: Frames that are read in one step. A message of as many frames is dropped.
FRAMES_PER_STEP = 4096
_NOBLOCK = int(zmq.NOBLOCK)


class FrameReader:
    """Reads one socket.

    Args:
        on_too_many: called with a frame of a message of at least ``FRAMES_PER_STEP`` frames.
    """

    def __init__(self, sock: zmq.Socket[bytes], on_too_many: Callable[[zmq.Frame], None]) -> None:
        self._socket, self._on_too_many = sock, on_too_many
        self._is_dropping = False  # the rest of a message of too many frames

    def read(self) -> list[zmq.Frame] | None:
        """Reads the frames of a message; None if there is no message, or none that is read to its end."""
        frames: list[zmq.Frame] = []
        for _ in range(FRAMES_PER_STEP):
            try:
                frame = self._socket.recv(_NOBLOCK, copy=False)
            except zmq.Again:
                return None
            if not frame.more:
                if not self._is_dropping:
                    return [*frames, frame]
                self._is_dropping = False
                return None
            if not self._is_dropping:
                frames.append(frame)
        if not self._is_dropping:
            self._is_dropping = True
            self._on_too_many(frames[-1])
        return None
