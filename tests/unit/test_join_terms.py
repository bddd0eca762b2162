"""Tests that a machine with the same model folder, and the options of the front, offers the terms of the front."""

from __future__ import annotations

from typing import Any

import pytest

from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device
from bert_serving.server.errors import ConfigError
from bert_serving.server.ipc import joining
from bert_serving.server.ipc.joining import FrontTerms, Terms
from bert_serving.server.log import get_logger
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.supervisor import terms
from bert_serving.server.supervisor.placement import WorkerPlacement
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.supervisor.terms import front_terms, machine_config, make_terms, model_terms
from bert_serving.server.supervisor.vector_space import vector_digest
from servers import CACHE, TINY

LOG = get_logger("TEST")


def terms_of(config: ServerConfig, placements: list[WorkerPlacement]) -> tuple[ServerConfig, Terms, FrontTerms | None]:
    config, model = read_model(config, LOG)
    config = config.with_(vector_digest=vector_digest(config, model, placements))
    digest = Cache(CACHE).model_digest(model)
    front = None if config.join_port is None else front_terms(config, model_terms(config, model, digest, placements))
    return config, make_terms(config, model, digest, placements), front


def placement(engine: str = "onnx", dtype: str = "fp32") -> list[WorkerPlacement]:
    return [WorkerPlacement(Device(), engine, dtype)]


OPTIONS: list[dict[str, Any]] = [
    {},
    {"pooling_strategy": "CLS_TOKEN", "pooling_layer": [-1, -2], "max_seq_len": None, "mask_cls_sep": True},
    {"pooling_strategy": "NONE", "do_lower_case": False, "no_position_embeddings": True},
    {"normalize": "on", "dimensions": 8, "fp16": True},
    {"pooling_strategy": "WEIGHTED_MEAN", "no_special_token": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("has_workers", [True, False])
@pytest.mark.parametrize("model_dir", [str(TINY), default_model_dir()], ids=["tiny", "default"])
def test_a_machine_with_the_same_folder_offers_the_terms_of_the_front(
    options: dict[str, Any], has_workers: bool, model_dir: str | None
) -> None:
    if model_dir is None:
        pytest.skip("the default model is not installed")
    common = {"graph_tmp_dir": CACHE, "join_port": 6000, "num_worker": int(has_workers)}
    config = ServerConfig.from_dict({"model_dir": model_dir, **common, **options})
    config, wanted, front = terms_of(config, placement() if has_workers else [])
    assert front is not None
    told = joining.decode(joining.encode(front), type=FrontTerms)
    own = ServerConfig.from_dict({"model_dir": model_dir, "graph_tmp_dir": CACHE})
    found, offered, _ = terms_of(machine_config(own, told), placement(dtype=told.options["dtype"]))
    assert joining.refusal(wanted, offered) == ""
    assert found.max_seq_len == config.max_seq_len
    assert found.join_port is None


def test_a_machine_takes_a_custom_engine_of_the_front_unless_it_has_its_own() -> None:
    config = ServerConfig.from_dict(
        {"model_dir": str(TINY), "graph_tmp_dir": CACHE, "join_port": 6000, "engine": "my.engine"}
    )
    _, wanted, front = terms_of(config, placement("my.engine"))
    assert front is not None
    own: dict[str, Any] = {"model_dir": str(TINY), "graph_tmp_dir": CACHE}
    assert machine_config(ServerConfig.from_dict(own), front).engine == "my.engine"
    other = machine_config(ServerConfig.from_dict({**own, "engine": "onnx"}), front)
    assert other.engine == "onnx"
    _, offered, _ = terms_of(other, placement("onnx"))
    assert "of the space" in joining.refusal(wanted, offered)


def test_other_precisions_are_named() -> None:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "graph_tmp_dir": CACHE, "join_port": 6000})
    _, wanted, front = terms_of(config, placement())
    assert front is not None
    machine = machine_config(ServerConfig.from_dict({"model_dir": str(TINY), "graph_tmp_dir": CACHE}), front)
    _, offered, _ = terms_of(machine, placement(dtype="int8"))
    assert "this machine computes in int8, the front in fp32" in joining.refusal(wanted, offered)


def test_with_deterministic_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, Any] = {"model_dir": str(TINY), "graph_tmp_dir": CACHE}
    _, wanted, front = terms_of(ServerConfig.from_dict({**own, "join_port": 6000, "deterministic": True}), placement())
    assert front is not None
    machine = machine_config(ServerConfig.from_dict(own), front)
    assert machine.deterministic
    assert joining.refusal(wanted, terms_of(machine, placement())[1]) == ""
    monkeypatch.setattr(terms, "describe_processor", lambda: "Other Processor")
    refusal = joining.refusal(wanted, terms_of(machine, placement())[1])
    assert "it has Other Processor" in refusal
    assert f"the front {wanted.bits}" in refusal
    assert "numpy" in wanted.bits
    _, without, _ = terms_of(ServerConfig.from_dict(own), placement())
    assert without.bits == ""
    assert without.vector_space == wanted.vector_space


@pytest.mark.parametrize("option", ["new_option", "model_dir", "worker_timeout"])
def test_a_front_sets_no_options_that_are_of_the_machine_or_unknown(option: str) -> None:
    front = FrontTerms(Terms(1, "9.9.9", "model", "space", ["fp32"]), {option: "x"}, 5558, 10.0)
    with pytest.raises(ConfigError, match=f"(?s)version 9.9.9.*{option}"):
        machine_config(ServerConfig(model_dir="mine"), front)
