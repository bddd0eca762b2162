"""Distribution of texts to tokenizer processes: order, memory and deaths. The test plays the processes."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server import json_scan
from bert_serving.server.errors import EncodingFailed, RequestError, TooLarge, TooManyTexts
from bert_serving.server.ipc.commands import REGISTER_TOKENIZER, TOKENIZED
from bert_serving.server.scheduling.jobs import NO_OPTIONS, JobOptions
from bert_serving.server.tokenization.factory import load_tokenizer
from bert_serving.server.tokenization.messages import ResultMessage, TaskMessage, TextTask, decode_tasks, encode
from bert_serving.server.tokenization.request_texts import (
    RequestLimits,
    read_pieces,
    read_texts,
    scan_message,
    tokenize,
)
from bert_serving.server.tokenization.tokenizer import Tokenized
from bert_serving.server.tokenizer.process import perform
from bert_serving.server.ventilator.tokenizer_pool import CREDITS, MAX_TASKS, TokenizerPool
from bert_serving.server.ventilator.tokenizer_processes import MAX_SILENCE, TokenizerProcesses
from bert_serving.server.ventilator.tokenizer_thread import Progress, TokenizedChunk
from servers import TINY

LIMITS = RequestLimits(max_request_size=100_000, max_text_length=1000)
#: The tokenizer of each model.
TOKENIZERS = [
    load_tokenizer(TINY / "vocab.txt", lower_case=True, max_seq_len=length, max_tokens=length) for length in (16, 8)
]


class Thread:
    """Counts large messages at once, in place of the tokenizer thread."""

    results: Any = None

    def __init__(self) -> None:
        self.done: deque[TokenizedChunk] = deque()
        self.held_bytes = 0

    def submit(self, local_id: int, message: Any, options: JobOptions, scans_only: bool) -> None:
        assert scans_only
        try:
            scanned = next(each for each in scan_message(message, LIMITS, options.pairs is True) if each)
            self.done.append(TokenizedChunk(local_id, scanned.size, scanned=scanned))
        except RequestError as error:
            self.done.append(TokenizedChunk(local_id, error=error))

    def cancel(self, local_id: int) -> None:
        self.done = deque(chunk for chunk in self.done if chunk.local_id != local_id)

    def allow(self, progress: Progress, takes_short: bool) -> None:
        pass

    def receive(self, limit: int) -> Iterator[TokenizedChunk]:
        while self.done:
            yield self.done.popleft()


@dataclass
class Expected:
    """A request that is in progress, or was answered."""

    message: bytes
    options: JobOptions
    client: bytes
    is_large: bool
    model: int


class Processes:
    """The pool of each model, the processes, and the requests that a test sends."""

    def __init__(self, names: int, num_models: int = 1) -> None:
        self.queues: dict[bytes, deque[TaskMessage]] = {}
        self.starts: dict[int, int] = {}
        self.count = 0
        self.shared = TokenizerProcesses(self, 7 << 40, waits=True)  # type: ignore[arg-type]
        self.pools = [TokenizerPool(Thread(), self.shared) for _ in range(num_models)]  # type: ignore[arg-type]
        self.pool = self.pools[0]
        self.requests: dict[int, Expected] = {}
        self.chunks: dict[int, list[TokenizedChunk]] = {}
        self.ended: list[int] = []  # local ids in the order of their last chunks
        for index in range(names):
            self.start(index)

    def send_multipart(self, frames: list[bytes]) -> None:
        """Receives what the pool sends to a process."""
        if frames[0] not in self.queues:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        self.queues[frames[0]].append(decode_tasks(frames[1]))

    def start(self, index: int) -> bytes:
        self.starts[index] = self.starts.get(index, 0) + 1
        name = b"tokenizer-%d.%d" % (index, self.starts[index])
        self.queues[name] = deque()
        self.shared.on_message(name, [REGISTER_TOKENIZER])
        return name

    def kill(self, name: bytes, is_reported: bool = True) -> None:
        del self.queues[name]
        if is_reported:
            self.shared.lost(name)

    def request(
        self,
        texts: Any,
        client: bytes = b"client",
        options: JobOptions = NO_OPTIONS,
        is_large: bool = False,
        model: int = 0,
    ) -> int:
        message = texts if isinstance(texts, bytes) else json.dumps(texts).encode()
        local_id = self.count = self.count + 1
        self.requests[local_id] = Expected(message, options, client, is_large, model)
        self.chunks[local_id] = []
        self.pools[model].submit(local_id, memoryview(message) if is_large else message, options, client)
        return local_id

    def cancel(self, local_id: int) -> None:
        self.pools[self.requests.pop(local_id).model].cancel(local_id)

    def collect(self) -> None:
        """Takes the finished chunks, and sends waiting texts."""
        for chunk in [each for pool in self.pools for each in pool.receive(64)]:
            if chunk.local_id in self.requests:
                self.chunks[chunk.local_id].append(chunk)
                if chunk.is_end:
                    self.ended.append(chunk.local_id)
        self.shared.flush()

    def work(self, name: bytes) -> None:
        """Lets a process answer one message, a short one first."""
        queue = self.queues[name]
        message = next((each for each in queue if each.tasks[0].piece is None), queue[0])
        queue.remove(message)
        results = [perform(task, TOKENIZERS[message.model], LIMITS) for task in message.tasks]
        self.shared.on_message(name, [TOKENIZED, encode(ResultMessage(message.number, 1000, results))])

    def finish(self) -> None:
        """Lets all processes work until nothing is left."""
        self.collect()
        while any(self.queues.values()):
            for name, queue in self.queues.items():
                while queue:
                    self.work(name)
            self.collect()

    def check(self) -> None:
        """Compares each answer with that of a ventilator that tokenizes itself."""
        for local_id, request in self.requests.items():
            chunks = self.chunks[local_id]
            expected, error = direct(request)
            errors = [chunk.error and str(chunk.error) for chunk in chunks]
            assert errors == [None] * len(expected) + [error] * bool(error)
            for chunk, (size, first_row, tokenized, is_last) in zip(chunks, expected, strict=False):
                assert (chunk.size, chunk.first_row, chunk.is_last) == (size, first_row, is_last)
                assert_same(chunk.tokenized, tokenized)
        for pool in self.pools:
            assert pool.held_bytes == 0
            assert not pool._streams
            assert not pool.has_tasks


def direct(request: Expected) -> tuple[list[tuple[int, int, Tokenized, bool]], str | None]:
    """Returns size, first row, tokens and whether it is the last, of each chunk, and the error."""
    chunks: list[tuple[int, int, Tokenized, bool]] = []
    pairs, tokenizer = request.options.pairs is True, TOKENIZERS[request.model]
    try:
        if not request.is_large:
            texts = read_texts(request.message, LIMITS, pairs)
            return [(len(texts), 0, tokenize(tokenizer, texts, request.options), True)], None
        for piece in read_pieces(request.message, LIMITS, pairs):
            if piece is not None:
                tokenized = tokenize(tokenizer, piece.texts, request.options, piece.first_row)
                chunks.append((piece.size, piece.first_row, tokenized, piece.is_last))
    except RequestError as error:
        return chunks, str(error)
    return chunks, None


def assert_same(one: Tokenized | None, other: Tokenized) -> None:
    assert one is not None
    assert one.num_unknown == other.num_unknown
    for name in ("input_ids", "type_ids", "mask", "lengths", "truncated"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


MESSAGES: list[tuple[Any, JobOptions]] = [
    (["hello world"], NO_OPTIONS),
    (["hello", "the world ||| of two", ""], NO_OPTIONS),
    (["a " * 40], JobOptions(truncate=False)),
    (["a " * 40, "b"], NO_OPTIONS),
    ([["hello", "world"], []], NO_OPTIONS),
    ([["hello"]], JobOptions(prompt="query: ")),
    (["hello"], JobOptions(prompt="the ")),
    ([("one", "two"), ("", "")], JobOptions(pairs=True)),
    ([["one", 2]], JobOptions(pairs=True)),
    ([], NO_OPTIONS),
    (b'["never closed', NO_OPTIONS),
    (["x" * 1001], NO_OPTIONS),
    ([1, 2], NO_OPTIONS),
]


@pytest.mark.parametrize(("texts", "options"), MESSAGES)
@pytest.mark.parametrize("is_large", [False, True])
def test_tokens_and_errors_are_those_of_the_ventilator(texts: Any, options: JobOptions, is_large: bool) -> None:
    processes = Processes(2)
    processes.request(texts, options=options, is_large=is_large)
    processes.finish()
    processes.check()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_scan, "PIECE_VALUES", 3)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    "message",
    [
        json.dumps([f"text {number}" for number in range(50)]).encode(),
        json.dumps([["text"]] * 50).encode(),
        json.dumps([*["a"] * 20, "x" * 1001, *["a"] * 20]).encode(),
        b'["a",' * 1 + b'"b",' * 20 + b',"c"]',
        b'["a","b","c","d",[],"e","f","g"]',
        b'["a","b","c","d","e","f","g"',
    ],
)
def test_pieces_return_in_order_also_those_before_an_error(message: bytes) -> None:
    processes = Processes(3)
    processes.request(message, is_large=True)
    processes.collect()
    while any(processes.queues.values()):  # the last process works first
        processes.work(next(name for name in reversed(processes.queues) if processes.queues[name]))
        processes.collect()
    processes.check()


KINDS = ["short", "large", "work", "work", "kill", "vanish", "cancel", "collect", "silence"]
OPERATIONS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99)), max_size=60)


@given(OPERATIONS, st.integers(1, 3), st.integers(1, 2))
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost_or_doubled(operations: list[tuple[str, int]], number: int, num_models: int) -> None:
    """Requests of each model arrive, processes work, die and are replaced, requests are cancelled."""
    cut, json_scan.PIECE_VALUES = json_scan.PIECE_VALUES, 3
    try:
        processes = Processes(number, num_models)
        killed: dict[bytes, bool] = {}
        for operation, value in operations:
            names = [name for name, queue in processes.queues.items() if queue]
            if operation == "short":
                texts, options = MESSAGES[value % len(MESSAGES)]
                processes.request(texts, b"client %d" % (value % 3), options, model=value % num_models)
            elif operation == "large":
                texts = [f"text {each}" for each in range(value)]
                processes.request(texts, is_large=True, model=value % num_models)
            elif operation == "work" and names:
                processes.work(names[value % len(names)])
            elif operation in ("kill", "vanish"):
                name = list(processes.queues)[value % len(processes.queues)]
                is_alone = processes.shared.states[name].is_isolated  # two such deaths are the texts' own
                if name not in killed and not is_alone:
                    processes.kill(name, operation == "kill")
                    killed[name] = True
                    if operation == "vanish":  # the supervisor notices later
                        processes.collect()
                        processes.shared.lost(name)
                    processes.start(int(name.split(b"-")[1].split(b".")[0]))
            elif operation == "cancel" and processes.requests:
                processes.cancel(sorted(processes.requests)[value % len(processes.requests)])
            elif operation == "silence":
                processes.shared.measure(1.0)
            elif operation == "collect":
                processes.collect()
        processes.finish()
        processes.check()
        for client in {(request.client, request.model) for request in processes.requests.values()}:
            mine = [
                local_id
                for local_id in processes.ended
                if (request := processes.requests.get(local_id))
                and (request.client, request.model) == client
                and not request.is_large
            ]
            assert mine == sorted(mine), "the requests of a client for a model return in order"
    finally:
        json_scan.PIECE_VALUES = cut


def test_one_message_holds_the_texts_of_many_requests() -> None:
    processes = Processes(1)
    for _ in range(3 * MAX_TASKS):
        processes.request(["hello"])
    processes.shared.flush()
    queue = processes.queues[b"tokenizer-0.1"]
    assert [len(message.tasks) for message in queue] == [MAX_TASKS] * CREDITS
    processes.finish()
    processes.check()


def test_a_short_request_passes_the_pieces_of_large_ones(small_pieces: None) -> None:
    processes = Processes(1)
    processes.request(["hello"] * 100, is_large=True)
    processes.collect()
    assert len(processes.queues[b"tokenizer-0.1"]) == CREDITS
    short = processes.request(["hello"], b"other")
    processes.collect()
    processes.work(b"tokenizer-0.1")
    processes.collect()
    assert processes.chunks[short]
    processes.finish()
    processes.check()


def test_large_requests_alternate(small_pieces: None) -> None:
    processes = Processes(1)
    first = processes.request(["hello"] * 100, is_large=True)
    second = processes.request(["hello"] * 4, is_large=True)
    processes.finish()
    assert processes.ended == [second, first]
    processes.check()


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_process_that_does_not_answer_delays_only_what_it_holds(is_killed: bool) -> None:
    processes = Processes(2)
    held = processes.request(["hello"], b"held")
    processes.shared.flush()
    stuck = next(name for name, queue in processes.queues.items() if queue)
    other = next(name for name in processes.queues if name != stuck)
    behind = processes.request(["hello"], b"held")
    free = [processes.request(["hello"], b"client %d" % number) for number in range(5)]
    processes.shared.flush()
    processes.work(other)
    processes.collect()
    assert set(processes.ended) == set(free)
    if is_killed:
        processes.kill(stuck)
    else:
        for _ in range(MAX_SILENCE):
            processes.shared.measure(1.0)
    processes.shared.flush()
    assert not is_killed or stuck not in processes.queues
    while processes.queues[other]:
        processes.work(other)
        processes.collect()
    assert processes.ended[-2:] == [held, behind]
    later = processes.request(["hello"])
    processes.shared.flush()
    assert [task.texts for message in processes.queues[other] for task in message.tasks] == [b'["hello"]'], later
    processes.finish()  # the other process answers late
    processes.check()


def test_tokens_that_wait_for_an_earlier_piece_are_limited_and_counted(small_pieces: None) -> None:
    processes = Processes(2)
    processes.request(["hello"] * 300, is_large=True)
    processes.collect()
    _, other = processes.queues
    before = processes.pool.held_bytes
    count = 0
    while processes.queues[other]:
        processes.work(other)
        processes.collect()
        count += 1
    assert count <= CREDITS * 3
    assert processes.pool.held_bytes > before
    processes.finish()
    processes.check()


def test_models_take_turns(small_pieces: None) -> None:
    processes = Processes(1, num_models=2)
    for model in (0, 0, 1):
        processes.request(["hello"] * 30, is_large=True, model=model)
    for number in range(3 * MAX_TASKS):
        processes.request(["hello"], b"client %d" % number)
    processes.collect()
    short = processes.request(["hello"], model=1)
    order: list[int] = []
    while queue := processes.queues[b"tokenizer-0.1"]:
        assert len(queue) <= 2 * CREDITS, "the models share the credits"
        order.append(next((each for each in queue if each.tasks[0].piece is None), queue[0]).model)
        processes.work(b"tokenizer-0.1")
        processes.collect()
        if len(order) == CREDITS + 1:
            assert processes.chunks[short], "it waits for what was sent before it, and no longer"
    pieces = order[-30:]
    assert sum(pieces[:20]) >= 8, "pieces of both models alternate"
    processes.check()


@pytest.mark.parametrize("num_models", [1, 2])
@pytest.mark.parametrize("is_reported", [True, False])
def test_texts_on_which_two_processes_die_get_an_error_and_no_others(is_reported: bool, num_models: int) -> None:
    processes = Processes(1, num_models)
    good = [processes.request(["hello"], b"client %d" % each, model=each % num_models) for each in range(3)]
    poison = processes.request(["poison"], b"poison")
    processes.collect()
    for _ in range(3):
        name = next(iter(processes.queues))
        while processes.queues[name] and not any(b"poison" in task.texts for task in processes.queues[name][0].tasks):
            processes.work(name)
            processes.collect()
        processes.kill(name, is_reported)
        if not is_reported:
            processes.shared.lost(name)
        processes.start(0)
        processes.collect()
    processes.finish()
    (chunk,) = processes.chunks[poison]
    assert isinstance(chunk.error, EncodingFailed)
    del processes.requests[poison]
    processes.check()
    assert sorted(processes.ended) == [*good, poison]


def test_short_requests_wait_while_the_queue_is_full() -> None:
    processes = Processes(1)
    processes.pool.allow(Progress.NONE, takes_short=False)
    processes.request(["hello"])
    processes.request(["hello"] * 10, is_large=True)
    processes.collect()
    assert not any(processes.queues.values())
    assert processes.pool.held_bytes > 0
    processes.pool.allow(Progress.NONE, takes_short=True)
    processes.finish()
    assert processes.ended == [1]
    processes.pool.allow(Progress.OLDEST, takes_short=True)
    processes.finish()
    processes.check()


def test_a_registration_that_arrives_after_the_death_is_ignored() -> None:
    processes = Processes(1)
    processes.shared.lost(b"tokenizer-0.1")
    processes.shared.on_message(b"tokenizer-0.1", [REGISTER_TOKENIZER])
    assert not processes.shared.states
    name = processes.start(0)
    processes.shared.on_message(name, [TOKENIZED, encode(ResultMessage(random.getrandbits(40), 1, []))])  # a stale one
    processes.request(["hello"])
    processes.finish()
    processes.check()


@pytest.mark.parametrize(("texts", "expected"), [(["a"] * 3, TooManyTexts), (["a" * 9], TooLarge)])
def test_errors_of_a_process_are_those_of_the_ventilator(texts: list[str], expected: type[RequestError]) -> None:
    task = TextTask(1, json.dumps(texts).encode(), None, None, True, None)
    error = perform(task, TOKENIZERS[0], RequestLimits(max_request_size=2, max_text_length=8)).to_error()
    assert type(error) is expected
