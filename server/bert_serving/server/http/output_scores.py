"""Ranks texts by their sparse vectors, or by the vectors of their tokens, without a cross-encoder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bert_serving.client import max_sim
from bert_serving.client.text_names import name_query

from .encoding_call import PartedCall, PartOfCall
from .encoding_service import COMPARED, EncodingResult, EncodingService
from .errors import BadRequest, WrongTask
from .scores import require_task
from .validation import parse_choice


@dataclass(frozen=True, slots=True)
class CompareCall(PartedCall):
    """A query and texts whose relevance an HTTP request asks for.

    The vectors of its result are the scores, float32 ``[n, 1]``. The query travels in a request of its own, because it
    has a prompt of its own.

    Attributes:
        query: the text to compare with.
        query_prompt: name of its prompt; None for that of the server.
        noun: what the API calls a text, for errors.
    """

    query: str = ""
    query_prompt: str | None = None
    noun: str = "document"

    def parts(self) -> list[PartOfCall]:
        query_options = {**self.options, "prompt_name": self.query_prompt}
        return [
            PartOfCall([self.query], query_options, name_query),
            PartOfCall(self.texts, self.options, self._name),
        ]

    def joined(self, results: list[EncodingResult]) -> EncodingResult:
        return _compare(*results)

    def _name(self, number: int) -> str:
        return f"{self.noun} {number}"


def read_by(service: EncodingService, values: dict[str, Any]) -> str | None:
    """Returns the output by which a request ranks; None if the server has a cross-encoder.

    Without the field, a server with one such output alone ranks by it, because programs of other APIs have no field.

    Raises:
        BadRequest: the field has an invalid value, or the server has a cross-encoder.
        WrongTask: the server lacks the output, or has both and the field is absent.
    """
    by = None if values.get("by") is None else parse_choice(values, "by", COMPARED)
    if service.config.task == "rerank":
        if by is not None:
            raise BadRequest("'by' compares vectors, but this server has -task rerank, a cross-encoder: omit it", "by")
        return None
    require_ranking(service)
    if by is None:
        if service.outputs == service.compared and len(service.compared) == 1:
            return service.compared[0]
        raise WrongTask(
            f"this server has {', '.join(service.outputs)} vectors and no cross-encoder: set 'by' to "
            f"{' or '.join(service.compared)}, or send the request to a server with -task rerank"
        )
    if by not in service.compared:
        raise WrongTask(
            f"'by' is {by}, but this server has {', '.join(service.outputs)} vectors: set another one, or use a server "
            "of another model"
        )
    return by


def require_ranking(service: EncodingService) -> None:
    """Checks that the server can rank texts.

    Raises:
        WrongTask: it has no cross-encoder, and no outputs that are compared, or does not compute them.
    """
    if not service.compared:
        require_task(service, "rerank")
    elif service.config.deterministic:
        raise WrongTask(
            f"this server has -deterministic, which does not cover {' and '.join(service.compared)} vectors: send the "
            "request to a server without it"
        )


def compare_options(service: EncodingService, by: str) -> tuple[dict[str, Any], str | None]:
    """Returns the options of texts that are ranked, and the name of the prompt of the query."""
    prompts = {} if service.config.pipeline is None else service.config.pipeline.prompts
    query, document = (name if name in prompts else None for name in ("query", "document"))
    return {"outputs": [by], "pairs": False, "prompt_name": document}, query


def _compare(query: EncodingResult, texts: EncodingResult) -> EncodingResult:
    """Returns the scores of the texts, in place of their vectors."""
    if query.sparse is not None and texts.sparse is not None:
        scores = [query.sparse[0].dot(text) for text in texts.sparse]
    else:
        assert query.multi is not None
        assert texts.multi is not None
        own = query.multi[0].astype(np.float32, copy=False)
        scores = [max_sim(own, text) for text in texts.multi]
    return replace(
        texts,
        vectors=np.array(scores, np.float32)[:, None],
        num_tokens=query.num_tokens + texts.num_tokens,
        sparse=None,
        multi=None,
        nbytes=4 * len(scores),
    )
