"""Tests of shares: weights and classes in the scheduler, limits in any minute, and the file with keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.errors import ConfigError, Forbidden, RateLimited, TooLarge
from bert_serving.server.http.http_access import HttpAccess
from bert_serving.server.scheduling.scheduler import BatchLimits, BatchSlice, Scheduler
from bert_serving.server.shares.job_usage import JobUsage
from bert_serving.server.shares.minute_limit import MinuteLimit
from bert_serving.server.shares.share import BULK, NO_NAME, QUERY, Share
from bert_serving.server.shares.share_file import read_share_file
from bert_serving.server.shares.usage import ShareUsage
from bert_serving.server.ventilator.request_options import RequestOptions
from bert_serving.server.ventilator.requests import Request
from bert_serving.server.ventilator.share_table import ShareTable

LIMITS = BatchLimits(32, 1000)


def add(scheduler: Scheduler[Any], share: Share, key: object, lengths: list[int], client: bytes = b"me") -> None:
    flow = share.name.encode() + b"\0" + client
    scheduler.add((share.name, key), flow, np.array(lengths, np.int32), len(lengths), share=share)


def tokens_of(slices: list[BatchSlice[Any]], name: str) -> int:
    return sum(int(each.lengths.sum()) for each in slices if each.key[0] == name)


# ---- weighted fair queueing ------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0.5, 1, 2, 3, 10]), min_size=2, max_size=4),
    st.sampled_from([1, 8, 40, 400]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=15, deadline=None)
def test_the_tokens_of_waiting_shares_follow_their_weights(weights: list[float], size: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scheduler: Scheduler[Any] = Scheduler(has_shares=True)
    shares = [Share(f"s{number}", weight) for number, weight in enumerate(weights)]
    served = dict.fromkeys((share.name for share in shares), 0)
    queued = dict.fromkeys(served, 0)
    count = 0
    for _ in range(120):
        for share in shares:  # each has always more than a batch
            while queued[share.name] < 4 * LIMITS.max_tokens:
                lengths = random.integers(5, 20, size).tolist()
                count += 1
                add(scheduler, share, count, lengths, client=b"%d" % (count % 3))
                queued[share.name] += sum(lengths)
        slices = scheduler.next_batch(LIMITS)
        for name in served:
            tokens = tokens_of(slices, name)
            served[name] += tokens
            queued[name] -= tokens
    per_weight = [served[share.name] / share.weight for share in shares]
    assert max(per_weight) - min(per_weight) <= 2 * LIMITS.max_tokens / min(weights)


@given(st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.001, 1, 1000]))
@settings(max_examples=15, deadline=None)
def test_no_share_starves(num_greedy: int, size: int, weight: float) -> None:
    scheduler: Scheduler[Any] = Scheduler(has_shares=True)
    greedy = [Share(f"g{number}", 1000) for number in range(num_greedy)]
    modest = Share("modest", weight)
    for _ in range(3):
        for share in greedy:
            for number in range(20):
                add(scheduler, share, number, [10] * size)
        scheduler.next_batch(LIMITS)
    add(scheduler, modest, 0, [10])
    for _ in range(2 * num_greedy + 10):
        for share in greedy:
            add(scheduler, share, 0, [10] * size)
        if tokens_of(scheduler.next_batch(LIMITS), "modest"):
            return
    raise AssertionError("the modest share was not served")


def test_clients_of_one_share_take_turns_and_have_no_more_than_one_client() -> None:
    scheduler: Scheduler[Any] = Scheduler(has_shares=True)
    many, one = Share("many"), Share("one")
    for client in range(9):
        add(scheduler, many, client, [10] * 500, client=b"%d" % client)
    add(scheduler, one, 0, [10] * 4000)
    slices = [each for _ in range(40) for each in scheduler.next_batch(LIMITS)]
    assert abs(tokens_of(slices, "many") - tokens_of(slices, "one")) <= 2 * LIMITS.max_tokens
    by_client = [sum(len(each.rows) for each in slices if each.key == ("many", client)) for client in range(9)]
    assert max(by_client) - min(by_client) <= LIMITS.max_sequences


def test_an_idle_share_earns_no_credit() -> None:
    scheduler: Scheduler[Any] = Scheduler(has_shares=True)
    returning, steady = Share("returning"), Share("steady")
    add(scheduler, returning, 0, [10] * 20)
    scheduler.next_batch(LIMITS)
    add(scheduler, steady, 0, [10] * 9000)
    for _ in range(100):
        scheduler.next_batch(LIMITS)
    add(scheduler, returning, 1, [10] * 9000)
    slices = [each for _ in range(20) for each in scheduler.next_batch(LIMITS)]
    assert abs(tokens_of(slices, "returning") - tokens_of(slices, "steady")) <= 2 * LIMITS.max_tokens


def test_queries_go_before_bulk_and_the_wait_of_bulk_is_bounded() -> None:
    scheduler: Scheduler[Any] = Scheduler(has_shares=True, max_consecutive_small=4)
    add(scheduler, Share("archive", request_class=BULK), 0, [10] * 8)  # few texts, but bulk
    search = Share("search", request_class=QUERY)
    for number in range(20):
        add(scheduler, search, number, [10] * 100)  # many texts, but queries
    waits = [tokens_of(scheduler.next_batch(BatchLimits(32, 320)), "archive") for _ in range(6)]
    assert waits == [0, 0, 0, 0, 80, 0]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(1, 60), min_size=1, max_size=60)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_every_sequence_of_a_share_goes_out_once(requests: list[tuple[str, list[int]]]) -> None:
    scheduler: Scheduler[Any] = Scheduler(has_shares=True)
    for number, (name, lengths) in enumerate(requests):
        add(scheduler, Share(name), number, lengths)
    scheduler.drop(b"a\0me", {("a", 0)})
    seen: list[tuple[int, int]] = []
    while slices := scheduler.next_batch(LIMITS):
        seen += [(each.key[1], int(row)) for each in slices for row in each.rows]
    dropped = 0 if requests and requests[0][0] == "a" else -1
    expected = [(key, row) for key, (_, all_) in enumerate(requests) for row in range(len(all_)) if key != dropped]
    assert sorted(seen) == expected
    assert scheduler.num_sequences == scheduler.num_tokens == 0


# ---- limits ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.floats(0, 40), st.integers(1, 120)), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_no_minute_has_more_than_the_limit(most: int, events: list[tuple[float, int]]) -> None:
    limit, now = MinuteLimit(most), 1000.25
    accepted: list[tuple[float, int]] = []
    for pause, amount in events:
        now += pause
        delay = limit.delay(amount, now)
        if amount > most:
            assert delay == float("inf")
            continue
        if delay:
            assert delay <= 61
            assert not limit.delay(amount, now + delay)  # the client may retry after this time
            now += delay
        limit.add(amount, now)
        accepted.append((now, amount))
    for start, _ in accepted:
        assert sum(amount for time, amount in accepted if start <= time < start + 60) <= most


def test_a_limit_is_reached_and_is_free_again_after_a_minute() -> None:
    limit = MinuteLimit(100)
    for second in range(10):
        assert limit.delay(10, second + 0.5) == 0
        limit.add(10, second + 0.5)
    assert limit.used == 100
    assert limit.delay(1, 9.75) == 61 - 9.75
    assert limit.delay(11, 9.75) == 62 - 9.75
    assert limit.delay(100, 71) == 0


@given(
    st.sampled_from([{}, {"tokens_per_minute": 50}, {"texts_per_minute": 9}, {"waiting_tokens": 40}]),
    st.lists(st.tuples(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.booleans()), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_a_request_is_accepted_or_refused_as_a_whole(
    limits: dict[str, int], requests: list[tuple[list[int], bool]]
) -> None:
    usage = ShareUsage(Share("me", **limits))  # type: ignore[arg-type]
    accepted: list[int] = []
    running: list[JobUsage] = []
    for chunks, ends in requests:
        job = JobUsage(usage)
        job.num_texts = len(chunks)
        try:
            for number, tokens in enumerate(chunks, 1):
                job.add(tokens, number == len(chunks), 5.0)
        except (RateLimited, TooLarge) as error:
            assert "'me'" in str(error)
            job.end()
        else:
            accepted.append(len(chunks))
            running.append(job)
        if "waiting_tokens" in limits:
            assert usage.waiting_tokens <= 40
        if ends:
            for each in running:
                each.end()
            running.clear()
    for each in running:
        each.end()
    assert usage.waiting_tokens == 0
    assert (usage.num_requests, usage.num_texts) == (len(accepted), sum(accepted))
    assert usage.num_refused == len(requests) - len(accepted)
    assert usage.num_tokens <= limits.get("tokens_per_minute", usage.num_tokens)
    assert usage.num_texts <= limits.get("texts_per_minute", usage.num_texts)


def test_the_http_server_names_the_sender_and_may_make_a_request_bulk() -> None:
    table = ShareTable({"search": Share("search", request_class=QUERY)}, "proof", None, lambda: 5.0)

    def begin(share: str | None) -> JobUsage:
        return table.begin(Request(b"me", b"[]", b"1", RequestOptions(share=share)))

    assert begin("proof:search").share == Share("search", request_class=QUERY)
    assert begin("proof:search:bulk").share == Share("search", request_class=BULK)
    assert begin("proof:search:bulk").usage is begin("proof:search").usage
    assert begin(None).share.name == NO_NAME
    for share in ("search", ":search", "proo:search", "proof2:search", ""):
        with pytest.raises(Forbidden):
            begin(share)


# ---- the file --------------------------------------------------------------------------------------------------------


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    return str(path)


def test_a_file_has_shares_and_keys(tmp_path: Path) -> None:
    text = """
        [search]
        keys = ["first-key", "second-key"]
        weight = 4
        class = "query"
        tokens_per_minute = 1_000

        [archive]
        keys = ["third-key"]
        waiting_tokens = 50
        texts_per_minute = 7
    """
    found = read_share_file(write(tmp_path, text))
    assert found.shares["search"] == Share("search", 4, "query", tokens_per_minute=1000)
    assert found.shares["archive"] == Share("archive", waiting_tokens=50, texts_per_minute=7)
    assert found.keys == {"first-key": "search", "second-key": "search", "third-key": "archive"}
    assert "first-key" not in repr(found)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "cannot be read|no regular file"),
        ("# nothing", "no names"),
        ("keys = ['secret-key']", "value 1 is no table"),
        ("secret-key = 'search'", "value 1 is no table"),
        ("[a]\nkeys = ['secret-key', 3]", "Expected `str`, got `int`"),
        ("[a]\nkeys = ['secret-key ']", "key 1 is not a text"),
        ("[a]\nkeys = ['']", "key 1 is not a text"),
        ("[a]\nkeys = ['secret-key']\n[b]\nkeys = ['secret-key']", r"key 1 is also a key of \[a\]"),
        ("[a]\nweight = 0", r"\[a\].*weight"),
        ("[a]\nweight = nan", r"\[a\].*weight"),
        ("[a]\nweight = 'much'", r"\[a\].*weight"),
        ("[a]\nclass = 'slow'", r"\[a\].*slow"),
        ("[a]\ntokens_per_minute = 0", "tokens_per_minute"),
        ("[a]\ntokens_per_min = 5", "tokens_per_min"),
        ("['a b']", "the name 'a b' is invalid"),
        ("[a", "is not a file of keys"),
        ("\n".join(f"[n{number}]" for number in range(1001)), "1001 names"),
    ],
)
def test_an_invalid_file_is_refused_without_its_keys(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part) as caught:
        read_share_file(write(tmp_path, text))
    assert "-http_keys" in str(caught.value)
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize("key", ["clé-à", "…", "a b", "ключ", "鍵", "naïve Å"])
def test_a_key_or_token_of_any_letters_is_found(key: str) -> None:
    """The last byte of "à" is a space in Latin-1, as which the header is decoded."""
    options = {"keys": {key: "name"}, "weights": {"name": 1.0}, "limited": [], "proof": "p"}
    access, token = HttpAccess(None, options), HttpAccess(key)
    for header in (f"Bearer {key}", f"bearer  {key} ", f"Bearer \t{key}\t"):
        sent = header.encode().decode("latin-1")
        assert access.share_of(sent) is not None
        assert token.allows(sent)
    for wrong in (key[:-1], f"{key}x", f"x{key}"):
        sent = f"Bearer {wrong}".encode().decode("latin-1")
        assert not access.allows(sent)
        assert not token.allows(sent)
