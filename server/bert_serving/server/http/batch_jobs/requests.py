"""Encodes the requests of a batch job, many of them in one request to the service."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import Headers

from bert_serving.client import errors as client_errors
from bert_serving.client.protocol import PART_MODES

from ..encoding_call import EncodingCall
from ..encoding_service import EncodingResult, EncodingService
from ..error_format import format_error
from ..errors import to_error_response
from ..http_access import RequestShare
from ..models import choose, naming_models
from ..routes import openai
from .lines import ENDPOINT, ENVELOPE, Line, LineError, custom_id_of, parse_line
from .output import error_line, output_line

#: Texts, and bytes of lines, at which a part ends. A part is computed and written as a whole.
PART_TEXTS, PART_BYTES = 1024, 2**20
#: Requests of a job to the service at a time. Small ones, of lines with options of their own, would else be in the way
#: of other clients.
MAX_IN_FLIGHT = 2
#: Seconds between two attempts to reach the service, and between two log lines about them.
RETRY_SECONDS, LOG_SECONDS = 1.0, 60.0

#: Errors that a later attempt may not have.
_TEMPORARY = (
    client_errors.ServerUnreachableError,
    client_errors.RequestTimeoutError,
    client_errors.OverloadedError,
    client_errors.DrainingError,
    client_errors.ForbiddenError,
    client_errors.RateLimitedError,
    client_errors.ClientStateError,  # the process stops
)


@dataclass(slots=True)
class Request:
    """A line of the input, and what became of it.

    Attributes:
        service: that of its model.
        call: what to encode; None if the line has an error.
    """

    line: Line
    custom_id: str | None
    service: EncodingService
    call: EncodingCall | None = None
    result: EncodingResult | None = None
    error: Exception | None = None

    @property
    def num_texts(self) -> int:
        return len(self.call.texts) if self.call is not None else 0


class Encoder:
    """Encodes the requests of one job.

    Args:
        service: that of the first model.
        name: id of the job.
        duplicates: lines whose ``custom_id`` an earlier line has.
        share: what the requests are counted for.
    """

    def __init__(
        self,
        service: EncodingService,
        name: str,
        duplicates: frozenset[int],
        share: RequestShare | None,
        log: logging.Logger,
    ) -> None:
        self._options = {} if share is None else {"share": share}
        self._service, self._name, self._duplicates, self._log = service, name, duplicates, log
        self._log_at = 0.0
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)

    def read_part(self, lines: Iterator[Line]) -> list[Request]:
        """Reads the next requests; none at the end of the input."""
        part: list[Request] = []
        num_texts = size = 0
        for line in lines:
            request = self._read(line)
            part.append(request)
            num_texts += max(1, request.num_texts)
            size += len(line.data or b"")
            if num_texts >= PART_TEXTS or size >= PART_BYTES:
                break
        return part

    def _read(self, line: Line) -> Request:
        request = Request(line, custom_id_of(line), self._service)
        max_body = self._service.config.http_max_body
        try:
            body = parse_line(line, max_body + ENVELOPE, self._duplicates)
            request.service = choose(self._service, body, ENDPOINT)
            with naming_models(request.service):
                call = openai.prepare(request.service, body, Headers())
            request.call = dataclasses.replace(call, options=call.options | self._options)
        except Exception as error:
            self._fail(request, error)
        return request

    async def encode(self, part: list[Request]) -> None:
        """Encodes all requests of a part."""
        groups: dict[Any, list[Request]] = {}
        for request in part:
            call = request.call
            if call is None:
                continue
            key: Any = (id(request.service), call.is_tokenized, repr(sorted(call.options.items())))
            if call.options.get("long") in PART_MODES:  # the reply does not tell the tokens of each text
                key = id(request)
            groups.setdefault(key, []).append(request)
        await asyncio.gather(*map(self._encode_group, groups.values()))

    async def _encode_group(self, requests: list[Request]) -> None:
        """Encodes requests of one model with equal options. If one of them fails, it alone gets the error."""
        while True:
            try:
                async with self._slots:
                    await self._encode_at_once(requests)
                return
            except _TEMPORARY as error:
                self._log_wait(error)
                await asyncio.sleep(max(RETRY_SECONDS, getattr(error, "retry_after", None) or 0.0))
            except Exception as error:
                if len(requests) == 1:
                    self._fail(requests[0], error)
                    return
                middle = len(requests) // 2
                await asyncio.gather(self._encode_group(requests[:middle]), self._encode_group(requests[middle:]))
                return

    async def _encode_at_once(self, requests: list[Request]) -> None:
        service = requests[0].service
        calls = [request.call for request in requests if request.call is not None]
        if len(calls) == 1:
            requests[0].result = await calls[0].encode_async(service)
            return
        texts = [text for call in calls for text in call.texts]
        together = dataclasses.replace(calls[0], texts=texts)
        result = await together.encode_async(service)
        num_tokens = await asyncio.to_thread(service.num_tokens, texts, together.options)
        first = 0
        for request, call in zip(requests, calls, strict=True):
            rows = slice(first, first + len(call.texts))
            first = rows.stop
            request.result = dataclasses.replace(
                result, vectors=result.vectors[rows], num_tokens=int(num_tokens[rows].sum())
            )

    def _fail(self, request: Request, error: Exception) -> None:
        request.call, request.error = None, error
        if not isinstance(error, LineError) and to_error_response(error).status == 500:
            self._log.error("unexpected error in line %d of %s", request.line.number, self._name, exc_info=error)

    def _log_wait(self, error: Exception) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            self._log.warning("%s waits, because the service cannot encode its texts now: %s", self._name, error)

    def to_lines(self, part: list[Request]) -> tuple[list[bytes], list[bytes], int]:
        """Returns pieces of the output, of the file of errors, and the number of lines in the output."""
        outputs: list[bytes] = []
        errors: list[bytes] = []
        num_completed = 0
        for request in part:
            if request.call is None or request.result is None:
                errors += self._error_line(request)
                continue
            assert request.custom_id is not None
            response = request.call.respond(request.result)
            name = self.request_id(request.line)
            outputs += output_line(name, request.custom_id, response.status_code, response.iter_encoded())
            num_completed += 1
        return outputs, errors, num_completed

    def _error_line(self, request: Request) -> list[bytes]:
        name, error = self.request_id(request.line), request.error
        assert error is not None
        if isinstance(error, LineError):
            return [error_line(name, request.custom_id, error.code, str(error))]
        status, body = format_error(to_error_response(error), ENDPOINT)
        assert request.custom_id is not None
        return output_line(name, request.custom_id, status, [body])

    def unfinished_line(self, line: Line, code: str, message: str) -> bytes:
        """Returns the line in the file of errors for a request that is not computed."""
        return error_line(self.request_id(line), custom_id_of(line), code, message)

    def request_id(self, line: Line) -> str:
        return f"batch_req_{self._name.removeprefix('batch_')}{line.number:08x}"
