"""Lists the routes that encode texts. Their POST requests take a slot of the limiter."""

from __future__ import annotations

from functools import partial

from flask import Flask

from .encoding_call import Prepare, handle
from .encoding_service import EncodingService
from .routes import by_task, classify, cohere, encode, openai, rerank, tei

#: How each path reads its requests.
ENCODING_ROUTES: dict[str, Prepare] = {
    "/encode": encode.prepare,
    "/v1/embeddings": openai.prepare,
    "/invocations": by_task.prepare_invocations,
    "/": by_task.prepare_by_task,
    "/embed": tei.prepare_embed,
    "/embed_all": tei.prepare_embed_all,
    "/embed_sparse": tei.prepare_embed_sparse,
    "/similarity": tei.prepare_similarity,
    "/v1/embed": cohere.prepare_v1,
    "/v2/embed": cohere.prepare_v2,
    "/predict": classify.prepare_predict,
    "/classify": classify.prepare_classify,
    "/rerank": rerank.prepare_rerank,
    "/v1/rerank": rerank.prepare_v1,
    "/v2/rerank": rerank.prepare_v2,
}


def add_encoding_routes(app: Flask, service: EncodingService) -> None:
    """Adds the routes to the Flask application."""
    for path, prepare in ENCODING_ROUTES.items():
        app.add_url_rule(path, path, partial(handle, service, path, prepare), methods=["POST"])
