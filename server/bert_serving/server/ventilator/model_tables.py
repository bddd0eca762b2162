"""The request tables of all models of a server, and which of them an event concerns."""

from __future__ import annotations

from collections.abc import Callable

from ..config.models import public_name
from ..errors import InvalidRequest
from ..ipc.model_numbers import BatchNumbers, model_of
from ..ipc.process_context import ProcessContext
from ..model.config import ModelConfig
from ..monitoring.statistics import Statistics
from ..scheduling.jobs import Job
from ..tokenization.factory import make_tokenizer
from ..tokenization.tokenizer import Tokenizer
from .request_table import RequestTable
from .requests import Request
from .result_admission import ResultAdmission
from .result_limit import ResultLimit
from .served_model import ServedModel
from .shared_queue import SharedQueue
from .sink_channel import SinkChannel


class ModelTables:
    """Holds one request table for each model. They share the memory limits and the socket to the workers.

    Args:
        tokenizer, model: those of the first model.
        epoch: random number of this ventilator process.

    Attributes:
        first: the table of requests that name no model.
        all: the tables in the order of the models.
        served: what each model serves, in the same order.
    """

    def __init__(
        self,
        context: ProcessContext,
        tokenizer: Tokenizer,
        model: ModelConfig,
        sink: SinkChannel,
        statistics: Statistics,
        clock: Callable[[], float],
        epoch: int,
    ) -> None:
        self._sink, self._log = sink, context.log
        contexts = context.of_models()
        models = [model, *(each.model for each in contexts[1:])]
        tokenizers = [tokenizer]
        for each in contexts[1:]:
            tokenizers.append(make_tokenizer(each.config, each.model, each.options["tokenizer"]))
            for warning in tokenizers[-1].warnings:
                context.log.warning(warning)
        first_id, shared = epoch << 40, None
        if len(contexts) > 1:
            limit = ResultLimit(context.config, model)
            admission = ResultAdmission(limit, self._dispatch_all, sink.free_results, clock)
            numbers = BatchNumbers(first_id, len(contexts))
            outputs = {public_name(each.config): each.config.outputs for each in contexts}
            shared = SharedQueue.open(context, admission, numbers, clock, outputs)
        self.all = [
            RequestTable(each, tokenizers[number], models[number], sink, statistics, clock, first_id, shared, number)
            for number, each in enumerate(contexts)
        ]
        self.first = self.all[0]
        self.served = [
            ServedModel.of(each.config, models[number], tokenizers[number], self.all[number].dispatcher)
            for number, each in enumerate(contexts)
        ]
        self._by_name = {served.name: table for served, table in zip(self.served, self.all, strict=True)}

    def _dispatch_all(self, job: Job) -> None:
        self.of(job.local_id).dispatch_all(job)

    def of(self, number: int) -> RequestTable:
        """Returns the table of a batch or a job by its number."""
        return self.all[model_of(number, len(self.all))]

    def choose(self, request: Request) -> RequestTable:
        """Returns the table of the model that a request names, or of the first one.

        Raises:
            InvalidRequest: there is no such model.
        """
        name = request.options.model
        if name is None:
            return self.first
        table = self._by_name.get(name)
        if table is None:
            raise InvalidRequest(
                f"model {name[:100]!r} is unknown; the models of this server are {', '.join(self._by_name)}: set one "
                "of them"
            )
        return table

    # ---------------------------------------------------------------- requests of all models

    @property
    def num_jobs(self) -> int:
        return sum(len(table.jobs) for table in self.all)

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return not any(table.jobs or table.digests for table in self.all)

    def set_draining(self, is_draining: bool) -> None:
        """Rejects new requests, or accepts them again."""
        for table in self.all:
            table.draining = is_draining

    def unknown_ids(self, request: Request) -> list[int]:
        """Returns the request ids in a command that are not in progress."""
        unknown = request.options.requests
        for table in self.all:
            unknown = table.unknown_ids(request.identity, unknown)
        return unknown

    def cancel(self, request: Request) -> int:
        """Cancels the requests that a command names, and returns their number."""
        return sum(table.cancel(request) for table in self.all)

    def cancel_client(self, identity: bytes) -> None:
        """Cancels the requests of a disconnected client."""
        for table in self.all:
            table.cancel_client(identity)

    def on_sink_restart(self, nonce: bytes) -> None:
        """Announces and queues all unfinished jobs again, because a new sink has none of their rows."""
        self._sink.sync(self.first.dispatcher.next_batch_id, nonce)
        jobs = [job for table in self.all for job in table.reset_unfinished()]
        unfinished = sorted(jobs, key=lambda job: job.id)
        if unfinished:
            self._log.warning("the sink was restarted; computing %d requests again", len(unfinished))
        self.first.admission.restart(unfinished)
        self.first.admission.advance()
        self._sink.flush()  # before any batch: the announcements reach the sink before the results
