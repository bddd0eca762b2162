"""Large requests whose digest is computed in steps."""

from __future__ import annotations

import itertools

import pytest

from bert_serving.server.ventilator.digests import STEP_BYTES, DigestQueue, digest
from bert_serving.server.ventilator.requests import Request

MESSAGES = [bytes([number]) * (STEP_BYTES + 1 + number) for number in range(3)]
REQUESTS = [Request(b"client", message, b"%d" % number) for number, message in enumerate(MESSAGES)]


@pytest.mark.parametrize(
    "cancelled", [set(each) for size in range(4) for each in itertools.combinations(range(3), size)]
)
def test_cancelled_requests_leave_the_digests_of_the_others_as_they_are(cancelled: set[int]) -> None:
    queue = DigestQueue()
    for request in REQUESTS:
        queue.add(request)
    assert queue.step() is None  # of the first request
    assert queue.cancel(b"another", [b"0", b"1", b"2"]) == 0
    assert queue.cancel(b"client", {b"%d" % number for number in cancelled} | {b"99"}) == len(cancelled)
    left = [number for number in range(3) if number not in cancelled]
    assert [number for number in range(3) if queue.has(b"client", b"%d" % number)] == left
    assert queue.held_bytes == sum(len(MESSAGES[number]) for number in left)
    complete = []
    while queue:
        if (result := queue.step()) is not None:
            complete.append(result)
    assert complete == [(REQUESTS[number], digest(MESSAGES[number])) for number in left]
    assert queue.held_bytes == 0
