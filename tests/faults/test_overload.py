"""More requests than the server can process: small ones overtake large ones, memory is bounded, and none is lost.

    python tests/faults/test_overload.py 60

does for a minute what the test does for a few seconds, and prints what it saw.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

import pytest  # noqa: E402

from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, memory, texts  # noqa: E402
from servers import wait_until  # noqa: E402

#: What the engine ``steady`` computes in a second.
TOKENS_PER_SECOND = 20_000
BULK = 400
#: Of each text, [CLS] and [SEP] among them.
TOKENS_OF_A_TEXT = 8


@dataclass
class Seen:
    """Times from the start and latencies in seconds, memory in bytes by process."""

    num_sent: int
    answered: list[float]
    latencies: list[float]
    before: dict[str, int]
    after: dict[str, int]
    most_queued: int


def overload(seconds: float) -> Seen:
    """Sends three times the capacity of the engine, and small requests beside it; checks each reply."""
    with faulty("-max_queue_tokens", "200000", engine="steady") as server, ThreadGroup() as threads:
        started = time.monotonic()
        num_tokens = BULK * TOKENS_OF_A_TEXT
        sent: list[int] = []
        answered: list[float] = []

        def flood(index: int) -> None:
            """Asks for as much as the server can do alone, whatever comes back."""
            with Raw(server, b"bulk %d" % index) as client:
                due, mine = 0.0, {}
                while due < seconds or mine:
                    if due < seconds and time.monotonic() - started >= due:
                        # Never the same texts in one batch: those would be computed once.
                        some = texts(BULK, 1000 + (index + 3 * client.last_id) % 22 * BULK)
                        mine[client.send(some)] = some
                        due += num_tokens / TOKENS_PER_SECOND
                    if client.sub.poll(20 if due < seconds else 60_000):
                        request_id, _, vectors = client.receive()
                        assert vectors is not None
                        assert_true(vectors, mine.pop(request_id))  # a KeyError if it came twice
                        answered.append(time.monotonic() - started)
                sent.append(client.last_id)

        latencies: list[float] = []
        queued: list[int] = []

        def small() -> None:
            with connect(server) as client:
                # On a slow machine some come after the flood: a few are needed in any case.
                while time.monotonic() - started < seconds or len(latencies) <= 10:
                    begun = time.monotonic()
                    assert_true(client.encode(texts(2)), texts(2))
                    latencies.append(time.monotonic() - begun)
                    if len(latencies) % 5 == 0:
                        queued.append(client.server_status["queue"]["tokens"])

        for index in range(3):
            threads.start(flood, index)
        threads.start(small)
        wait_until(lambda: len(latencies) > 10, what="small requests to be answered")
        before = memory(server)
        wait_until(lambda: time.monotonic() - started > seconds, seconds + 30, what="the end of the flood")
        after = memory(server)
        threads.join(60 + 4 * seconds)
        return Seen(sum(sent), answered, sorted(latencies), before, after, max(queued))


@pytest.mark.minutes
def test_three_times_the_capacity() -> None:
    seconds = 4.0
    seen = overload(seconds)
    assert len(seen.answered) == seen.num_sent >= 3 * int(seconds * TOKENS_PER_SECOND / (BULK * TOKENS_OF_A_TEXT))
    assert min(seen.answered) < seconds, "bulk did not move while small requests came"
    # A small request waits for the batches in hand, each 4096 tokens or 0.2 s, and never for the queue of seconds.
    assert seen.latencies[len(seen.latencies) // 2] < 3.0
    for name in ("ventilator", "sink"):
        assert seen.after[name] < seen.before[name] + 60 * 2**20


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    seen = overload(seconds)
    assert len(seen.answered) == seen.num_sent, "requests were lost"
    in_time = sum(when < seconds for when in seen.answered)
    tokens = in_time * BULK * TOKENS_OF_A_TEXT / seconds
    print(f"{seen.num_sent} requests of {BULK} texts in {seconds:g} s, all answered, {in_time} of them meanwhile")
    print(f"bulk: {tokens:.0f} tokens/s of the engine's {TOKENS_PER_SECOND}; at most {seen.most_queued} tokens waited")
    half, most = (1000 * seen.latencies[int(len(seen.latencies) * share)] for share in (0.5, 0.99))
    print(f"{len(seen.latencies)} small requests beside it: p50 {half:.0f} ms, p99 {most:.0f} ms")
    for name in ("ventilator", "sink"):
        print(f"{name:>12}: {seen.before[name] / 2**20:.1f} MiB, at the end {seen.after[name] / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
