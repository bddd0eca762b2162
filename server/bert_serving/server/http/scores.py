"""Computes the scores of a classifier or reranker for the texts of HTTP requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .encoding_call import PartedCall, PartOfCall
from .encoding_service import EncodingResult, EncodingService
from .errors import BadRequest, BodyTooLarge, WrongTask

#: A text, or a pair of texts.
Item = str | tuple[str, str]
#: The task of a server, and the routes that fit.
_ROUTES = {"embed": "/embed or /v1/embeddings", "classify": "/predict or /classify", "rerank": "/rerank"}
#: Routes of the kinds of vectors.
_OUTPUT_ROUTES = {"dense": "/embed", "sparse": "/embed_sparse", "multi": "/embed_all"}


@dataclass(frozen=True, slots=True)
class ScoreCall(PartedCall):
    """Texts and pairs of texts whose scores an HTTP request asks for.

    The vectors of its result are the scores, ``[n, labels]``. Texts and pairs travel in requests of their own.

    Attributes:
        noun: what the API calls a text that is paired with the query of a ranking, for errors; empty without a query.
    """

    noun: str = ""

    def _name(self, rows: list[int], number: int) -> str:
        row = rows[number]
        if self.noun:
            return f"the pair of the query and {self.noun} {row}"
        return f"{'pair' if isinstance(self.texts[row], tuple) else 'text'} {row}"

    def _rows(self) -> list[list[int]]:
        """Returns the rows of the texts, and those of the pairs, if there are any."""
        rows: tuple[list[int], list[int]] = ([], [])
        for row, item in enumerate(self.texts):
            rows[isinstance(item, tuple)].append(row)
        return [each for each in rows if each]

    def parts(self) -> list[PartOfCall]:
        return [
            PartOfCall(
                [self.texts[row] for row in rows],
                {**self.options, "pairs": isinstance(self.texts[rows[0]], tuple)},
                partial(self._name, rows),
            )
            for rows in self._rows()
        ]

    def joined(self, results: list[EncodingResult]) -> EncodingResult:
        first = results[0]
        if len(results) == 1:
            return first
        scores = np.zeros((len(self.texts), first.vectors.shape[1]), first.vectors.dtype)
        for rows, result in zip(self._rows(), results, strict=True):
            scores[rows] = result.vectors
        return replace(first, vectors=scores, num_tokens=sum(result.num_tokens for result in results))


def require_task(service: EncodingService, task: str) -> None:
    """Checks that the server has the task that a route needs.

    Raises:
        WrongTask: it has another one.
    """
    found = service.config.task
    if found != task:
        raise WrongTask(
            f"this server has -task {found}, and this route needs a server with -task {task}: use {_ROUTES[found]}, or "
            "another server"
        )


def require_text_vectors(service: EncodingService) -> None:
    """Checks that the server returns one vector per text.

    Raises:
        BadRequest: it returns a vector per token.
        WrongTask: it returns scores.
    """
    require_task(service, "embed")
    require_dense(service)
    if service.token_level:
        raise BadRequest("this server returns a vector per token (-pooling_strategy NONE); use POST /encode")


def require_dense(service: EncodingService) -> None:
    """Checks that the server has dense vectors.

    Raises:
        WrongTask: it has other ones only.
    """
    if service.outputs and "dense" not in service.outputs:
        raise WrongTask(
            f"this server has no dense vectors, because the model folder describes none; it has "
            f"{', '.join(service.outputs)}: use {output_routes(service)}, or 'outputs' of /encode"
        )


def output_routes(service: EncodingService) -> str:
    """Returns the routes for the kinds of vectors that the server has."""
    return " or ".join(_OUTPUT_ROUTES[name] for name in service.outputs)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns the logistic function; does not overflow."""
    scores: np.ndarray = np.exp(-np.logaddexp(0, -logits))
    return scores


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis; does not overflow."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return scores


def best_first(scores: np.ndarray) -> np.ndarray:
    """Returns the indices of scores, the best first; of equal scores, the first comes first."""
    order: np.ndarray = np.argsort(-scores, kind="stable")
    return order


def check_size(service: EncodingService, query: str, texts: list[str]) -> None:
    """Checks the size of the pairs that a ranking sends to the service: the query travels with each text.

    Raises:
        BodyTooLarge: the queries are larger than the largest body.
    """
    size, limit = len(query.encode(errors="replace")) * len(texts), service.config.http_max_body
    if size > limit:
        raise BodyTooLarge(
            f"the query is sent with each of {len(texts)} texts, {size} bytes in all; the limit is {limit} "
            "(-http_max_body): send fewer texts per request, or a shorter query"
        )
