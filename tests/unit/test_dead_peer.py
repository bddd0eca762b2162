"""Which connections count as dead, by what the kernel reports of them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client.dead_peer import INFO_BYTES, NO_ACK_SECONDS, DeadPeerDetector


def info(sent: float, acknowledged: float, unacked: int = 0, probes: int = 0) -> bytes:
    """Returns ``TCP_INFO`` with the seconds since the last segment and since the last acknowledgement."""
    packed = bytearray(INFO_BYTES)
    packed[3] = probes
    for offset, value in ((24, unacked), (44, int(1000 * sent)), (56, int(1000 * acknowledged))):
        struct.pack_into("=I", packed, offset, value)
    return bytes(packed)


def test_a_connection_without_acknowledgements_is_dead_after_the_limit() -> None:
    detector = DeadPeerDetector()
    times = [now for now in range(100) if detector.is_dead(info(0.2, now + 1, unacked=3), now)]
    assert times[0] == NO_ACK_SECONDS


def test_a_probe_that_is_not_answered_counts() -> None:
    detector = DeadPeerDetector()
    assert not detector.is_dead(info(600, 10, probes=1), 0)
    assert detector.is_dead(info(630, 40, probes=5), NO_ACK_SECONDS)


def test_idle_time_before_the_first_segment_does_not_count() -> None:
    detector = DeadPeerDetector()
    assert not detector.is_dead(info(600, 600), 0)
    assert not detector.is_dead(info(0.1, 601, unacked=1), 1)
    assert not detector.is_dead(info(0.1, 630, unacked=1), NO_ACK_SECONDS)
    assert detector.is_dead(info(0.1, 631, unacked=1), NO_ACK_SECONDS + 1)


def test_data_that_were_refused_with_an_acknowledgement_do_not_count() -> None:
    """Retransmissions into a closed window are up to two minutes apart; each is acknowledged, none is accepted."""
    detector = DeadPeerDetector()
    assert not any(detector.is_dead(info(now % 120 + 0.1, now % 120, unacked=1), now) for now in range(600))


@pytest.mark.parametrize(("unacked", "probes"), [(4, 0), (0, 1)])
@given(gaps=st.lists(st.floats(0.5, NO_ACK_SECONDS - 2), min_size=1, max_size=8))
def test_a_peer_that_acknowledges_in_time_is_never_dead(unacked: int, probes: int, gaps: list[float]) -> None:
    """Segments are always under way, and each gap between two acknowledgements is below the limit."""
    detector = DeadPeerDetector()
    acknowledgements = [0.0]
    for gap in gaps:
        acknowledgements.append(acknowledgements[-1] + gap)
    for now in range(int(acknowledgements[-1]) + 1):
        last = max(time for time in acknowledgements if time <= now)
        assert not detector.is_dead(info(0.0, now - last + 0.001, unacked, probes), now)
