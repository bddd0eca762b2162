"""Tests that the memory of tiny frames is told from other memory that grows."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.ipc.frame_memory import (
    BYTES_PER_WIRE_BYTE,
    MIN_ALLOWANCE,
    QUIET_INTERVAL,
    FrameMemory,
    SmallBlocks,
)

MIB = 2**20


class Process(SmallBlocks):
    """Counts what a process has allocated."""

    def __init__(self, start: int = 50 * MIB, allowance: int = 0) -> None:
        self.size = start
        self.now, self.num_measured, self.num_released = 0.0, 0, 0
        self._memory = FrameMemory(self, allowance)
        self.allowance = self._memory.allowance

    def allocated(self) -> int:
        self.num_measured += 1
        return self.size

    def release(self) -> None:
        self.num_released += 1

    def excess(self, held: int, unread: int, seconds: float = QUIET_INTERVAL) -> int:
        self.now += seconds
        return self._memory.excess(held, unread, self.now)


def test_frames_are_the_memory_that_neither_requests_nor_wire_bytes_explain() -> None:
    process = Process()
    assert process.allowance == MIN_ALLOWANCE
    process.size += 64 * 3 * MIB
    assert process.excess(0, unread=6 * MIB) == (64 * 3 - 6) * MIB
    assert process.num_released == 0
    process.size -= 64 * 3 * MIB  # their connection is closed
    for _ in range(3):
        assert process.excess(0, unread=0, seconds=1.0) == 0
    assert process.num_released == 1


def test_a_large_message_that_is_being_received_is_no_excess() -> None:
    process = Process()
    for unread in range(0, 400, 10):
        process.size = 50 * MIB + unread * MIB
        assert process.excess(0, unread * MIB) == 0


def test_memory_that_unread_bytes_cannot_explain_is_of_another_kind() -> None:
    process = Process()
    process.size += 640 * MIB  # ten thousand clients connect
    assert process.excess(0, unread=MIB) == BYTES_PER_WIRE_BYTE * MIB
    process.size += 30 * MIB
    assert process.excess(0, unread=2 * MIB) <= 2 * BYTES_PER_WIRE_BYTE * MIB


@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3000), st.integers(0, 2)), max_size=20),
    st.integers(4, 60),
)
def test_an_attack_is_seen_whatever_happened_before(steps: list[tuple[int, int, int]], wire: int) -> None:
    """After a moment without unread bytes, empty frames show with their whole memory."""
    process = Process()
    for others, held, unread in steps:
        process.size = (50 + others + held) * MIB
        process.excess(held * MIB, unread * MIB)
    process.excess(0, 0)
    before = max(process.size, 50 * MIB)
    process.size = before + BYTES_PER_WIRE_BYTE * wire * MIB
    assert process.excess(0, wire * MIB) >= (BYTES_PER_WIRE_BYTE - 1) * wire * MIB


def test_few_unread_bytes_are_measured_rarely() -> None:
    process = Process()
    for _ in range(100):
        process.excess(0, unread=1000, seconds=QUIET_INTERVAL / 10)
    assert process.num_measured <= 12
    process.size += 100 * MIB
    assert process.excess(0, unread=4 * MIB, seconds=1.0) > 64 * MIB


def test_without_a_meter_nothing_is_in_excess() -> None:
    assert FrameMemory(None, 0).excess(0, 10**9, 100.0) == 0


_BLOCKS = """
import ctypes
from bert_serving.server.ipc.frame_memory import small_blocks

MIB = 2**20
blocks = small_blocks()
before = blocks.allocated()
large = ctypes.create_string_buffer(8 * MIB)
assert blocks.allocated() - before < MIB
small = [ctypes.create_string_buffer(16 * 1024) for _ in range(1000)]
assert 15 * MIB < blocks.allocated() - before < 30 * MIB
"""


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_small_blocks_are_measured_and_large_ones_are_not() -> None:
    # In a process of its own, as the ventilator: one that has freed much memory takes large blocks from it.
    subprocess.run([sys.executable, "-c", _BLOCKS], check=True, timeout=60)
