"""The connection of a machine to its front: replies that cannot be read."""

from __future__ import annotations

import logging
import time

import msgspec
import pytest
import zmq

from bert_serving.server.ipc import joining
from bert_serving.server.ipc.joining import FrontReport, FrontTerms, Terms
from bert_serving.server.supervisor.front_connection import FrontConnection

TERMS = FrontTerms(Terms(joining.JOIN_PROTOCOL, "2.0.0", "model", "space", ["fp32"]), {}, 5558, 10.0)
UNREADABLE = (
    (joining.ACCEPTED,),
    (joining.REFUSED, b"\xff"),
    (joining.FRONT_HEARTBEAT, b"{"),
    (joining.FRONT_HEARTBEAT, b"{}", b"more"),
    (b"",),
)


def step_until(connection: FrontConnection, condition: object) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        connection.step(time.monotonic())
        time.sleep(0.01)


def test_replies_that_cannot_be_read_are_dropped_and_the_machine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as front:
        front.setsockopt(zmq.LINGER, 0)
        port = front.bind_to_random_port("tcp://127.0.0.1")
        connection = FrontConnection(f"tcp://127.0.0.1:{port}", None, logging.getLogger("test"))
        step_until(connection, lambda: front.poll(0))
        sender, kind, _ = front.recv_multipart()
        assert kind == joining.QUERY_TERMS
        for frames in UNREADABLE:
            front.send_multipart([sender, *frames])
        front.send_multipart([sender, joining.TERMS, joining.encode(TERMS)])
        for frames in UNREADABLE:
            front.send_multipart([sender, *frames])
        front.send_multipart([sender, joining.FRONT_HEARTBEAT, joining.encode(FrontReport(0, True))])
        step_until(connection, lambda: connection.report)
        assert connection.terms == TERMS
        assert not connection.refusal
        assert not connection.is_joined
        assert "dropped a reply of 1 frames that cannot be read" in caplog.text
        connection.leave()


@pytest.mark.parametrize("change", [{"timeout": 0.0}, {"timeout": -1.0}, {"port_out": 0}, {"port_out": 70_000}])
def test_terms_with_which_a_machine_cannot_work_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(msgspec.ValidationError):
        joining.decode(joining.encode(msgspec.structs.replace(TERMS, **change)), type=FrontTerms)
