"""Sends texts to the tokenizer processes, which serve all models, and returns their answers to the pool of each model.

The processes are shared, so that a process which dies with the texts of several models gives each of them to another
process alone: texts are rejected only if two processes die on them.
"""

from __future__ import annotations

from collections import deque

import zmq

from ..errors import EncodingFailed
from ..ipc.commands import REGISTER_TOKENIZER
from ..tokenization.messages import TaskMessage, TextTask, decode_results, encode
from .tokenizer_state import Task, TaskSource, TokenizerState
from .tokenizer_thread import TokenizedChunk

#: Number of processes that may die on the same texts before their request is rejected.
MAX_CRASHES = 2
#: Measurements without an answer from a process that holds texts, after which others get these texts too.
MAX_SILENCE = 3


class TokenizerProcesses:
    """Holds what each process works on.

    Args:
        router: socket of the processes.
        first_id: lower bound of the ids of tasks and messages. They are unique across restarts of the ventilator.
        waits: texts wait for the first process; else the ventilator tokenizes until one has registered.

    Attributes:
        has_processes: processes tokenize all messages.
        states: the processes by name.
    """

    def __init__(self, router: zmq.Socket[bytes], first_id: int, waits: bool) -> None:
        self._router, self._last_id = router, first_id
        self.has_processes = waits
        self.states: dict[bytes, TokenizerState] = {}
        self._dead: dict[bytes, int] = {}  # last start that ended, by process
        self._suspects: deque[Task] = deque()  # in flight at a process that died or does not answer
        self._sources: list[TaskSource] = []  # by model
        self._turns_of_short: deque[TaskSource] = deque()  # the next turn first
        self._turns_of_pieces: deque[TaskSource] = deque()

    def add_source(self, source: TaskSource) -> int:
        """Adds the texts of the next model, and returns its index."""
        self._sources.append(source)
        self._turns_of_short.append(source)
        self._turns_of_pieces.append(source)
        return len(self._sources) - 1

    def next_id(self) -> int:
        """Returns a new id of a task or message."""
        self._last_id += 1
        return self._last_id

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
            if not task.is_done:
                state.num_texts += task.source.on_result(task, result)

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
            task.source.end(task, TokenizedChunk(task.local_id, error=error))

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

    # ---------------------------------------------------------------- sending

    def flush(self) -> None:
        """Sends waiting texts to the processes that have credits; a model that has sent some has its turn later."""
        if not any(source.has_tasks for source in self._sources):
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
            if not task.is_done and self.send(state, [task]):
                state.is_isolated = bool(state.in_flight)
        for source in list(self._turns_of_short):
            num_others = sum(each.num_short for each in self._sources if each is not source)
            if source.send_short(states, num_others):
                self._turns_of_short.remove(source)
                self._turns_of_short.append(source)
        for source in list(self._turns_of_pieces):
            if source.send_pieces(states):
                self._turns_of_pieces.remove(source)
                self._turns_of_pieces.append(source)

    def send(self, state: TokenizerState, tasks: list[Task]) -> bool:
        """Sends tasks of one model. Returns whether the process is connected; if not, they wait for another one."""
        number, encoded = self.next_id(), []
        for task in tasks:
            options, piece = task.options, None
            if task.large is not None and (piece := task.source.read_piece(task)) is None:
                return True
            encoded.append(
                TextTask(task.id, task.texts, piece, options.prompt, options.truncate, options.pairs, options.long)
            )
        state.in_flight[number] = tasks
        state.num_pieces += tasks[0].large is not None
        try:
            self._router.send_multipart([state.name, encode(TaskMessage(number, tasks[0].source.model, encoded))])
        except zmq.ZMQError:  # it is dead, and the supervisor has not reported it yet
            self._requeue(state.name)
            return False
        return True
