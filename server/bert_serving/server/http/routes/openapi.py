"""What the routes are, for programs (OpenAPI 3.1 at ``/openapi.json``) and for people (a page at ``/docs``)."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as BaseResponse

from ...version import __version__
from ..request_context import BYTES, JSON
from .docs_page import render

#: The page may use nothing but what is on it, and may talk to nobody but this server.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint() -> Blueprint:
    routes = Blueprint("description", __name__)
    as_json = orjson.dumps(OPENAPI, option=orjson.OPT_INDENT_2)
    as_page = render(OPENAPI)

    @routes.get("/openapi.json")
    def openapi() -> Response:
        return Response(as_json, mimetype=JSON)

    @routes.get("/docs")
    def page() -> Response:
        response = Response(as_page, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @routes.get("/")
    def root() -> BaseResponse:
        return redirect("docs")

    return routes


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _content(schema: dict[str, Any], example: Any = None) -> dict[str, Any]:
    return {JSON: {"schema": schema} | ({} if example is None else {"example": example})}


def _operation(
    summary: str,
    description: str,
    answer: str,
    content: dict[str, Any],
    errors: tuple[str, ...] = (),
    request: dict[str, Any] | None = None,
    tag: str = "Operations",
    is_open: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "description": description, "tags": [tag]}
    if request is not None:
        operation["requestBody"] = {"required": True, "content": request}
    operation["responses"] = {"200": {"description": answer, "content": content}}
    for code in errors:
        operation["responses"][code] = {"$ref": f"#/components/responses/{code}"}
    if is_open:
        operation["security"] = []
    return operation


_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer"}
_SWITCH = {"type": "boolean", "default": False}
_FORMAT = {"type": "string", "enum": ["float", "base64"], "default": "float"}
_VECTORS = _list_of(_list_of({"type": "number"}))
_OBJECT = {"type": "object"}
_ENCODE_ERRORS = ("400", "401", "403", "413", "415", "422", "502", "503", "504")

_SCHEMAS: dict[str, Any] = {
    "EncodeRequest": {
        "type": "object",
        "required": ["texts"],
        "properties": {
            "id": {"description": "comes back in the answer; any JSON value"},
            "texts": {
                "description": "texts, none of them blank; lists of tokens if is_tokenized. 'A ||| B' is a pair",
                "anyOf": [_list_of(_TEXT), _list_of(_list_of(_TEXT))],
            },
            "is_tokenized": {**_SWITCH, "description": "each text is a list of tokens already"},
            "show_tokens": {**_SWITCH, "description": "give the tokens of each text as well"},
            "encoding_format": {**_FORMAT, "description": "base64: each row as base64 of its little-endian values"},
        },
    },
    "EncodeAnswer": {
        "type": "object",
        "properties": {
            "id": {},
            "result": {**_VECTORS, "description": "the same as results, for programs made for 1.10; not with base64"},
            "results": {
                "description": "a vector for each text; without pooling, one for each token of each text",
                "anyOf": [_VECTORS, _list_of(_VECTORS), _list_of(_TEXT)],
            },
            "num_tokens": {**_COUNT, "description": "tokens of all texts, [CLS] and [SEP] among them"},
            "truncated": {**_list_of(_COUNT), "description": "rows that were cut to max_seq_len; the first 1,000"},
            "tokens": {**_list_of(_list_of(_TEXT)), "description": "with show_tokens"},
            "dtype": {**_TEXT, "description": "with base64: float32 or float16"},
            "shape": {**_list_of(_COUNT), "description": "with base64"},
            "status": _COUNT,
        },
    },
    "EmbeddingsRequest": {
        "type": "object",
        "required": ["input"],
        "properties": {
            "input": {
                "description": "a text, texts, token ids of a text, or of several; ids of the model's vocabulary",
                "anyOf": [_TEXT, _list_of(_TEXT), _list_of(_COUNT), _list_of(_list_of(_COUNT))],
            },
            "model": {
                **_TEXT,
                "description": "comes back in the answer; there is one model, whatever it is called. Token ids are "
                "refused if it is a name of OpenAI's (text-embedding-...)",
            },
            "encoding_format": {**_FORMAT, "description": "base64: of little-endian float32"},
            "dimensions": {**_COUNT, "description": "keep so many of the first numbers, scaled to unit length"},
            "user": {**_TEXT, "description": "without effect"},
        },
    },
    "EmbeddingsAnswer": {
        "type": "object",
        "properties": {
            "object": {"const": "list"},
            "data": _list_of(
                {
                    "type": "object",
                    "properties": {
                        "object": {"const": "embedding"},
                        "index": _COUNT,
                        "embedding": {"anyOf": [_list_of({"type": "number"}), _TEXT]},
                    },
                }
            ),
            "model": _TEXT,
            "usage": {"type": "object", "properties": {"prompt_tokens": _COUNT, "total_tokens": _COUNT}},
        },
    },
    "Error": {
        "type": "object",
        "properties": {
            "description": {**_TEXT, "description": "what is wrong, and what to do"},
            "status": _COUNT,
            "type": {**_TEXT, "description": "name of the error"},
        },
    },
    "OpenAIError": {
        "type": "object",
        "description": "below /v1",
        "properties": {
            "error": {
                "type": "object",
                "properties": {"message": _TEXT, "type": _TEXT, "param": _TEXT, "code": _TEXT},
            }
        },
    },
}

_ERROR = _content({"anyOf": [_ref("Error"), _ref("OpenAIError")]})
_RETRY = {"Retry-After": {"schema": _COUNT, "description": "seconds"}}
_RESPONSES: dict[str, Any] = {
    "400": {"description": "The body, or a value in it, is wrong", "content": _ERROR},
    "401": {"description": "The token is missing or wrong", "content": _ERROR},
    "403": {"description": "The service does not let its own HTTP server in", "content": _ERROR},
    "404": {"description": "There is no such thing here", "content": _ERROR},
    "413": {"description": "More than a limit of the server allows; the limit is named", "content": _ERROR},
    "415": {"description": "The body is compressed", "content": _ERROR},
    "422": {"description": "The engine could not encode one of the texts", "content": _ERROR},
    "502": {"description": "The service gave an answer that cannot be read", "content": _ERROR},
    "503": {"description": "Too much to do, stopping, or the service is away", "headers": _RETRY, "content": _ERROR},
    "504": {"description": "The service did not answer in time", "content": _ERROR},
}

_VECTORS_AS_BYTES = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
_MODEL_EXAMPLE = {"id": "uncased_L-12_H-768_A-12", "object": "model", "created": 1767225600, "owned_by": "bert-serving"}

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "bert-serving",
        "version": __version__,
        "description": "Sentences in, BERT vectors out. With 'Accept: application/octet-stream' /encode answers the "
        "raw little-endian values, and the headers X-Shape and X-Dtype say how to read them.",
    },
    "paths": {
        "/encode": {
            "post": _operation(
                "Encode texts",
                "A vector for each text, as the HTTP server of bert-as-service 1.10 gives it.",
                "The vectors, in the order of the texts",
                _content(_ref("EncodeAnswer")) | _VECTORS_AS_BYTES,
                _ENCODE_ERRORS,
                _content(_ref("EncodeRequest"), {"id": 123, "texts": ["hello world", "good day!"]}),
                "Vectors",
            )
        },
        "/v1/embeddings": {
            "post": _operation(
                "Encode texts, as OpenAI does",
                "The embeddings API of OpenAI: its client libraries work with base_url set to this server's /v1.",
                "The vectors, in the order of the texts",
                _content(_ref("EmbeddingsAnswer")),
                _ENCODE_ERRORS,
                _content(_ref("EmbeddingsRequest"), {"model": "bert", "input": ["hello world", "good day!"]}),
                "Vectors",
            )
        },
        "/invocations": {
            "post": _operation(
                "Encode texts, as Amazon SageMaker asks for it",
                "Takes what /encode takes, or what /v1/embeddings takes, and answers alike.",
                "The vectors",
                _content({"anyOf": [_ref("EncodeAnswer"), _ref("EmbeddingsAnswer")]}) | _VECTORS_AS_BYTES,
                _ENCODE_ERRORS,
                _content({"anyOf": [_ref("EncodeRequest"), _ref("EmbeddingsRequest")]}, {"texts": ["hello world"]}),
                "Vectors",
            )
        },
        "/v1/models": {
            "get": _operation(
                "The model, as a list of one",
                "The name of the folder that the model was loaded from.",
                "A list as OpenAI gives it",
                _content(_OBJECT, {"object": "list", "data": [_MODEL_EXAMPLE]}),
                ("401",),
                tag="Vectors",
            )
        },
        "/v1/models/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": _TEXT}],
            "get": _operation(
                "The model by its name",
                "",
                "The model",
                _content(_OBJECT, _MODEL_EXAMPLE),
                ("401", "404"),
                tag="Vectors",
            ),
        },
        "/status/server": {
            "get": _operation(
                "Status of the service",
                "Its configuration, its state, what waits, and what was counted; the keys of 1.10 and more.",
                "The status",
                _content(_OBJECT),
                ("401", "503", "504"),
            )
        },
        "/status/client": {
            "get": _operation(
                "Status of the HTTP server's own client",
                "It is what all HTTP requests reach the service through.",
                "The status",
                _content(_OBJECT),
                ("401",),
            )
        },
        "/healthz": {
            "get": _operation(
                "Whether the HTTP server lives", "Asks nobody else.", "It does", _content(_OBJECT), is_open=True
            )
        },
        "/readyz": {
            "get": _operation(
                "Whether requests may be sent here",
                "The service answers, says that it serves, and has computed vectors within the last 30 s; otherwise "
                "one is computed to see.",
                "They may",
                _content(_OBJECT),
                ("503",),
                is_open=True,
            )
        },
        "/ping": {
            "get": _operation(
                "The same, as Amazon SageMaker asks for it",
                "As /readyz.",
                "Requests may be sent here",
                _content(_OBJECT),
                ("503",),
                is_open=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "Numbers for Prometheus",
                "Those of the service, and those of HTTP.",
                "Metrics in Prometheus' text format",
                {"text/plain": {"schema": _TEXT}},
                ("401",),
            )
        },
    },
    "components": {
        "schemas": _SCHEMAS,
        "responses": _RESPONSES,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{"token": []}, {}],
}
