"""Receives the results of workers, and checks that they have the shape and the dtype of this server's vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import zmq

from ..config.memory import default_memory
from ..config.request_pooling import RequestPooling
from ..config.server_config import ServerConfig
from ..ipc.commands import WORKER_IDLE, from_u64
from ..ipc.frame_guard import FrameGuard
from ..ipc.join_guard import JoinGuard
from ..ipc.joining import join_socket
from ..ipc.messages import Command, Result, decode_commands, dtype_name
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import bind_tcp, make_socket, recv_available
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy
from ..model.token_heads import OUTPUT_BITS
from ..security.curve import CurveAuth


@dataclass(frozen=True, slots=True)
class ResultCheck:
    """The vectors of this server.

    Attributes:
        is_token_level: whether there is one for each token.
        dims: their dimensions; 0 without dense vectors.
        dtype: their dtype by its numpy name.
        sent_width: returns the dimensions of a row with a code.
        vocab_size: number of tokens of the vocabulary.
        multi_dims: dimensions of the vectors of the output ``multi``.
    """

    is_token_level: bool
    dims: int
    dtype: str
    sent_width: Callable[[int], int]
    vocab_size: int = 0
    multi_dims: int = 0

    @classmethod
    def of(cls, config: ServerConfig, model: ModelConfig) -> ResultCheck:
        is_token_level = config.pooling_strategy == PoolingStrategy.NONE
        sent_width = RequestPooling(config, model).sent_width
        multi = None if config.pipeline is None else config.pipeline.multi
        dims, multi_dims = config.vector_size(model), 0 if multi is None else multi.dims
        return cls(is_token_level, dims, config.output_dtype, sent_width, model.vocab_size, multi_dims)

    def _width_of(self, vector_codes: bytes) -> int:
        """Returns the dimensions of the widest row; narrower ones end in zeros."""
        return max(map(self.sent_width, np.unique(np.frombuffer(vector_codes, np.int32)).tolist()))

    def problem(self, result: Result) -> str:
        """Returns what is wrong with a result, or an empty string."""
        if result.token_level != self.is_token_level:
            kinds = ("texts", "tokens")
            return (
                f"the worker sent vectors of {kinds[result.token_level]}, this server has {kinds[self.is_token_level]}"
            )
        if len(result.vector_codes) not in (0, 4 * len(result.manifest)):
            return f"the worker sent {len(result.vector_codes)} bytes of options for {len(result.manifest)} texts"
        if len(result.lengths) != len(result.manifest):
            return f"the worker sent {len(result.lengths)} lengths for {len(result.manifest)} texts"
        rows = int(result.lengths.sum()) if self.is_token_level else len(result.manifest)
        dims = self._width_of(result.vector_codes) if result.vector_codes else self.dims
        if result.array.shape != (rows, dims):
            return f"the worker sent vectors of shape {result.array.shape}, not {(rows, dims)}"
        dtype = dtype_name(result.array.dtype)
        if dtype != self.dtype:
            return f"the worker sent vectors of dtype {dtype}, not {self.dtype}"
        return self._problem_of_outputs(result) if result.vector_codes else ""

    def _problem_of_outputs(self, result: Result) -> str:
        wanted = (np.frombuffer(result.vector_codes, np.int32) & OUTPUT_BITS).any()
        if result.outputs is None:
            return "the worker sent no sparse vectors and no vectors of tokens, which requests want" if wanted else ""
        return result.outputs.problem(len(result.manifest), self.vocab_size, self.multi_dims, result.array.dtype)


def _require_places(result: Result) -> None:
    """Raises ``ValueError`` if a machine sent rows below 0, which numpy would take for the last ones."""
    if (result.manifest < 0).any() or (result.lengths < 0).any():
        raise ValueError("a row or a length is below 0")


def _worker_idle(command: Command) -> Command:
    """Returns a command that the sink forwards.

    Raises:
        ValueError: it is another one.
    """
    kind, _, batch = command
    if kind != WORKER_IDLE:
        raise ValueError(f"the command {kind!r} is not for the sink")
    from_u64(batch)
    return command


class ResultReceiver:
    """Owns the sockets that receive from workers.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, process: ProcessContext, clock: Callable[[], float]) -> None:
        self._log, self._clock = process.log, clock
        self.sockets = [make_socket(process.context, zmq.PULL)]
        process.bind(self.sockets[0], process.addresses.results)
        config = process.config
        self._guard: JoinGuard | None = None
        if config.result_join_port is not None:
            # A context of its own, because it has other keys than the result port.
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            max_bytes = config.result_memory or default_memory()  # requests wait until their vectors fit
            sock = join_socket(context, zmq.PULL, config.join_timeout, max_bytes)
            CurveAuth(process.options["join_access"], warn=process.log.warning).apply(context, sock)
            bind_tcp(sock, config.join_host, config.result_join_port)
            self.sockets.append(sock)
            is_encrypted = config.join_keys is not None
            self._frames = FrameGuard(max_bytes, "-result_memory", process.log)
            self._guard = JoinGuard(sock, config.result_join_port, is_encrypted, max_bytes, self._frames, process.log)

    def check_connections(self, held_bytes: Callable[[], int], now: float) -> None:
        """Closes connections of machines that are too many, or that send messages without an end.

        Args:
            held_bytes: returns the bytes of all results of this process.
        """
        if self._guard is not None and self._guard.check(now):
            self._frames.check(held_bytes(), now)

    def receive(self, sock: zmq.Socket[bytes], limit: int) -> Iterator[Result | list[Command]]:
        """Yields up to ``limit`` results, and commands for the ventilator. Drops results that cannot be read."""
        guard = None if sock is self.sockets[0] else self._guard
        for frames in recv_available(sock, limit, copy=False) if guard is None else guard.receive(limit):
            try:
                if len(frames[0]):
                    result = Result.from_frames(frames, self._clock())
                    if guard is not None:
                        _require_places(result)
                    yield result
                else:
                    yield [_worker_idle(command) for command in decode_commands(frames[1])]
            except Exception as error:  # numpy evaluates the name of a dtype
                # The report that the worker is idle, which follows, shows that the batch is lost.
                self._log.error("dropped a result that cannot be read (%s: %s)", type(error).__name__, error)
