"""Connecting to servers, recognising their models, and encoding chunks of texts in order."""

from __future__ import annotations

import argparse
import itertools
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

import numpy as np

from .._client import BertClient
from .._encoding import Response
from .._fronts import Front
from ..errors import ServerError
from ..protocol import PART_MODES, FloatArray
from .corpus import CorpusError

if TYPE_CHECKING:
    from .._request_options import AllOptions, EncodeOptions

#: Encoded at the start, for the shape of the vectors and to compare them with those of an interrupted run.
PROBE = "the quick brown fox jumps over the lazy dog"


#: Most requests that are sent and whose results were not written.
_MAX_WINDOW = 64


class TextChunk(Protocol):
    """Texts that are encoded in one request."""

    @property
    def texts(self) -> Sequence[str | None]:
        """The texts; ``""`` and ``None`` are not encoded."""
        ...

    @property
    def where(self) -> str:
        """Where the texts are, for messages."""
        ...


C = TypeVar("C", bound=TextChunk)


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


def encode_options(args: argparse.Namespace) -> AllOptions:
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
    }


def server_options(client: BertClient, space: str | None) -> dict[str, Any]:
    """Returns the properties of the server that must be the same in all runs that write one output."""
    return {"the server's -max_seq_len": client.length_limit, "the vector space": space}


def probe_server(client: BertClient, is_tokenized: bool, options: AllOptions) -> tuple[FloatArray, str | None]:
    """Returns the vector of ``PROBE`` and its space; ``None`` from a server that does not name it.

    It does not matter whether the server truncates this text, or averages its parts.
    """
    texts = [PROBE.split()] if is_tokenized else [PROBE]
    long: Literal["mean"] | None = "mean" if options.get("long") in PART_MODES else None
    about_vectors: EncodeOptions = {**options, "long": long}
    if client.vector_space is None:  # a server that does not know the options of the other call
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vectors: FloatArray = client.encode(texts, is_tokenized=is_tokenized, **about_vectors)
        return vectors[0], None
    call = client._encode_in_detail(texts, is_tokenized, 1, [], **about_vectors)  # it gives no warning
    return call.embedding[0], call.vector_space


def mean_of(probe: FloatArray) -> list[float]:
    """Returns a vector as plain numbers; the mean of token vectors.

    Integers give no numbers: one that rounds the other way is far from the first. The vector space names their model.
    """
    if not np.issubdtype(probe.dtype, np.floating):
        return []
    mean: list[float] = probe.astype(np.float64).reshape(-1, probe.shape[-1]).mean(0).tolist()
    return mean


def encoded(
    client: BertClient, chunks: Iterator[C], is_tokenized: bool, options: AllOptions
) -> Iterator[tuple[C, Response | None]]:
    """Yields chunks with their results, in order, while later chunks are in flight; ``None`` if a chunk has no text.

    Args:
        client: a client that no other call uses.

    Raises:
        CorpusError: the server refused a request; the message names the chunk.
    """
    sent: deque[tuple[int, C]] = deque()  # the number of its request; 0 of a chunk without texts
    # One of several servers may be late, so the results of the others are limited, which wait for an earlier one.
    window = threading.Semaphore(_MAX_WINDOW)
    is_closed = False
    numbers = itertools.count(client.request_id + 1)
    early: dict[int, Response | ServerError] = {}

    def texts() -> Iterator[list[Any]]:
        for chunk in chunks:
            found = [text.split() if is_tokenized else text for text in chunk.texts if text]
            sent.append((next(numbers) if found else 0, chunk))
            if found:
                window.acquire()
                if is_closed:
                    return
                yield found

    results = client.encode_async(texts(), is_tokenized=is_tokenized, **options)
    try:
        is_over = False
        while not is_over:
            try:
                response = next(results)
                early[response.id] = response
            except StopIteration:
                is_over = True
            except ServerError as error:  # earlier requests are still answered
                early[error.request_id] = error
            while sent and (not sent[0][0] or sent[0][0] in early):
                number, chunk = sent.popleft()
                reply = early.pop(number) if number else None
                if number:
                    window.release()
                if isinstance(reply, ServerError):
                    raise RefusedError(
                        f"{chunk.where}: the server replied with {reply.type!r}: {reply.message}"
                    ) from reply
                yield chunk, reply
        if sent:
            raise RuntimeError(f"{sent[0][1].where}: no reply")
    finally:
        is_closed = True
        window.release()
        results.close()


class RefusedError(CorpusError):
    """The server refused a request."""
