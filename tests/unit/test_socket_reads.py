"""Sockets are read without system calls that a message does not need: no message is lost, repeated or reordered."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import zmq

from bert_serving.server.ipc.connection_monitor import ConnectionMonitor
from bert_serving.server.ipc.sockets import receive_at_once, recv_available

_numbers = itertools.count()


@pytest.fixture
def pair() -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A PUSH and a PULL socket that are connected."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    pull, push = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    address = f"inproc://reads-{next(_numbers)}"
    pull.bind(address)
    push.connect(address)
    yield push, pull
    for each in (push, pull):
        each.close(linger=0)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("most", range(1, 6))
@pytest.mark.parametrize("copy", [True, False])
def test_available_messages_are_read_once_and_in_order(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]], number: int, most: int, copy: bool
) -> None:
    push, pull = pair
    sent = [[b"%d" % index, *[b""] * index, b"end"] for index in range(number)]
    for frames in sent:
        push.send_multipart(frames)
    found = []
    for _ in range(number + 1):
        read = list(recv_available(pull, most, copy=copy))
        assert len(read) <= most
        found += [[bytes(frame) for frame in frames] for frames in read]
    assert found == sent


def test_receive_at_once_raises_without_a_message(pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]]) -> None:
    with pytest.raises(zmq.Again):
        receive_at_once(pair[1])


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_a_message_counts_as_its_frames_do(is_encrypted: bool) -> None:
    """Bytes of a message that was read are those of its frames, whether they are counted together or one by one."""

    class Frame(bytes):
        def get(self, option: int) -> int:
            return 7

    frames = [Frame(size) for size in (0, 1, 222, 223, 255, 256, 70_000)]
    together, single = (ConnectionMonitor(1, is_encrypted) for _ in range(2))
    for monitor in (together, single):
        monitor.unread_bytes = 100_000
    together.record(frames)  # type: ignore[arg-type]
    for frame in frames:
        single.record_frame(7, len(frame))
    assert together._taken == single._taken
    assert together.unread_bytes == single.unread_bytes
    together.record(())
    assert together._taken == single._taken
