"""Scores of a server with ``-task classify`` or ``-task rerank``, and what the methods of a client return. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ._arguments import whole_number
from ._validation import item_remedy, to_list, truncate_repr
from .errors import InputTypeError, OptionError, ReplyError, TaskError
from .protocol import FloatArray

#: What the methods need a server for, by ``-task``.
_PURPOSES = {"classify": "classify() needs the scores of a classifier", "rerank": "rerank() needs a cross-encoder"}


class Classification(NamedTuple):
    """The scores of one text.

    Attributes:
        label: label with the highest score.
        score: its score.
        scores: label → score, in the order of the model.
    """

    label: str
    score: float
    scores: dict[str, float]


class Ranked(NamedTuple):
    """A document in the order of relevance.

    Attributes:
        index: position of the document in the list of the call.
        score: its relevance.
    """

    index: int  # type: ignore[assignment]  # in place of the method of tuples
    score: float


class ServerTask(NamedTuple):
    """What a server computes.

    Attributes:
        task: its ``-task``; ``None`` from a server without this option.
        labels: names of its scores.
        outputs: kinds of its vectors.
        prompts: names of the prompts of its model.
        models: names of the models of the server.
    """

    task: str | None
    labels: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: dict[str, Any]) -> ServerTask:
        """Reads the configuration of a server."""
        named = (tuple(map(str, config.get(key) or ())) for key in ("labels", "outputs", "prompts", "models"))
        return cls(config.get("task"), *named)

    def require_vectors(self) -> None:
        """Checks that a server computes vectors.

        Raises:
            TaskError: it computes scores.
        """
        if self.task not in (None, "embed"):
            raise TaskError(
                f"similarity() of texts needs vectors, but {self._name} has -task {self.task}; use a server without "
                f"-task{self._other_models}"
            )

    def require(self, task: str) -> None:
        """Checks that a server computes what a method needs.

        Raises:
            TaskError: it does not.
        """
        if self.task == task:
            return
        has = "is an older one, which gives vectors" if self.task is None else f"has -task {self.task}"
        others = [name for name in self.outputs if name != "dense"] if task == "rerank" else []
        remedy = f"pass by={others[-1]!r}" if others else "use encode() for what this server gives"
        raise TaskError(
            f"{_PURPOSES[task]}, but {self._name} {has}; start one with -task {task} on a model with such a head, or "
            f"{remedy}{self._other_models}"
        )

    @property
    def _name(self) -> str:
        return "this model of the server" if len(self.models) > 1 else "this server"

    @property
    def _other_models(self) -> str:
        return f", or a client with model= one of {', '.join(self.models)}" if len(self.models) > 1 else ""

    def check(self, scores: FloatArray) -> None:
        """Checks the shape of scores.

        Raises:
            ReplyError: they are not those of the labels, because the server was restarted meanwhile.
        """
        if scores.ndim != 2 or scores.shape[1] != len(self.labels):
            raise ReplyError(
                f"the reply has the shape {scores.shape}, but the server has {len(self.labels)} labels: it was "
                "restarted with another model; call again"
            )


def classifications(scores: FloatArray, labels: tuple[str, ...]) -> list[Classification]:
    """Returns the result of each text from ``[n, labels]``."""
    best = np.argmax(scores, 1).tolist()
    return [
        Classification(labels[index], row[index], dict(zip(labels, row, strict=True)))
        for index, row in zip(best, scores.tolist(), strict=True)
    ]


def ranking(scores: FloatArray, top_n: int | None) -> list[Ranked]:
    """Returns the documents with the scores ``[n, 1]``, best first; equal ones in the order of the call."""
    column = scores[:, 0]
    order = np.argsort(-column.astype(np.float64), kind="stable")[:top_n]
    return [Ranked(index, score) for index, score in zip(order.tolist(), column[order].tolist(), strict=True)]


def query_pairs(query: Any, documents: Iterable[Any], top_n: int | None) -> list[tuple[str, str]]:
    """Returns a pair of the query and each document.

    Raises:
        InputTypeError: the query, or a document, is not a ``str``.
        InputValueError: there are no documents.
        OptionError: ``top_n`` is below 1 or above the number of documents.
    """
    if not isinstance(query, str):
        raise InputTypeError(f"query must be a str, but is {type(query).__name__} ({truncate_repr(query)})")
    texts = to_list(documents, "documents", "texts")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputTypeError(
                f"all documents must be str, but documents[{index}] is {type(text).__name__} ({truncate_repr(text)})"
                f"{item_remedy(text, '')}"
            )
    if top_n is not None and whole_number("top_n", top_n, 1) > len(texts):
        raise OptionError(
            f"top_n is {top_n}, but there are {len(texts)} documents; pass at most {len(texts)}, or omit it for all"
        )
    return [(query, text) for text in texts]
