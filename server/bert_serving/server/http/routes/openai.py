"""The embeddings API of OpenAI, so that its client libraries, and all that is built on them, work here.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import orjson
from flask import Blueprint, Response

from .. import serialization as vectors
from ..encoding_service import EncodingService
from ..errors import BadRequest, NotFound
from ..request_context import JSON, admitted, body, with_timing
from ..validation import kind_of, need, read_choice, read_object, shown

#: How the names of OpenAI's embedding models begin. Who asks for one has tokenized with their vocabulary.
_FOREIGN = "text-embedding-"


def blueprint(door: EncodingService) -> Blueprint:
    routes = Blueprint("openai", __name__, url_prefix="/v1")
    model = {"id": door.model_name, "object": "model", "created": int(time.time()), "owned_by": "bert-serving"}

    @routes.post("/embeddings")
    def embeddings() -> Response:
        with admitted(door):
            return answer(door, read_object(body()))

    @routes.get("/models")
    def models() -> Response:
        return _json({"object": "list", "data": [model]})

    @routes.get("/models/<path:name>")
    def model_by_name(name: str) -> Response:
        if name != model["id"]:
            raise NotFound(f"the model {name!r} is not served here; {model['id']!r} is", "model")
        return _json(model)

    return routes


def answer(door: EncodingService, values: dict[str, Any]) -> Response:
    """The answer to the body of an ``/v1/embeddings`` request."""
    if door.token_level:
        raise BadRequest("this server gives a vector per token (-pooling_strategy NONE); ask POST /encode")
    encoding = read_choice(values, "encoding_format", ("float", "base64"))
    wanted = _read_dimensions(values, door.dimensions)
    model = _read_model(values) or door.model_name
    texts, is_ids = read_input(need(values, "input", "a text, a list of texts, or token ids"))
    if is_ids and model.startswith(_FOREIGN) and model != door.model_name:
        raise BadRequest(
            f"'input' holds token ids, and 'model' is {shown(model)}: ids of OpenAI's tokenizer are other words in the "
            f"vocabulary of {door.model_name!r}, which is served here. Send texts: LangChain's OpenAIEmbeddings does "
            "with check_embedding_ctx_length=False. Ids of this model's own vocabulary are taken under its own name",
            "input",
        )
    encoded = door.encode(door.token_ids.tokens(texts) if is_ids else texts, is_tokenized=is_ids)
    array = encoded.vectors if wanted is None else vectors.cut(encoded.vectors, wanted)
    # Client libraries read base64 as float32, whatever the server computes in.
    if encoding == "base64":
        rows = [b'"%b"' % row for row in vectors.to_base64(array.astype(np.float32, copy=False))]
    else:
        rows = [vectors.to_json(row) for row in array]
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % numbered_row for numbered_row in enumerate(rows)
    )
    rest = {"model": model, "usage": {"prompt_tokens": encoded.num_tokens, "total_tokens": encoded.num_tokens}}
    made = Response(b'{"object":"list","data":[%b],%b' % (data, orjson.dumps(rest)[1:]), mimetype=JSON)
    return with_timing(made, encoded)


def read_input(value: Any) -> tuple[list[Any], bool]:
    """The texts, or rows of token ids, of the field ``input``; the second value says which.

    Raises:
        BadInput: none of the four forms: a text, a list of texts, a list of token ids, a list of such lists.
    """
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list) or not value:
        received = "an empty list" if value == [] else f"{kind_of(value)} ({shown(value)})"
        raise BadRequest(f"'input' must be a text, a list of texts, or token ids, received {received}", "input")
    kinds = set(map(type, value))
    if kinds == {str}:
        return value, False
    if kinds == {int}:
        return [value], True
    if kinds == {list}:
        for index, row in enumerate(value):
            if not row or set(map(type, row)) != {int}:
                raise BadRequest(f"item {index} of 'input' must be a list of token ids, received {shown(row)}", "input")
        return value, True
    first = type(value[0])
    odd = next((index for index, item in enumerate(value) if type(item) is not first), 0)
    raise BadRequest(
        f"the items of 'input' must be all texts or all token ids, but item {odd} is {shown(value[odd])}", "input"
    )


def _read_dimensions(values: dict[str, Any], width: int) -> int | None:
    wanted = values.get("dimensions")
    if wanted is None:
        return None
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise BadRequest(f"'dimensions' must be a whole number from 1 on, received {shown(wanted)}", "dimensions")
    if wanted > width:
        raise BadRequest(f"'dimensions' is {wanted}, but the vectors of this server have {width}", "dimensions")
    return wanted


def _read_model(values: dict[str, Any]) -> str:
    """The name that the answer repeats; which name it is makes no difference."""
    name = values.get("model") or ""
    if not isinstance(name, str):
        raise BadRequest(f"'model' must be a name, received {shown(name)}", "model")
    return name.encode(errors="replace").decode()  # JSON may hold half of a surrogate pair, and no answer can


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY), mimetype=JSON)
