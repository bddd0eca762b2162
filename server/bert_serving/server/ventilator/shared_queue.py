"""What the request tables of all models share: limits of memory, numbers of batches, workers' socket, tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import zmq

from ..ipc.model_numbers import BatchNumbers
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import make_socket
from .queue_limits import QueueLimits
from .result_admission import ResultAdmission
from .share_table import ShareTable
from .tokenizer_processes import TokenizerProcesses


@dataclass(frozen=True, slots=True)
class SharedQueue:
    """Shared by the request tables of a ventilator.

    Attributes:
        router: socket to the workers.
        limits: memory of the requests.
        admission: memory of the results.
        numbers: ids of batches.
        shares: what each name uses; None without ``-http_keys``.
        tokenizers: the tokenizer processes; None without ``-num_tokenizer``.
        outputs: kinds of vectors of each model by its name; empty for the only model.
    """

    router: zmq.Socket[bytes]
    limits: QueueLimits
    admission: ResultAdmission
    numbers: BatchNumbers
    shares: ShareTable | None
    tokenizers: TokenizerProcesses | None
    outputs: Mapping[str, tuple[str, ...]]

    @classmethod
    def open(
        cls,
        context: ProcessContext,
        admission: ResultAdmission,
        numbers: BatchNumbers,
        clock: Callable[[], float],
        outputs: Mapping[str, tuple[str, ...]] | None = None,
    ) -> SharedQueue:
        """Binds the socket to the workers and the tokenizer processes."""
        router = make_socket(context.context, zmq.ROUTER, ROUTER_MANDATORY=1)
        context.bind(router, context.addresses.dispatch)
        number, tokenizers = context.config.num_tokenizer, None
        if number:
            tokenizers = TokenizerProcesses(router, numbers.next, waits=number != "auto")
        limits, shares = QueueLimits(context.config), ShareTable.of(context, clock)
        return cls(router, limits, admission, numbers, shares, tokenizers, outputs or {})
