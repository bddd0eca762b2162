"""Runs a tokenizer process: receives texts for all models from the ventilator, and returns their token ids."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

import zmq

from ..errors import InternalError, RequestError
from ..ipc.commands import READY, REGISTER_TOKENIZER, STOP, TOKENIZED
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import connect_bound, make_socket, recv_available
from ..tokenization.factory import make_tokenizer
from ..tokenization.messages import ResultMessage, TaskMessage, TaskResult, TextTask, decode_tasks, encode
from ..tokenization.request_texts import RequestLimits, read_piece, read_texts, tokenize
from ..tokenization.tokenizer import Tokenizer

#: Messages read before the process tokenizes a piece.
_BURST = 16
#: Seconds between two registrations. They are repeated for a ventilator that was restarted.
_REGISTER_SECONDS = 1.0


def run(process: ProcessContext) -> None:
    """Runs the tokenizer process until STOP.

    Short messages precede pieces of large ones, so a short message waits for one piece at most.
    """
    config = process.config
    models = process.of_models()
    tokenizers = [make_tokenizer(each.config, each.model, each.options["tokenizer"]) for each in models]
    limits = RequestLimits(config.max_request_size, config.max_text_length, config.max_queue_tokens)
    control = process.connect_control()
    front = make_socket(process.context, zmq.DEALER, IDENTITY=process.name.encode())
    connect_bound(front, process.addresses.dispatch)
    front.send(REGISTER_TOKENIZER)
    process.log_steps("sockets and files")
    process.log.info("ready")
    control.send_multipart([READY, b"{}"])
    process.start_heartbeat()
    next_register_at = time.monotonic() + _REGISTER_SECONDS
    pieces: deque[TaskMessage] = deque()
    poller = zmq.Poller()
    poller.register(control, zmq.POLLIN)
    poller.register(front, zmq.POLLIN)
    while True:
        process.mark_progress()
        events = dict(poller.poll(0 if pieces else int(1000 * _REGISTER_SECONDS)))
        if control in events and control.recv_multipart()[0] == STOP:
            return
        if front in events:
            for (frame,) in recv_available(front, _BURST):
                message = decode_tasks(frame)
                if message.tasks[0].piece is None:
                    _answer(front, message, tokenizers, limits)
                else:
                    pieces.append(message)
        if pieces:
            process.mark_progress(busy=True)
            _answer(front, pieces.popleft(), tokenizers, limits)
        if time.monotonic() >= next_register_at:
            next_register_at = time.monotonic() + _REGISTER_SECONDS
            front.send(REGISTER_TOKENIZER)


def _answer(
    front: zmq.Socket[bytes], message: TaskMessage, tokenizers: Sequence[Tokenizer], limits: RequestLimits
) -> None:
    began, tokenizer = time.monotonic_ns(), tokenizers[message.model]
    results = [perform(task, tokenizer, limits) for task in message.tasks]
    reply = ResultMessage(message.number, time.monotonic_ns() - began, results)
    front.send_multipart([TOKENIZED, encode(reply)])


def perform(task: TextTask, tokenizer: Tokenizer, limits: RequestLimits) -> TaskResult:
    """Decodes and tokenizes the texts of a task. An error is part of the result."""
    try:
        if task.piece is None:
            texts, first_row = read_texts(task.texts, limits, task.pairs is True), 0
        else:
            texts, first_row = read_piece(task.piece, limits), task.piece.first_row
        return TaskResult.of(task.id, tokenize(tokenizer, texts, task, first_row))
    except RequestError as error:
        return TaskResult(task.id, error_class=type(error).__name__, error=str(error))
    except Exception as error:  # an error in one request does not end the process, which serves all of them
        return TaskResult(task.id, error_class=InternalError.__name__, error=f"tokenizing failed: {error!r}"[:500])
