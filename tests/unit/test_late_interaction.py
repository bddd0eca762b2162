"""Vectors of tokens of late interaction models, compared with those of sentence-transformers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import change
from output_encoders import encoder_of
from output_models import TEXTS, write_colbert, write_pylate

from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.batch import Batch
from bert_serving.server.errors import ConfigError
from bert_serving.server.ipc.messages import BatchMessage
from bert_serving.server.model.errors import ModelConfigError, ModelUnsupported
from bert_serving.server.scheduling.jobs import Job, RequestKey, pack
from bert_serving.server.scheduling.scheduler import BatchSlice
from bert_serving.server.ventilator.request_options import OptionsResolver, RequestOptions
from bert_serving.server.ventilator.text_frames import chunk_of

multi_vector_encoder = pytest.importorskip("sentence_transformers.multi_vector_encoder")


def encode(folder: Path, cache: Path, prompt_name: str | None) -> list[np.ndarray]:
    """Returns the vectors of the tokens of each text, as a server computes them."""
    config, model = apply_model_folder(ServerConfig(model_dir=str(folder)), logging.getLogger("test"))
    encoder, tokenizer = encoder_of(folder, cache)
    config = config.with_(output_spaces={"multi": "0" * 16})
    options = OptionsResolver(config, model).resolve(RequestOptions(outputs=["multi"], prompt_name=prompt_name))
    job = Job(1, RequestKey(b"me", b"1", b""), len(TEXTS), 0.0, options)
    chunk = chunk_of(job, 0, tokenizer.encode(TEXTS, options.prompt))
    packed = pack([BatchSlice(chunk, np.arange(len(TEXTS)), chunk.tokenized.lengths)])
    size = packed.batch.num_tokens
    batch = Batch(
        packed.batch.input_ids,
        packed.batch.type_ids if packed.has_types else np.zeros(size, np.int32),
        packed.batch.mask if packed.has_mask else np.ones(size, np.int32),
        packed.batch.lengths,
    )
    _, _, outputs = encoder.encode(BatchMessage(1, batch, b"", vector_codes=packed.vector_codes))
    assert outputs is not None
    return np.split(outputs.multi, np.cumsum(outputs.multi_counts)[:-1])


def compare(folder: Path, cache: Path, model: Any) -> None:
    wanted = {
        "query": model.encode_query(TEXTS, convert_to_numpy=True),
        "document": model.encode_document(TEXTS, convert_to_numpy=True),
        None: model.encode(TEXTS, convert_to_numpy=True),
    }
    for prompt_name, rows in wanted.items():
        found = encode(folder, cache, prompt_name)
        assert [each.shape for each in found] == [np.shape(each) for each in rows], prompt_name
        for mine, theirs in zip(found, rows, strict=True):
            np.testing.assert_allclose(mine, np.asarray(theirs), atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"query_length": 9, "document_length": 14},
        {"query_expansion": {"strategy": "fixed", "attend": False, "length": 12}, "document_length": 30},
        {"query_expansion": {"strategy": "min", "attend": True, "length": 12, "token": "[SEP]"}},
    ],
    ids=["plain", "lengths", "fixed", "min"],
)
def test_vectors_are_those_of_the_library(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = write_colbert(tmp_path / "model", **settings)
    compare(tmp_path / "model", tmp_path / "cache", model)


@pytest.mark.parametrize(
    "settings",
    [{}, {"attend_to_expansion_tokens": True}, {"do_query_expansion": False}, {"skiplist_words": None}],
    ids=["defaults", "attend", "no expansion", "punctuation"],
)
def test_folders_of_pylate_are_read_as_the_library_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    write_pylate(tmp_path / "model", **settings)
    model = multi_vector_encoder.MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    compare(tmp_path / "model", tmp_path / "cache", model)


@pytest.mark.parametrize(
    ("file", "values", "error", "named"),
    [
        ("3_MultiVectorMask/config.json", {"keep_only_token_ids": [1]}, ModelUnsupported, "keep_only_token_ids"),
        ("1_Dense/config.json", {"use_residual": True}, ModelUnsupported, "use_residual"),
        ("1_Dense/config.json", {"activation_function": "mine.Act"}, ModelUnsupported, "mine.Act"),
        ("1_Dense/config.json", {"out_features": 5}, ModelConfigError, "the layer before gives 5 numbers"),
        ("1_Dense/config.json", {"in_features": 31}, ModelConfigError, "Dense takes 31 numbers"),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "x", "length": 3}}, ModelUnsupported, "'x'"),
        ("sentence_bert_config.json", {"query_length": 900}, ModelConfigError, "up to 900 tokens"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, file: str, values: dict[str, Any], error: type[Exception], named: str
) -> None:
    write_colbert(tmp_path)
    change(tmp_path / file, **values)
    with pytest.raises(error, match=named):
        apply_model_folder(ServerConfig(model_dir=str(tmp_path)), logging.getLogger("test"))


def test_options_of_dense_vectors_are_refused(tmp_path: Path) -> None:
    write_colbert(tmp_path)
    for option, value in (("normalize", "on"), ("mask_cls_sep", True)):
        with pytest.raises(ConfigError, match=option):
            apply_model_folder(ServerConfig.from_dict({"model_dir": str(tmp_path), option: value}), logging.getLogger())
