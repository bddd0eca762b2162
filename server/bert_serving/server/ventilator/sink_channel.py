"""Exchanges commands with the sink."""

from __future__ import annotations

from collections.abc import Iterator

import zmq

from bert_serving.client.protocol import error_info

from ..errors import RequestError
from ..ipc import commands
from ..ipc.commands import u64
from ..ipc.messages import Command, decode_commands, encode_commands
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import make_socket, recv_available


class SinkChannel:
    """Queues commands for the sink and sends them, in order, as one message per ``flush``.

    The loop flushes after it has sent batches, so that workers do not wait for the sink.

    Args:
        epoch: random number of this ventilator process.
        first_batch: id of its first batch.
    """

    def __init__(self, context: ProcessContext, epoch: int, first_batch: int) -> None:
        self.socket = make_socket(context.context, zmq.DEALER)
        self.socket.connect(context.addresses.channel)
        self._epoch = epoch
        self._outgoing: list[Command] = []
        self.sync(first_batch)
        self.flush()

    def send(self, command: Command) -> None:
        """Queues a command."""
        self._outgoing.append(command)

    def sync(self, next_batch: int, nonce: bytes | None = None) -> None:
        """Queues SYNC; ``nonce`` is that of the sink's SYNC_REQUEST."""
        self.send([commands.SYNC, u64(self._epoch), u64(next_batch), *([] if nonce is None else [nonce])])

    def free_results(self, size: int) -> None:
        """Queues FREE_RESULTS: other jobs need ``size`` bytes of the memory of results."""
        self.send([commands.FREE_RESULTS, u64(size)])

    def publish(self, identity: bytes, frames: list[bytes]) -> None:
        """Queues frames for publication to a client."""
        self.send([commands.PUBLISH, identity, *frames])

    def publish_error(self, identity: bytes, request_id: bytes, error: RequestError) -> None:
        """Queues an error reply in place of vectors."""
        self.publish(identity, [error_info(error.kind, str(error), error.details), b"", request_id])

    def flush(self) -> None:
        """Sends the queued commands."""
        if self._outgoing:
            self.socket.send(encode_commands(self._outgoing))
            self._outgoing.clear()

    def receive(self, limit: int) -> Iterator[Command]:
        """Yields the commands in up to ``limit`` messages from the sink. Call it when the socket is readable."""
        for frames in recv_available(self.socket, limit):
            yield from decode_commands(frames[0])
