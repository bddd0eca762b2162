"""Chooses the model of an HTTP request on a server with several models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .encoding_service import EncodingService
from .errors import BadRequest, NotFound, WrongTask
from .validation import truncate_repr


def _is_task(task: str) -> Callable[[EncodingService], bool]:
    return lambda service: service.config.task == task


def _embeds(service: EncodingService) -> bool:
    return service.config.has_text_vectors


_is_reranker = _is_task("rerank")
_RANKINGS = frozenset(("/rerank", "/v1/rerank", "/v2/rerank"))
#: For which models a path is. Without a field ``model``, the first of them gets the request.
_FITTING: dict[str, Callable[[EncodingService], bool]] = {
    **dict.fromkeys(("/predict", "/classify"), _is_task("classify")),
    **dict.fromkeys(("/embed", "/similarity", "/v1/embeddings", "/v1/embed", "/v2/embed"), _embeds),
    "/embed_all": lambda service: service.token_level or "multi" in service.compared,
    "/embed_sparse": lambda service: "sparse" in service.compared,
}


def _choose_for_ranking(models: list[EncodingService], by: Any) -> EncodingService:
    """Returns the first model with the output ``by``; without it, the first reranker, or with outputs to compare.

    If no model has the output, the first one with another output gets the request, because its error names what it has.
    """
    compares = next((each for each in models if each.compared), None)
    reranker = next(filter(_is_reranker, models), None)
    if by is not None:
        return next((each for each in models if by in each.compared), compares or reranker or models[0])
    return reranker or compares or models[0]


def choose(service: EncodingService, values: Mapping[str, Any], path: str) -> EncodingService:
    """Returns the service for the model of a request. A server of one model takes any name for its own.

    Args:
        service: that of the first model.
        values: fields of the body, or arguments of the URL.
        path: canonical path.

    Raises:
        BadRequest: the field ``model`` is not a name.
        NotFound: the server has no such model.
    """
    if len(service.models) == 1:
        return service
    parameters = values.get("parameters")
    name, by = (
        parameters.get(key) if values.get(key) in (None, "") and isinstance(parameters, dict) else values.get(key)
        for key in ("model", "by")
    )
    if name in (None, ""):
        if path in _RANKINGS or (path not in _FITTING and "query" in values):
            return _choose_for_ranking(service.models, by)
        fits = _FITTING.get(path)
        return service if fits is None else next(filter(fits, service.models), service)
    if not isinstance(name, str):
        raise BadRequest(f"'model' must be a name, received {truncate_repr(name)}", "model")
    for each in service.models:
        if each.model_name == name:
            return each
    raise NotFound(
        f"the model {truncate_repr(name)} does not exist; this server has "
        f"{', '.join(each.model_name for each in service.models)}: send one of these names, or no 'model'",
        "model",
    )


@contextmanager
def naming_models(service: EncodingService) -> Iterator[None]:
    """Adds what each model of the server has to the error of a request that the chosen one cannot answer.

    Raises:
        WrongTask: the block raised it.
    """
    try:
        yield
    except WrongTask as error:
        if len(service.models) == 1:
            raise
        listed = ", ".join(f"{each.model_name} ({_kind(each)})" for each in service.models)
        raise WrongTask(
            f"model {service.model_name!r}: {error}; the field 'model' chooses one of {listed}", error.param
        ) from None


def _kind(service: EncodingService) -> str:
    if service.config.task != "embed":
        return f"-task {service.config.task}"
    return "one vector per token" if service.token_level else ", ".join(service.outputs)
