"""Fields of a body that the server does not know."""

from __future__ import annotations

import pytest

from bert_serving.server.http.encode_schemas import EncodeRequest
from bert_serving.server.http.errors import BadRequest
from bert_serving.server.http.fields import check_encode_fields

OF_VERSION_1 = ("id", "texts", "is_tokenized")


@pytest.mark.parametrize("name", sorted({*EncodeRequest.__struct_fields__} - {*OF_VERSION_1}))
def test_another_spelling_of_a_field_of_encode_is_refused(name: str) -> None:
    check_encode_fields({"texts": ["x"], name: "x"})
    first, *others = name.split("_")
    spellings = {name.upper(), name.replace("_", "-"), first + "".join(map(str.title, others)), name.rstrip("s")}
    for spelling in (spellings | {f"{name}s".replace("ss", "s"), name.replace("iz", "is")}) - {name}:
        with pytest.raises(BadRequest, match=f"^the field '{spelling}' .*known fields: .*{name}"):
            check_encode_fields({"texts": ["x"], spelling: "x"})
        check_encode_fields({"texts": ["x"], spelling: None})


def test_fields_that_version_1_ignored_pass() -> None:
    check_encode_fields({"texts": ["x"], "text": "x", "ID": 1, "isTokenized": True, "user": "x", "comment": "", "s": 1})
