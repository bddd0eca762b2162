"""Tests of the scheduler: no sequence is lost, duplicated or starved, and no limit is exceeded."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.scheduling.scheduler import BatchLimits, BatchSlice, Scheduler, split

requests_ = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.lists(st.integers(1, 60), min_size=1, max_size=80)),
    min_size=1,
    max_size=12,
)
limits_ = st.builds(BatchLimits, st.integers(1, 40), st.integers(1, 600))


def add_all(scheduler: Scheduler[Any], requests: list[tuple[bytes, list[int]]]) -> dict[tuple[int, int], int]:
    """Queues the requests and returns the length of every (request, row)."""
    expected = {}
    for key, (client, lengths) in enumerate(requests):
        scheduler.add(key, client, np.array(lengths, np.int32), len(lengths))
        expected |= {(key, row): length for row, length in enumerate(lengths)}
    return expected


def rows_of(slices: list[BatchSlice[Any]]) -> dict[tuple[int, int], int]:
    return {
        (int(each.key), int(row)): int(length)
        for each in slices
        for row, length in zip(each.rows, each.lengths, strict=True)
    }


def check_limits(slices: list[BatchSlice[Any]], limits: BatchLimits) -> None:
    lengths = np.concatenate([each.lengths for each in slices])
    assert len(lengths) <= limits.max_sequences
    assert len(lengths) == 1 or len(lengths) * lengths.max() <= limits.max_tokens


@given(requests_, limits_)
@settings(max_examples=300, deadline=None)
def test_every_sequence_goes_out_once_within_limits(
    requests: list[tuple[bytes, list[int]]], limits: BatchLimits
) -> None:
    scheduler: Scheduler[Any] = Scheduler()
    expected = add_all(scheduler, requests)
    seen: dict[tuple[int, int], int] = {}
    while slices := scheduler.next_batch(limits):
        check_limits(slices, limits)
        rows = rows_of(slices)
        assert sum(len(each.rows) for each in slices) == len(rows)
        assert not rows.keys() & seen.keys()
        seen |= rows
        assert scheduler.num_sequences == len(expected) - len(seen)
    assert seen == expected
    assert scheduler.num_tokens == 0


@given(requests_, limits_, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_requeued_batches_go_out_again(requests, limits, random) -> None:  # type: ignore[no-untyped-def]
    scheduler: Scheduler[Any] = Scheduler()
    expected = add_all(scheduler, requests)
    seen: dict[tuple[int, int], int] = {}
    budget = 50
    while slices := scheduler.next_batch(limits):
        check_limits(slices, limits)
        if budget and random.random() < 0.4:
            budget -= 1
            count = sum(len(each.rows) for each in slices)
            head, rest = split(slices, random.randint(0, count))
            assert rows_of(head).keys() | rows_of(rest).keys() == rows_of(slices).keys()
            scheduler.requeue(rest)
            scheduler.requeue(head)
            continue
        rows = rows_of(slices)
        assert not rows.keys() & seen.keys()
        seen |= rows
    assert seen == expected
    assert scheduler.num_sequences == scheduler.num_tokens == 0


@given(requests_, limits_, st.sets(st.integers(0, 11)))
@settings(max_examples=200, deadline=None)
def test_dropped_chunks_leave_the_queue_and_others_stay(requests, limits, dropped) -> None:  # type: ignore[no-untyped-def]
    scheduler: Scheduler[Any] = Scheduler()
    expected = add_all(scheduler, requests)
    first = rows_of(scheduler.next_batch(limits))
    scheduler.requeue([])
    for client in {client for client, _ in requests}:
        scheduler.drop(client, dropped)
    rest: dict[tuple[int, int], int] = {}
    while slices := scheduler.next_batch(limits):
        rest |= rows_of(slices)
    wanted = {row: n for row, n in expected.items() if row[0] not in dropped and row not in first}
    assert rest == wanted
    assert scheduler.num_sequences == scheduler.num_tokens == 0


def test_small_requests_overtake_bulk_without_starving_it() -> None:
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=16, max_consecutive_small=4)
    scheduler.add("bulk", b"bulk", np.full(10_000, 10, np.int32), 10_000)
    limits = BatchLimits(8, 10_000)
    order = []
    for step in range(20):
        scheduler.add(f"small-{step}", b"small", np.full(8, 10, np.int32), 8)
        order.append("bulk" if any(p.key == "bulk" for p in scheduler.next_batch(limits)) else "small")
    assert order[0] == "small"
    assert order.count("bulk") == 20 // 5


def test_clients_share_a_lane_evenly() -> None:
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=0)
    for number in range(50):
        scheduler.add(("greedy", number), b"greedy", np.full(100, 10, np.int32), 100)
    scheduler.add(("modest", 0), b"modest", np.full(100, 10, np.int32), 100)
    limits = BatchLimits(10, 10_000)
    owners: list[str] = []
    while not any(owner == "modest" for owner in owners) or owners.count("modest") < 10:
        owners += [each.key[0] for each in scheduler.next_batch(limits)]
    assert len(owners) <= 22  # every second batch is for the modest client


def test_an_idle_client_earns_no_credit() -> None:
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=0)
    limits = BatchLimits(10, 10_000)
    scheduler.add("early", b"returning", np.full(10, 10, np.int32), 10)
    scheduler.next_batch(limits)
    scheduler.add("long", b"steady", np.full(2000, 10, np.int32), 2000)
    for _ in range(100):
        scheduler.next_batch(limits)
    scheduler.add("back", b"returning", np.full(1000, 10, np.int32), 1000)
    owners = [scheduler.next_batch(limits)[0].key for _ in range(20)]
    assert 9 <= owners.count("long") <= 11


def test_a_batch_joins_sequences_of_similar_length() -> None:
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=0)
    scheduler.add("x", b"x", np.array([100] + [5] * 50, np.int32), 51)
    scheduler.add("y", b"y", np.array([90] + [6] * 50, np.int32), 51)
    limits = BatchLimits(64, 400)
    batches = []
    while slices := scheduler.next_batch(limits):
        batches.append(np.concatenate([each.lengths for each in slices]))
    assert set(batches[0]) == {100, 90}
    assert all(batch.max() <= 6 for batch in batches[1:])


def test_a_requeued_batch_is_split_to_smaller_limits() -> None:
    scheduler: Scheduler[Any] = Scheduler()
    scheduler.add("x", b"x", np.full(64, 10, np.int32), 64)
    slices = scheduler.next_batch(BatchLimits(64, 10_000))
    scheduler.requeue(slices)
    sizes = []
    while slices := scheduler.next_batch(BatchLimits(64, 160)):
        sizes.append(sum(len(each.rows) for each in slices))
    assert sizes == [16, 16, 16, 16]


def test_a_sequence_longer_than_the_token_limit_goes_out_alone() -> None:
    scheduler: Scheduler[Any] = Scheduler()
    scheduler.add("x", b"x", np.array([500, 500], np.int32), 2)
    assert len(scheduler.next_batch(BatchLimits(8, 100))[0].rows) == 1
    assert len(scheduler.next_batch(BatchLimits(8, 100))[0].rows) == 1


@given(st.integers(0, 6), st.lists(st.lists(st.integers(1, 8), max_size=4), min_size=30, max_size=60), limits_)
@settings(max_examples=150, deadline=None)
def test_bulk_is_served_in_time_under_any_small_load(
    max_small: int, arrivals: list[list[int]], limits: BatchLimits
) -> None:
    """One of any ``max_small + 1`` batches in a row contains a sequence of the waiting bulk request."""
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=16, max_consecutive_small=max_small)
    scheduler.add("bulk", b"bulk", np.full(5000, 10, np.int32), 5000)
    waited = 0
    for step, sizes in enumerate(arrivals):
        for number, size in enumerate(sizes):
            scheduler.add((step, number), b"%d" % number, np.full(size, 10, np.int32), size)
        slices = scheduler.next_batch(limits)
        waited = 0 if any(each.key == "bulk" for each in slices) else waited + 1
        assert waited <= max_small


@given(st.integers(2, 5), st.integers(1, 60), limits_, st.lists(st.integers(1, 80), min_size=5, max_size=5))
@settings(max_examples=150, deadline=None)
def test_every_batch_serves_a_client_with_the_fewest_tokens(
    clients: int, length: int, limits: BatchLimits, sizes: list[int]
) -> None:
    """The rule holds for all request sizes, so no client starves."""
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=0)
    served = [0] * clients
    for client, size in enumerate(sizes[:clients]):
        for number in range(400 // size + 1):  # more than the loop below takes
            scheduler.add((client, number), b"%d" % client, np.full(size, length, np.int32), size)
    for _ in range(10):
        least = {client for client in range(clients) if served[client] == min(served)}
        slices = scheduler.next_batch(limits)
        assert least & {each.key[0] for each in slices}
        for each in slices:
            served[each.key[0]] += int(each.lengths.sum())


@given(requests_, limits_, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_results_reach_their_rows_in_any_order_of_batches(requests, limits, random) -> None:  # type: ignore[no-untyped-def]
    """Assembles results as the sink does: each slice names the rows of its results."""
    scheduler: Scheduler[Any] = Scheduler()
    add_all(scheduler, requests)
    running: list[list[BatchSlice[Any]]] = []
    results = [np.full(len(lengths), -1) for _, lengths in requests]
    crashes = 0
    while scheduler or running:
        if scheduler and (not running or random.random() < 0.6):
            running.append(scheduler.next_batch(limits))
            continue
        slices = running.pop(random.randrange(len(running)))
        if crashes < 10 and random.random() < 0.2:  # a worker died
            crashes += 1
            scheduler.requeue(slices)
            continue
        for each in slices:
            assert (results[each.key][each.rows] == -1).all()
            results[each.key][each.rows] = each.lengths
    assert [found.tolist() for found in results] == [lengths for _, lengths in requests]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), limits_)
@settings(max_examples=100, deadline=None)
def test_requests_of_a_client_leave_in_the_order_of_their_arrival(sizes: list[int], limits: BatchLimits) -> None:
    scheduler: Scheduler[Any] = Scheduler(priority_batch_size=0)
    for key, size in enumerate(sizes):
        scheduler.add(key, b"a", np.full(size, 10, np.int32), size)
    order = []
    while slices := scheduler.next_batch(limits):
        order += [each.key for each in slices]
    assert order == sorted(order)
