"""Tracks requests from their arrival until the sink has all rows: tokenizing, batches, repetitions, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf
from typing import NamedTuple

from ..errors import Draining, RateLimited, RequestError, TooManyTexts
from ..ipc import commands
from ..ipc.commands import u64
from ..ipc.model_numbers import BatchNumbers
from ..ipc.process_context import ProcessContext
from ..log import REQUEST
from ..model.config import ModelConfig
from ..model.vector_options import POOLING_BITS
from ..monitoring.statistics import Statistics
from ..scheduling.dispatcher import Dispatcher
from ..scheduling.jobs import Job, JobChunk, JobOptions, RequestKey
from ..shares.job_usage import JobUsage
from ..tokenization.request_texts import read_texts, tokenize
from ..tokenization.tokenizer import Tokenizer
from .announcements import MAX_TRUNCATED, Announcer
from .digests import STEP_BYTES, DigestQueue, digest
from .queue_limits import REQUEST_BYTES
from .request_options import OptionsResolver
from .request_source import RequestSource
from .requests import INLINE_BYTES, Request
from .result_admission import ResultAdmission
from .result_limit import ResultLimit
from .shared_queue import SharedQueue
from .sink_channel import SinkChannel
from .text_drift import TextDrift
from .text_frames import chunk_of
from .text_parts import can_start, place_parts, require_token_vectors
from .tokenizer_pool import TokenizerPool
from .tokenizer_thread import TokenizerThread


class _ModelRules(NamedTuple):
    """What the model allows: the options of requests, and the size of results."""

    options: OptionsResolver
    results: ResultLimit


class RequestTable:
    """Holds the requests in progress. Each method advances requests after one event.

    Args:
        sink: channel for announcements, queries and error replies.
        clock: returns monotonic seconds.
        first_id: lower bound of job ids and batch ids. They are unique across restarts of the ventilator, so reports
            about jobs of an earlier ventilator are recognized.
        shared: what the tables of several models share; None for the only model.
        number: index of the model.

    Attributes:
        jobs: jobs by ``local_id``, in order of arrival.
        limits: limits of the queue.
        admission: starts jobs while there is memory for their results.
        digests: large requests before their start.
        shares: what each name uses; None without ``-http_keys``.
        drift: drift of the texts; None without ``-drift_reference``.
        draining: new requests are rejected.
    """

    def __init__(
        self,
        context: ProcessContext,
        tokenizer: Tokenizer,
        model: ModelConfig,
        sink: SinkChannel,
        statistics: Statistics,
        clock: Callable[[], float],
        first_id: int,
        shared: SharedQueue | None = None,
        number: int = 0,
    ) -> None:
        config = context.config
        self._config, self._log, self._clock = config, context.log, clock
        self._tokenizer = tokenizer
        of_models = {} if shared is None else shared.outputs
        self._rules = _ModelRules(OptionsResolver(config, model, of_models), ResultLimit(config, model))
        self._statistics, self._sink = statistics, sink
        self.drift = TextDrift.of(context)
        if shared is None:
            admission = ResultAdmission(self._rules.results, self.dispatch_all, sink.free_results, clock)
            shared = SharedQueue.open(context, admission, BatchNumbers(first_id), clock)
        step, router = shared.numbers.num_models, shared.router
        self.limits, self.digests, self.admission = shared.limits, DigestQueue(), shared.admission
        self.dispatcher = Dispatcher(config, router, self.fail, sink.send, context.log, clock, shared.numbers, number)
        thread = TokenizerThread(context.context, tokenizer, self.limits.of_request, number)
        self.thread = TokenizerPool(thread, shared.tokenizers) if shared.tokenizers is not None else thread
        self.limits.messages += [self.thread, self.digests]
        self._announce = Announcer(
            config, tokenizer, self._rules.results.positions, first_id + number, context.log, step
        )
        self.jobs: dict[int, Job] = {}
        self.shares = shared.shares
        self.draining = False
        self._by_key: dict[RequestKey, Job] = {}
        # By identity and request id, with the connection that sent the request last.
        self._by_id: dict[tuple[bytes, bytes], dict[Job, RequestSource]] = {}
        self._local_ids = count(number + step, step)

    @property
    def is_full(self) -> bool:
        """Whether requests take ``-queue_memory`` bytes, so that further requests stay unread."""
        return self.held_bytes >= self.limits.max_bytes

    @property
    def reads_users(self) -> bool:
        """Whether the CURVE key of a request decides about it."""
        return self.shares is not None and self.shares.reads_users

    @property
    def held_bytes(self) -> int:
        """Memory of the requests in progress, of all models."""
        return self.limits.held_bytes

    def allow_progress(self) -> None:
        """Lets as many messages be tokenized as the limits allow."""
        tokens = self.dispatcher.scheduler.num_tokens
        self.thread.allow(self.limits.progress(tokens), tokens < self.limits.max_tokens)

    def unknown_ids(self, identity: bytes, request_ids: Iterable[int]) -> list[int]:
        """Returns the request ids of a client that are not in progress."""
        return [number for number in request_ids if not self._is_known(identity, b"%d" % number)]

    def _is_known(self, identity: bytes, request_id: bytes) -> bool:
        return (identity, request_id) in self._by_id or self.digests.has(identity, request_id)

    # ---------------------------------------------------------------- requests

    def accept(self, request: Request, may_exceed: bool = False) -> None:
        """Checks the size of a request, and starts it; a large one as soon as its digest is complete.

        Args:
            may_exceed: whether the request is accepted although the queue is full.

        Raises:
            RequestError: the request is rejected.
        """
        if len(request.message) > self._config.max_message_bytes:
            raise TooManyTexts(
                f"the request has {len(request.message)} bytes; the limit is {self._config.max_message_bytes} "
                f"(-max_message_bytes): send fewer texts at a time"
            )
        if len(request.message) > STEP_BYTES:
            self.limits.check(self.held_bytes, may_exceed)  # a message in the queue of digests takes memory
            self.digests.add(request)
            return
        key = request.key_of(digest(request.message))
        if key not in self._by_key:
            self.limits.check(self.held_bytes, may_exceed)
        self.start(request, key)

    def start(self, request: Request, key: RequestKey) -> None:
        """Starts a request whose key is known, or continues it if it was repeated.

        Raises:
            RequestError: the request is rejected.
        """
        job = self._by_key.get(key)
        if job is not None:
            self._repeat(job, request)
            return
        options = self._rules.options.resolve(request.options)
        if options.long == "late" or options.vector_code & POOLING_BITS:
            require_token_vectors(options.long, (state.info for state in self.dispatcher.workers.values()))
        if self.draining:
            raise Draining("the server is stopping and takes no new requests; send it again when it is back")
        usage = None if self.shares is None else self.shares.begin(request)
        # Above -max_queue_tokens short requests wait as messages, too.
        is_short = isinstance(request.message, bytes) and not self.thread.has_processes
        if is_short and self.dispatcher.scheduler.num_tokens < self.limits.max_tokens:
            received_at = self._clock()
            texts = read_texts(bytes(request.message), self.limits.of_request, options.pairs is True)
            if len(texts) * self._tokenizer.prompt_length(options.prompt) <= INLINE_BYTES:
                tokenized = tokenize(self._tokenizer, texts, options)
                job = self._open(request, key, len(texts), options, received_at, usage)
                self._add_chunk(chunk_of(job, 0, tokenized), is_last=True)
                return
        # The thread counts the texts when it decodes them.
        job = self._open(request, key, 0, options, self._clock(), usage)
        self.thread.submit(job.local_id, request.message, options, job.identity)

    def _open(
        self,
        request: Request,
        key: RequestKey,
        size: int,
        options: JobOptions,
        received_at: float,
        usage: JobUsage | None,
    ) -> Job:
        job = Job(next(self._local_ids), key, size, received_at, options, usage=usage)
        self.jobs[job.local_id] = self._by_key[key] = job
        self._by_id.setdefault(key[:2], {})[job] = request.source
        self._count_bytes(job, REQUEST_BYTES)
        if size:
            self._record(job)
        return job

    def _count_bytes(self, job: Job, size: int) -> None:
        job.held_bytes += size
        self.limits.tokenized_bytes += size

    def _record(self, job: Job) -> None:
        """Records a request in the statistics and the log, once its number of texts is known."""
        if job.usage is not None:
            job.usage.num_texts = job.size
        self._statistics.record_data_request(job.identity, job.size, self._clock())
        self._log.log(
            REQUEST, "new encode request\treq id: %s\tsize: %d\tclient: %r", job.request_id, job.size, job.identity
        )

    def _repeat(self, job: Job, request: Request) -> None:
        """Queries the sink about a job whose client sent the request again, after it lost a connection.

        The sink may have published the result to the lost connection, and BATCH_DONE may not have recv_available yet.
        """
        job.last_received_at, self._by_id[job.key[:2]][job] = self._clock(), request.source
        job.options = self._rules.options.resolve(request.options)
        if job.query_outstanding:
            job.retry_requested = True
        elif job.id:
            self._query(job)

    def _query(self, job: Job) -> None:
        job.query_outstanding, job.retry_requested = True, False
        self._sink.send([commands.QUERY_JOB, u64(job.local_id), u64(job.id)])

    def on_query_reply(self, local_id: int, job_id: int, is_published: bool) -> None:
        """Handles the sink's reply: whether it had published the result of a job before the query."""
        job = self.jobs.get(local_id)
        if job is None or job.id != job_id:
            return  # a job of an earlier ventilator
        job.query_outstanding = False
        if job.retry_requested and (job.missing or not is_published):
            self._query(job)
        elif job.missing:
            return  # in progress; its announcement may still travel with its batch
        elif not is_published:
            self._remove(job)
        else:
            self._compute_again(job)

    def _compute_again(self, job: Job) -> None:
        try:
            if self.draining:
                raise Draining("the server is stopping; the result was published before the request was repeated")
            if job.usage is not None:
                job.usage.add_again(self._clock())
        except RequestError as error:
            self.fail(job, error)
        else:
            self._log.log(REQUEST, "req id: %s of client %r is encoded again", job.request_id, job.identity)
            self._announce.assign_id(job)
            job.retry_requested, job.is_recomputed = False, True
            job.received_at = job.tokenized_at = job.last_received_at
            job.started_at = inf
            self.dispatch_all(job)

    def dispatch_all(self, job: Job) -> None:
        """Announces all chunks of a job again and queues them."""
        job.missing = job.num_sequences if job.options.long else job.size
        for chunk in job.chunks:
            is_last = job.is_complete and chunk is job.chunks[-1]
            self.dispatcher.add(chunk, self._announce.command(chunk, is_last))

    # ---------------------------------------------------------------- tokens

    def on_tokenized(self, limit: int) -> None:
        """Handles finished chunks; up to ``limit`` of those from the tokenizer thread."""
        for result in self.thread.receive(limit):
            job = self.jobs.get(result.local_id)
            if job is None or job.failed:
                continue
            job.is_complete = result.is_end
            if result.error is not None:
                self.fail(job, result.error)
                continue
            if not job.size:
                job.size = job.missing = result.size
                self._record(job)
            if result.tokenized is not None:
                self._add_chunk(chunk_of(job, result.first_row, result.tokenized), result.is_last)

    def _add_chunk(self, chunk: JobChunk, is_last: bool) -> None:
        """Adds tokenized texts to their job and queues them."""
        job, tokenized, first_text = chunk.job, chunk.tokenized, chunk.first_row
        try:
            place_parts(chunk, self._config.max_request_size, self.limits.max_tokens)
            result_bytes = self._rules.results.check(chunk)
            if job.usage is not None:
                job.usage.add(len(tokenized.input_ids), is_last, self._clock())
        except (TooManyTexts, RateLimited) as error:
            job.is_complete = job.is_complete or is_last
            self.fail(job, error)
            return
        statistics = self._statistics
        statistics.num_tokens += len(tokenized.input_ids)
        statistics.num_unknown_tokens += tokenized.num_unknown
        if len(truncated := tokenized.truncated_texts):
            statistics.num_truncated += len(truncated)
            if len(job.truncated) < MAX_TRUNCATED:
                job.truncated += (truncated + first_text).tolist()
        if self.drift is not None:
            self.drift.add(len(tokenized.lengths), len(tokenized.input_ids), tokenized.num_unknown)
        self._announce.add_tokens(chunk)
        if not job.chunks:
            self._announce.assign_id(job)
        job.chunks.append(chunk)
        self._count_bytes(job, self.limits.chunk_bytes(chunk))
        job.is_complete = is_last
        if is_last:
            job.tokenized_at = self._clock()
        if not can_start(job):
            return
        if self.admission.admit(job, result_bytes):
            if job.starts_complete:
                self.dispatch_all(job)
                return
            self.dispatcher.add(chunk, self._announce.command(chunk, is_last))

    # ---------------------------------------------------------------- results and errors

    def on_batch_done(self, batch_id: int, started_at: float) -> None:
        """Counts the rows of a batch that the sink has, and removes finished jobs."""
        for each in self.dispatcher.batch_done(batch_id, started_at):
            job = each.key.job
            job.missing -= len(each.rows)
            job.started_at = min(job.started_at, started_at)
            if job.missing == 0 and not job.failed:
                if not job.is_recomputed:
                    self._statistics.record_timing(job.timing(self._clock()))
                if not job.query_outstanding:
                    self._remove(job)

    def reset_unfinished(self) -> list[Job]:
        """Takes all unfinished jobs from the queue, because a new sink has none of their rows, and returns them."""
        unfinished = [job for job in self.jobs.values() if can_start(job)]
        self.dispatcher.reset()
        for job in unfinished:
            job.query_outstanding = job.retry_requested = False
        return unfinished

    def fail(self, job: Job, error: RequestError) -> None:
        """Publishes an error for a job and cancels it. Other jobs are not affected."""
        if job.failed:
            return
        self._statistics.record_error(error.kind)
        self._log.warning("request %s of client %r failed: %s", job.request_id.decode(), job.identity, error)
        self._sink.publish_error(job.identity, job.request_id, error)
        self._cancel([job])

    def cancel_client(self, identity: bytes) -> None:
        """Cancels the requests of a disconnected client, except those that it has repeated since."""
        latest = self._clock() - self._config.absent_ttl
        jobs = [job for job in self.jobs.values() if job.identity == identity and job.last_received_at <= latest]
        if jobs:
            self._log.warning("client %r is disconnected; dropping its %d requests", identity, len(jobs))
        self._cancel(jobs)

    def cancel(self, command: Request) -> int:
        """Cancels requests of a client by their ids, and returns their number. Unknown ids, and those of requests from
        other open connections, are ignored."""
        ids, identity, source = {b"%d" % each for each in command.options.requests}, command.identity, command.source
        found = [each for request_id in ids for each in self._by_id.get((identity, request_id), {}).items()]
        jobs = [job for job, sender in found if sender.lets_cancel(source)]
        self._cancel(jobs)
        return len(jobs) + self.digests.cancel(identity, ids, source)

    def _cancel(self, jobs: Sequence[Job]) -> None:
        """Cancels jobs of one client."""
        self.dispatcher.drop([job for job in jobs if self.admission.has_started(job)])
        for job in jobs:
            job.failed = True
            if job.chunks:
                self._sink.send([commands.CANCEL_JOB, u64(job.id)])
            if not job.is_complete:
                self.thread.cancel(job.local_id)
            self._remove(job)

    def _remove(self, job: Job) -> None:
        if self.jobs.pop(job.local_id, None) is None:
            return
        self._count_bytes(job, -job.held_bytes)
        self.admission.release(job)
        if job.usage is not None:
            job.usage.end()
        del self._by_key[job.key]
        same_id = self._by_id[identifiers := job.key[:2]]
        del same_id[job]
        if not same_id:
            del self._by_id[identifiers]
