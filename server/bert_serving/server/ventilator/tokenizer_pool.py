"""Distributes the texts of requests to tokenizer processes, and returns their tokens in order.

The requests of a client, and the pieces of a large request, return in the order in which they arrived. Texts stay here
until their tokens are back, so the texts of a dead process go to another one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

import zmq

from ..errors import EncodingFailed, RequestError
from ..ipc.commands import REGISTER_TOKENIZER
from ..scheduling.jobs import NO_OPTIONS, JobOptions
from ..tokenization.messages import TaskMessage, TextTask, decode_results, encode
from ..tokenization.request_texts import ScannedMessage
from .tokenizer_state import TASK_BYTES, LargeMessage, Task, TokenizerState
from .tokenizer_thread import Progress, TokenizedChunk, TokenizerThread

#: Short messages in flight at a tokenizer process, and pieces of large messages: one in work and one queued.
CREDITS = 2
#: Short messages that a process gets at once, and their bytes.
MAX_TASKS, MAX_TASK_BYTES = 64, 2**18
#: Waiting short messages from which a busy process gets a second message.
MIN_QUEUED = 16
#: Number of processes that may die on the same texts before their request is rejected.
MAX_CRASHES = 2
#: Measurements without an answer from a process that holds texts, after which others get these texts too.
MAX_SILENCE = 3


class TokenizerPool:
    """Tokenizes messages in processes, with the interface of :class:`TokenizerThread`. The thread counts large ones.

    Args:
        router: socket of the processes.
        first_id: lower bound of the ids of tasks and messages. They are unique across restarts of the ventilator.
        waits: texts wait for the first process; else the ventilator tokenizes until one has registered.

    Attributes:
        has_processes: processes tokenize all messages.
        states: the processes by name.
    """

    def __init__(self, thread: TokenizerThread, router: zmq.Socket[bytes], first_id: int, waits: bool) -> None:
        self._thread, self._router, self._last_id = thread, router, first_id
        self.results, self.has_processes = thread.results, waits
        self.states: dict[bytes, TokenizerState] = {}
        self._dead: dict[bytes, int] = {}  # last start that ended, by process
        self._held_bytes = 0
        self._in_thread: dict[int, JobOptions] = {}  # large messages that the thread counts, by local_id
        self._short: OrderedDict[int, Task] = OrderedDict()  # not sent, by local_id
        self._by_job: dict[int, Task] = {}  # short ones that are not done, by local_id
        self._streams: dict[bytes, deque[Task]] = {}  # of short messages, by client
        self._large: dict[int, LargeMessage] = {}
        self._new: OrderedDict[int, LargeMessage] = OrderedDict()  # no piece is sent
        self._active: OrderedDict[int, LargeMessage] = OrderedDict()  # the next turn first
        self._suspects: deque[Task] = deque()  # in flight at a process that died or does not answer
        self._ready: deque[TokenizedChunk] = deque()
        self._progress, self._takes_short, self._is_turn_of_new = Progress.ALL, True, True

    @classmethod
    def wrap(
        cls, thread: TokenizerThread, num_tokenizer: int | str, router: zmq.Socket[bytes], first_id: int
    ) -> TokenizerPool | TokenizerThread:
        """Returns a pool, or the thread if there are no processes."""
        return cls(thread, router, first_id, num_tokenizer != "auto") if num_tokenizer else thread

    @property
    def held_bytes(self) -> int:
        """Memory of the messages that are not tokenized to their end, and of tokens that wait for earlier ones."""
        return self._held_bytes + self._thread.held_bytes

    @property
    def has_ready(self) -> bool:
        """Whether ``receive`` yields a chunk at once."""
        return bool(self._ready)

    def submit(
        self, local_id: int, message: bytes | memoryview, options: JobOptions = NO_OPTIONS, identity: bytes = b""
    ) -> None:
        """Queues the JSON message of a job."""
        if self.has_processes and isinstance(message, bytes):
            stream = self._streams.setdefault(identity, deque())
            task = self._add(Task(self._next_id(), local_id, options, stream, identity, message))
            self._hold(task, len(message))
            self._short[local_id] = self._by_job[local_id] = task
        else:
            self._in_thread[local_id] = options
            self._thread.submit(local_id, message, options, scans_only=self.has_processes)

    def cancel(self, local_id: int) -> None:
        """Stops tokenizing a job."""
        if self._in_thread.pop(local_id, None) is not None:
            self._thread.cancel(local_id)
        task = self._by_job.get(local_id)
        if task is not None:
            self._finish(task, None)
            self._release(task.stream)
        if local_id in self._large:
            self._drop_large(local_id)

    def allow(self, progress: Progress, takes_short: bool) -> None:
        """Sets which messages are tokenized."""
        self._progress, self._takes_short = progress, takes_short
        self._thread.allow(progress, takes_short)

    def receive(self, limit: int) -> Iterator[TokenizedChunk]:
        """Yields the finished chunks without waiting; of those of the thread up to ``limit``."""
        for chunk in self._thread.receive(limit):
            options = self._in_thread.pop(chunk.local_id, None) if chunk.is_end else None
            if chunk.scanned is None:
                yield chunk
            elif options is not None:  # else the job was cancelled
                self._add_large(chunk.local_id, chunk.scanned, options)
        while self._ready:
            yield self._ready.popleft()

    # ---------------------------------------------------------------- processes

    def on_message(self, name: bytes, frames: list[bytes]) -> None:
        """Handles a message of a process: its registration, or tokens."""
        if frames[0] == REGISTER_TOKENIZER:
            process, _, start = name.rpartition(b".")
            if int(start) > self._dead.get(process, 0):  # else it died before its registration was read
                self.has_processes = True
                self.states.setdefault(name, TokenizerState(name))
            return
        number, duration, results = decode_results(frames[1])
        state = self.states.get(name)
        tasks = None if state is None else state.in_flight.pop(number, None)
        if state is None or tasks is None:
            return  # of an earlier ventilator
        state.busy_seconds += duration / 1e9
        state.is_isolated, state.silence = False, 0
        state.num_pieces -= tasks[0].large is not None
        for task, result in zip(tasks, results, strict=True):
            if task.is_done:
                continue
            error = result.to_error()
            if error is not None:
                chunk = TokenizedChunk(task.local_id, error=error)
            else:
                tokenized, large = result.to_tokenized(), task.large
                state.num_texts += tokenized.num_texts
                size = tokenized.num_texts if large is None else large.scanned.size
                row = 0 if large is None else large.scanned.first_row(task.index)
                is_last = large is None or task.index == large.scanned.num_pieces - 1
                chunk = TokenizedChunk(task.local_id, size, row, tokenized, is_last)
            self._finish(task, chunk, result.nbytes)
            self._release(task.stream)

    def lost(self, name: bytes) -> None:
        """Sends the tasks of a process that died to others, each alone. A task on which two died is rejected."""
        process, _, start = name.rpartition(b".")
        self._dead[process] = int(start)
        self._requeue(name)

    def _requeue(self, name: bytes) -> None:
        state = self.states.pop(name, None)
        if state is None:
            return
        for task in [each for tasks in state.in_flight.values() for each in tasks if not each.is_done]:
            task.crashes += state.is_isolated
            if task.crashes < MAX_CRASHES:
                self._suspects.append(task)
                continue
            error = EncodingFailed(f"the texts could not be tokenized: {MAX_CRASHES} tokenizer processes died on them")
            self._finish(task, TokenizedChunk(task.local_id, error=error))
            self._release(task.stream)

    def measure(self, seconds: float) -> None:
        """Computes the share of busy time in the last ``seconds``, a second or more.

        The texts of a process that does not answer go to others too. The first answer counts.
        """
        for state in self.states.values():
            state.silence = state.silence + 1 if state.in_flight else 0
            if state.silence == MAX_SILENCE:
                self._suspects.extend(each for tasks in state.in_flight.values() for each in tasks if not each.is_done)
            state.busy_share = min(1.0, (state.busy_seconds - state.measured_seconds) / seconds)
            state.measured_seconds = state.busy_seconds

    def flush(self) -> None:
        """Sends waiting texts to the processes that have credits."""
        if not self._by_job and not self._large:
            return
        states = [each for each in self.states.values() if not each.is_isolated and each.silence < MAX_SILENCE]
        while self._suspects and states:
            state = min(states, key=lambda each: len(each.in_flight))
            states.remove(state)  # it gets no other task meanwhile
            if state.in_flight:
                break
            task = self._suspects.popleft()
            while task.is_done and self._suspects:
                task = self._suspects.popleft()
            if not task.is_done and self._send(state, [task]):
                state.is_isolated = bool(state.in_flight)
        if self._takes_short:
            self._send_short(states)
        if self._progress != Progress.NONE:
            self._send_pieces(states)

    def _send_short(self, states: list[TokenizerState]) -> None:
        while self._short:
            queued = {state.name: len(state.in_flight) - state.num_pieces for state in states}
            most = CREDITS if len(self._short) >= MIN_QUEUED else 1
            free = [state for state in states if queued[state.name] < most]
            if not free:
                return
            state = min(free, key=lambda each: (queued[each.name], each.num_pieces))
            idle = sum(queued[each.name] == queued[state.name] for each in free)
            count, size = min(MAX_TASKS, -(-len(self._short) // idle)), 0
            tasks: list[Task] = []
            while self._short and len(tasks) < count and size < MAX_TASK_BYTES:
                task = self._short.popitem(last=False)[1]
                tasks.append(task)
                size += len(task.texts)
            if not self._send(state, tasks):
                states.remove(state)

    def _send_pieces(self, states: list[TokenizerState]) -> None:
        window = CREDITS * (len(self.states) + 1)
        while free := [state for state in states if state.num_pieces < CREDITS]:
            large = self._next_large(window)
            if large is None:
                return
            task = self._add(Task(self._next_id(), large.local_id, large.options, large.stream))
            task.large, task.index = large, large.next_index
            large.next_index += 1
            if large.next_index == large.scanned.num_pieces:
                del self._active[large.local_id]
            state = min(free, key=lambda each: (each.num_pieces, len(each.in_flight)))
            if not self._send(state, [task]):
                states.remove(state)

    def _next_large(self, window: int) -> LargeMessage | None:
        """Returns the message whose piece is sent next; None if none has one that may be sent.

        Every second turn is that of a new message, if there is one. A message with ``window`` pieces that are not
        returned has no turn.
        """
        if self._progress == Progress.OLDEST:
            oldest = min([*self._new, *self._active], default=None)
            if oldest is None:
                return None
            if oldest in self._new:
                self._active[oldest] = self._new.pop(oldest)
            return self._active[oldest] if len(self._active[oldest].stream) < window else None
        self._is_turn_of_new = not self._is_turn_of_new
        if self._new and (self._is_turn_of_new or not self._active):
            local_id, large = self._new.popitem(last=False)
            self._active[local_id] = large
            return large
        for local_id, large in self._active.items():
            if len(large.stream) < window:
                self._active.move_to_end(local_id)
                return large
        return None

    def _send(self, state: TokenizerState, tasks: list[Task]) -> bool:
        """Sends tasks. Returns whether the process is connected; if not, they wait for another one."""
        number, encoded = self._next_id(), []
        for task in tasks:
            piece, texts = None, task.texts
            if task.large is not None:
                try:
                    piece = task.large.scanned.piece(task.index)
                except RequestError as error:
                    self._finish(task, TokenizedChunk(task.local_id, error=error))
                    self._release(task.stream)
                    return True
                self._hold(task, len(piece.message))
            options = task.options
            encoded.append(
                TextTask(task.id, texts, piece, options.prompt, options.truncate, options.pairs, options.long)
            )
        state.in_flight[number] = tasks
        state.num_pieces += tasks[0].large is not None
        try:
            self._router.send_multipart([state.name, encode(TaskMessage(number, encoded))])
        except zmq.ZMQError:  # it is dead, and the supervisor has not reported it yet
            self._requeue(state.name)
            return False
        return True

    # ---------------------------------------------------------------- tasks

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def _add(self, task: Task) -> Task:
        task.stream.append(task)
        self._held_bytes += task.held_bytes
        return task

    def _add_large(self, local_id: int, scanned: ScannedMessage, options: JobOptions) -> None:
        self._large[local_id] = self._new[local_id] = LargeMessage(local_id, options, scanned)
        self._held_bytes += len(scanned.message)

    def _drop_large(self, local_id: int) -> None:
        """Forgets a large message after its last piece, an error or a cancellation."""
        large = self._large.pop(local_id)
        self._new.pop(local_id, None)
        self._active.pop(local_id, None)
        self._held_bytes -= len(large.scanned.message)
        while large.stream:
            task = large.stream.popleft()
            self._finish(task, None)
            self._held_bytes -= task.held_bytes

    def _hold(self, task: Task, size: int) -> None:
        """Sets the bytes of texts or tokens that a task holds."""
        self._held_bytes += TASK_BYTES + size - task.held_bytes
        task.held_bytes = TASK_BYTES + size

    def _finish(self, task: Task, chunk: TokenizedChunk | None, nbytes: int = 0) -> None:
        """Sets the result of a task; None if it was cancelled."""
        task.is_done, task.chunk, task.texts = True, chunk, b""
        self._hold(task, nbytes)
        if task.large is None:
            self._short.pop(task.local_id, None)
            self._by_job.pop(task.local_id, None)

    def _release(self, stream: deque[Task]) -> None:
        """Returns the results at the head of a stream."""
        while stream and stream[0].is_done:
            task = stream.popleft()
            self._held_bytes -= task.held_bytes
            if not stream and task.large is None:
                del self._streams[task.identity]
            if task.chunk is None:
                continue
            self._ready.append(task.chunk)
            if task.large is not None and task.chunk.is_end:
                self._drop_large(task.local_id)
