"""Connecting to servers, recognising their models, and encoding chunks of texts in order."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._client import BertClient
from .._encoding import Response, concatenate
from .._fronts import Front
from .._outputs import join_outputs
from ..errors import RateLimitedError, ServerError, TooLargeError
from ..protocol import PART_MODES, FloatArray
from ..rate_limits import LimitReport, Report, when_allowed
from .corpus import CorpusError
from .request_feed import C, RequestFeed

if TYPE_CHECKING:
    from .._request_options import EncodeOptions, OutputOptions

#: Encoded at the start, for the shape of the vectors and to compare them with those of an interrupted run.
PROBE = "the quick brown fox jumps over the lazy dog"
#: Its request, in reports.
_FIRST = "first request"


def connect(args: argparse.Namespace, *fronts: Front) -> BertClient:
    """Returns a client of one server, or of several that share its requests."""
    options = {
        "connect_timeout": args.connect_timeout,
        "server_key": args.server_key,
        "secret_key": args.secret_key,
        "model": args.chosen_model,
    }
    if len(fronts) == 1:
        return BertClient(*fronts[0], **options)
    return BertClient([str(front) for front in fronts], **options)


def encode_options(args: argparse.Namespace) -> OutputOptions:
    """Returns the options of the requests."""
    return {
        "normalize": {"on": True, "off": False}.get(args.normalize),
        "prompt_name": args.prompt_name,
        "prompt": args.prompt,
        "dimensions": args.dimensions,
        "long": "error" if args.no_truncate else args.long,
        "vector_space": args.vector_space,
        "embedding_type": args.embedding_type,
        "pooling": args.pooling,
        "pooling_layer": args.pooling_layer,
        "outputs": args.outputs or None,
    }


def row_options(args: argparse.Namespace, output_format: str) -> dict[str, Any]:
    """Returns the options of the command line that must be the same in all runs that write one output."""
    return {
        "-format": output_format,
        "-blank": args.blank,
        "-is_tokenized": args.is_tokenized,
        "-normalize": None if args.normalize == "auto" else args.normalize,
        "-prompt_name": args.prompt_name,
        "-prompt": args.prompt,
        "-dimensions": args.dimensions,
        "-long": args.long if args.long in PART_MODES else None,
        "-embedding_type": args.embedding_type,
        "-pooling": args.pooling,
        "-pooling_layer": args.pooling_layer,
        "-model": args.chosen_model,
        "-outputs": list(args.outputs) or None,
    }


def server_options(client: BertClient, space: str | None) -> dict[str, Any]:
    """Returns the properties of the server that must be the same in all runs that write one output."""
    return {"the server's -max_seq_len": client.length_limit, "the vector space": space}


def probe_server(
    client: BertClient, is_tokenized: bool, options: OutputOptions, report: Report
) -> tuple[FloatArray, str | None, np.dtype[Any] | None]:
    """Returns the vector of ``PROBE``, its space, and the dtype of the vectors of its tokens.

    The space is ``None`` from a server that does not name it. Without dense vectors, the vector has no numbers.

    It does not matter whether the server truncates this text, or averages its parts.

    Args:
        report: receives a sentence while a limit of the server is used up.
    """
    texts = [PROBE.split()] if is_tokenized else [PROBE]
    long: Literal["mean"] | None = "mean" if options.get("long") in PART_MODES else None
    about_vectors: OutputOptions = {**options, "long": long}
    about_dense: EncodeOptions = {**about_vectors}  # type: ignore[typeddict-item]
    limits = LimitReport(report)
    if client.vector_space is None:  # a server that does not know the options of the other call
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors: FloatArray = when_allowed(
                lambda: client.encode(texts, is_tokenized=is_tokenized, **about_dense), limits, _FIRST
            )
        return vectors[0], None, None
    # This call gives no warning.
    call = when_allowed(lambda: client._encode_in_detail(texts, is_tokenized, 1, [], **about_vectors), limits, _FIRST)
    multi = None if call.outputs is None or call.outputs.multi is None else call.outputs.multi[0].dtype
    return call.embedding[0], call.vector_space, multi


def mean_of(probe: FloatArray) -> list[float]:
    """Returns a vector as plain numbers; the mean of token vectors.

    Integers give no numbers: one that rounds the other way is far from the first. The vector space names their model.
    """
    if not np.issubdtype(probe.dtype, np.floating) or not probe.size:
        return []
    mean: list[float] = probe.astype(np.float64).reshape(-1, probe.shape[-1]).mean(0).tolist()
    return mean


def described(probe: FloatArray, outputs: Sequence[str]) -> str:
    """Returns what a row has, for the summary: the shape of a vector, and further outputs."""
    others = [name for name in outputs if name != "dense"]
    return " and ".join([*([f"{list(probe.shape)} {probe.dtype}"] if probe.size else []), *others])


def encoded(
    client: BertClient, chunks: Iterator[C], is_tokenized: bool, options: OutputOptions, report: Report
) -> Iterator[tuple[C, Response | None]]:
    """Yields chunks with their results, in order, while later chunks are in flight; ``None`` if a chunk has no text.

    Requests that a used-up limit refuses are sent again when the server allows it. Texts that exceed a limit together
    are sent in several requests.

    Args:
        client: a client that no other call uses.
        report: receives a sentence about such a limit.

    Raises:
        CorpusError: the server refused a request for another reason; the message names the chunk.
    """
    feed = RequestFeed(chunks, is_tokenized, client.request_id + 1, LimitReport(report))
    sent = feed.sent
    early: dict[int, Response | ServerError] = {}
    results = client.encode_async(feed.requests(), is_tokenized=is_tokenized, **options)
    try:
        is_over = False
        while not is_over:
            try:
                response = next(results)
                early[response.id] = response
                feed.answered(response.id)
            except StopIteration:
                is_over = True
            except RateLimitedError as error:
                feed.refused(error)
            except ServerError as error:  # earlier requests are still answered
                if not (isinstance(error, TooLargeError) and error.is_divisible and feed.divided(error)):
                    early[error.request_id] = error
                    feed.answered(error.request_id)
            while sent and all(request.number in early for request in sent[0].requests):
                entry = sent.popleft()
                found: list[tuple[int, Response]] = []
                for request in entry.requests:
                    reply = early.pop(request.number)
                    if isinstance(reply, ServerError):
                        raise RefusedError(_refusal(entry.chunk.where, reply)) from reply
                    found.append((request.first, reply))
                if found:
                    feed.written()
                yield entry.chunk, _joined(found) if found else None
        if sent:
            raise RuntimeError(f"{sent[0].chunk.where}: no reply")
    finally:
        feed.close()
        results.close()


def _joined(found: list[tuple[int, Response]]) -> Response:
    """Returns the results of the requests of a chunk as one.

    Args:
        found: number of texts of the chunk before each request, and its result.
    """
    first = found[0][1]
    if len(found) == 1:
        return first
    results = [each for _, each in found]
    has_tokens = not any(isinstance(each.tokens, str) for each in results)
    tokens: Any = [row for each in results for row in each.tokens] if has_tokens else ""
    joined = Response(first.id, concatenate([each.embedding for each in results]), tokens)
    if first.parts is not None:
        joined.parts = [part._replace(text=part.text + start) for start, each in found for part in each.parts or ()]
    if first.outputs is not None:
        outputs = [each.outputs for each in results if each.outputs is not None]
        joined.outputs = join_outputs(outputs, first.outputs.names, concatenate)
    return joined


def _refusal(where: str, error: ServerError) -> str:
    is_one = isinstance(error, TooLargeError) and error.is_divisible  # else they were divided
    hint = "; it is one text, so shorten it, or raise the limit on the server" if is_one else ""
    return f"{where}: the server replied with {error.type!r}: {error.message}{hint}"


class RefusedError(CorpusError):
    """The server refused a request."""
