"""What shapes the digest of a server's vectors."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device
from bert_serving.server.model.pipeline import Normalize, Truncate
from bert_serving.server.model.vector_options import VectorOptions
from bert_serving.server.model.vector_space import VectorSpaces
from bert_serving.server.supervisor.placement import WorkerPlacement
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.supervisor.vector_space import vector_digest
from servers import TINY

LOG = logging.getLogger("test")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERT_SERVING_CACHE", str(tmp_path / "cache"))


def space(*args: str, folder: Path = TINY, dtypes: tuple[str, ...] = ("fp32",), engine: str = "onnx") -> str:
    """Returns the space of a server on this folder with these flags."""
    config = ServerConfig.from_args(get_args_parser().parse_args(["-model_dir", str(folder), *args]))
    config, model = read_model(config, LOG)
    plans = [WorkerPlacement(Device("cpu", 0, 1), engine, dtype) for dtype in dtypes]
    return config.with_(vector_digest=vector_digest(config, model, plans)).vector_spaces(model).default


def test_the_place_of_the_folder_and_flags_without_influence_do_not_count(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    assert space(folder=copy) == space()
    for args in (
        ("-max_seq_len", "40"),
        ("-num_worker", "2"),
        ("-verbose",),
        ("-max_batch_size", "8"),
        ("-pooling_layer", "-2"),
        ("-pooling_strategy", "REDUCE_MEAN"),
        ("-normalize", "off"),
        ("-dimensions", "32"),
    ):
        assert space(*args) == space(), args
    assert space(dtypes=("bf16",)) == space(dtypes=("fp16",)) == space("-fp16") == space("-fp16", dtypes=("fp16",))
    assert space(engine="torch") == space(engine="tensorflow") == space()


def test_each_setting_that_shapes_a_vector_gives_another_space() -> None:
    spaces = [
        space(),
        space("-pooling_layer", "-1"),
        space("-pooling_layer", "-1", "-2"),
        space("-pooling_layer", "-2", "-1"),
        space("-pooling_strategy", "REDUCE_MAX"),
        space("-pooling_strategy", "CLS_TOKEN"),
        space("-pooling_strategy", "CLS_POOLED"),
        space("-pooling_strategy", "WEIGHTED_MEAN"),
        space("-pooling_strategy", "NONE"),
        space("-normalize", "on"),
        space("-dimensions", "8"),
        space("-dimensions", "8", "-normalize", "on"),
        space("-cased_tokenization"),
        space("-mask_cls_sep"),
        space("-no_special_token"),
        space("-no_position_embeddings"),
        space(dtypes=("bf16",)),
        space(dtypes=("int8",)),
        space(dtypes=("fp32", "bf16")),
        space(engine="zeros"),
        space(engine="my_package.my_engine"),
    ]
    assert len(set(spaces)) == len(spaces)


def test_changed_weights_and_a_changed_vocabulary_give_another_space(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(TINY, copy)
    vocabulary = copy / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("hello", "jello"))
    renamed = space(folder=copy)
    (copy / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True, "strip_accents": False}))
    accents = space(folder=copy)
    data = next(copy.glob("*.data-*"))
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    assert len({space(), renamed, accents, space(folder=copy)}) == 4


def test_an_unusable_cache_does_not_change_the_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = space()
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("BERT_SERVING_CACHE", str(blocked / "cache"))
    assert space() == wanted


def test_the_space_of_options_depends_on_the_vectors_that_they_give() -> None:
    unit, plain = VectorSpaces("a", (Normalize(),), 32), VectorSpaces("a", (), 32)
    cut = VectorSpaces("a", (Truncate(8), Normalize()), 32)
    assert unit.of(VectorOptions(normalize=False)) == plain.default
    assert plain.of(VectorOptions(normalize=True)) == unit.default
    assert unit.of(VectorOptions(dimensions=8)) == cut.default == plain.of(VectorOptions(True, 8))
    assert VectorSpaces("a", (Normalize(), Truncate(8)), 32).default not in (cut.default, unit.default, plain.default)
    assert VectorSpaces("b", (), 32).default != plain.default
    assert np.unique([unit.default, plain.default, cut.default]).size == 3
