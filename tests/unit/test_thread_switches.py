"""A loop waits for the GIL for a short time, whatever a thread beside it computes."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from bert_serving.server.ipc.thread_switches import switch_threads_often


@pytest.fixture(autouse=True)
def earlier_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="counts the processor time of a thread")
def test_a_loop_gets_the_gil_before_a_thread_has_computed_for_long() -> None:
    """Counts the processor time of the thread while the loop waits, so other work on the machine does not matter."""
    is_over = False

    def compute() -> None:
        while not is_over:
            sum(number * number for number in range(100))

    switch_threads_often()
    thread = threading.Thread(target=compute, daemon=True)
    thread.start()
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    waits = []
    for _ in range(31):
        began = time.clock_gettime(clock)
        time.sleep(0.001)  # releases the GIL, as a call of a socket does
        waits.append(time.clock_gettime(clock) - began)
    is_over = True
    thread.join()
    assert statistics.median(waits) < 0.003
