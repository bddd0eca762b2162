"""Lists the routes that encode texts. Their POST requests take a slot of the limiter."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Flask
from werkzeug.datastructures import Headers

from .encoding_call import EncodingCall, Prepare, answer
from .encoding_service import EncodingService
from .routes import classify, encode, openai, rerank, sagemaker, tei


def prepare_by_task(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``POST /`` request as the route for the task of the server does."""
    by_task = {"embed": tei.prepare, "classify": classify.prepare_predict, "rerank": rerank.prepare_rerank}
    return by_task[service.config.task](service, values, headers)


#: How each path reads its requests.
ENCODING_ROUTES: dict[str, Prepare] = {
    "/encode": encode.prepare,
    "/v1/embeddings": openai.prepare,
    "/invocations": sagemaker.prepare,
    "/": prepare_by_task,
    "/embed": tei.prepare_embed,
    "/embed_all": tei.prepare_embed_all,
    "/similarity": tei.prepare_similarity,
    "/predict": classify.prepare_predict,
    "/classify": classify.prepare_classify,
    "/rerank": rerank.prepare_rerank,
    "/v1/rerank": rerank.prepare_v1,
    "/v2/rerank": rerank.prepare_v2,
}


def add_encoding_routes(app: Flask, service: EncodingService) -> None:
    """Adds the routes to the Flask application."""
    for path, prepare in ENCODING_ROUTES.items():
        app.add_url_rule(path, path, partial(answer, service, prepare), methods=["POST"])
