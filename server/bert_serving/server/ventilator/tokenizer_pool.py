"""Queues the texts of one model for the tokenizer processes, and returns their tokens in order.

The requests of a client, and the pieces of a large request, return in the order in which they arrived. Texts stay here
until their tokens are back, so the texts of a dead process go to another one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from ..errors import RequestError
from ..scheduling.jobs import NO_OPTIONS, JobOptions
from ..tokenization.messages import TaskResult
from ..tokenization.request_texts import RawPiece, ScannedMessage
from .tokenizer_processes import TokenizerProcesses
from .tokenizer_state import TASK_BYTES, LargeMessage, Task, TokenizerState
from .tokenizer_thread import Progress, TokenizedChunk, TokenizerThread

#: Short messages in flight at a tokenizer process, and pieces of large messages: one in work and one queued.
CREDITS = 2
#: Short messages that a process gets at once, and their bytes.
MAX_TASKS, MAX_TASK_BYTES = 64, 2**18
#: Waiting short messages from which a busy process gets a second message.
MIN_QUEUED = 16


class TokenizerPool:
    """Tokenizes messages in processes, with the interface of :class:`TokenizerThread`. The thread counts large ones.

    Attributes:
        processes: those of all models.
        model: index of the model.
    """

    def __init__(self, thread: TokenizerThread, processes: TokenizerProcesses) -> None:
        self._thread, self.processes = thread, processes
        self.results, self.model = thread.results, processes.add_source(self)
        self._held_bytes = 0
        self._in_thread: dict[int, JobOptions] = {}  # large messages that the thread counts, by local_id
        self._short: OrderedDict[int, Task] = OrderedDict()  # not sent, by local_id
        self._by_job: dict[int, Task] = {}  # short ones that are not done, by local_id
        self._streams: dict[bytes, deque[Task]] = {}  # of short messages, by client
        self._large: dict[int, LargeMessage] = {}
        self._new: OrderedDict[int, LargeMessage] = OrderedDict()  # no piece is sent
        self._active: OrderedDict[int, LargeMessage] = OrderedDict()  # the next turn first
        self._ready: deque[TokenizedChunk] = deque()
        self._progress, self._takes_short, self._is_turn_of_new = Progress.ALL, True, True

    @property
    def has_processes(self) -> bool:
        """Whether processes tokenize all messages."""
        return self.processes.has_processes

    @property
    def has_tasks(self) -> bool:
        """Whether texts are not tokenized to their end."""
        return bool(self._by_job or self._large)

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
            task = self._add(Task(self.processes.next_id(), self, local_id, options, stream, identity, message))
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

    def on_result(self, task: Task, result: TaskResult) -> int:
        """Handles the tokens or the error of a task, and returns the number of its texts."""
        error = result.to_error()
        if error is not None:
            self.end(task, TokenizedChunk(task.local_id, error=error), result.nbytes)
            return 0
        tokenized, large = result.to_tokenized(), task.large
        size = tokenized.num_texts if large is None else large.scanned.size
        row = 0 if large is None else large.scanned.first_row(task.index)
        is_last = large is None or task.index == large.scanned.num_pieces - 1
        self.end(task, TokenizedChunk(task.local_id, size, row, tokenized, is_last), result.nbytes)
        return tokenized.num_texts

    def end(self, task: Task, chunk: TokenizedChunk, nbytes: int = 0) -> None:
        """Sets the result of a task, with ``nbytes`` of tokens, and returns those that do not wait for others."""
        self._finish(task, chunk, nbytes)
        self._release(task.stream)

    def read_piece(self, task: Task) -> RawPiece | None:
        """Returns the piece of a large message that is sent; None if the message ends there with an error."""
        assert task.large is not None
        try:
            piece = task.large.scanned.piece(task.index)
        except RequestError as error:
            self.end(task, TokenizedChunk(task.local_id, error=error))
            return None
        self._hold(task, len(piece.message))
        return piece

    @property
    def num_short(self) -> int:
        """Number of short messages that may be sent."""
        return len(self._short) if self._takes_short else 0

    def send_short(self, states: list[TokenizerState], num_others: int) -> bool:
        """Sends short messages to some processes, which are removed if they are dead.

        Args:
            num_others: number of short messages of other models that wait.

        Returns:
            Whether it has sent some.
        """
        has_sent = False
        while self._short and self._takes_short:
            queued = {state.name: len(state.in_flight) - state.num_pieces for state in states}
            most = CREDITS if len(self._short) + num_others >= MIN_QUEUED else 1
            free = [state for state in states if queued[state.name] < most]
            if not free:
                break
            state = min(free, key=lambda each: (queued[each.name], each.num_pieces))
            idle = sum(queued[each.name] == queued[state.name] for each in free)
            count, size = min(MAX_TASKS, -(-len(self._short) // idle)), 0
            tasks: list[Task] = []
            while self._short and len(tasks) < count and size < MAX_TASK_BYTES:
                task = self._short.popitem(last=False)[1]
                tasks.append(task)
                size += len(task.texts)
            has_sent = True
            if not self.processes.send(state, tasks):
                states.remove(state)
        return has_sent

    def send_pieces(self, states: list[TokenizerState]) -> bool:
        """Sends pieces of large messages to some processes, as `send_short` does."""
        has_sent, window = False, CREDITS * (len(self.processes.states) + 1)
        while self._progress != Progress.NONE and (free := [each for each in states if each.num_pieces < CREDITS]):
            large = self._next_large(window)
            if large is None:
                break
            task = self._add(Task(self.processes.next_id(), self, large.local_id, large.options, large.stream))
            task.large, task.index = large, large.next_index
            large.next_index += 1
            if large.next_index == large.scanned.num_pieces:
                del self._active[large.local_id]
            state = min(free, key=lambda each: (each.num_pieces, len(each.in_flight)))
            has_sent = True
            if not self.processes.send(state, [task]):
                states.remove(state)
        return has_sent

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

    # ---------------------------------------------------------------- tasks

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
