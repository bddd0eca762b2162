"""Chooses the model of an HTTP request on a server with several models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .encoding_service import EncodingService
from .errors import BadRequest, NotFound
from .validation import truncate_repr


def _is_task(task: str) -> Callable[[EncodingService], bool]:
    return lambda service: service.config.task == task


def _embeds(service: EncodingService) -> bool:
    return service.config.has_text_vectors


#: For which models a path is. Without a field ``model``, the first of them gets the request.
_FITTING: dict[str, Callable[[EncodingService], bool]] = {
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _is_task("rerank")),
    **dict.fromkeys(("/predict", "/classify"), _is_task("classify")),
    **dict.fromkeys(("/embed", "/similarity", "/v1/embeddings", "/v1/embed", "/v2/embed"), _embeds),
    "/embed_all": lambda service: service.config.task == "embed" and service.token_level,
    "/embed_sparse": lambda service: service.config.task == "embed" and "sparse" in service.outputs,
}


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
    name = values.get("model")
    if name in (None, "") and isinstance(parameters := values.get("parameters"), dict):
        name = parameters.get("model")
    if name in (None, ""):
        fits = _FITTING.get(path) or (_is_task("rerank") if "query" in values else None)
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
