"""Adapters that no training writes: each is refused with a message that names the value, in bounded time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, write_adapter

from bert_serving.server.model import adapter_patterns
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.errors import ModelConfigError, ModelNotFound, WeightError
from bert_serving.server.model.weights import load_weights
from model_folders import hf_tensors, random_weights, write_hf

QUERY, WORDS = "encoder.layer.0.attention.self.query", "embeddings.word_embeddings"
TENSORS = hf_tensors(weights=random_weights())
SHAPES = {name.removesuffix(".weight"): value.shape for name, value in TENSORS.items() if name.endswith(".weight")}
#: An expression that takes twice the time for each further character.
SLOW = "(.*)*[0-9a-z.]*(.*)*!"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hf(tmp_path_factory.mktemp("model") / "base", TENSORS)


def load(folder: Path, base: Path, tensors: dict[str, np.ndarray], **config: Any) -> dict[str, np.ndarray]:
    adapter = factors(SHAPES, [QUERY]) | tensors
    write_adapter(folder, adapter, **({"target_modules": [QUERY]} | config))
    return load_weights(load_model_config(folder, base=str(base)))


@pytest.mark.parametrize(
    "config",
    [
        {"rank_pattern": {"query": 0.5}},
        {"rank_pattern": {"query": 4.7}},
        {"lora_alpha": 10**400},
        {"alpha_pattern": {"query": 10**400}},
        {"target_modules": "a{99999999999}"},
        {"target_modules": "(" * 2000 + ")" * 2000},
        {"modules_to_save": ["(?i)query"]},
        {"modules_to_save": ["a)(b"]},
        {"layers_pattern": "(?i)layer"},
        {"rank_pattern": {"(?i)query": 4}},
        {"alpha_pattern": {"query)|(": 4}},
    ],
)
def test_settings_that_fit_no_place_are_named(tmp_path: Path, base: Path, config: dict[str, Any]) -> None:
    if config == {"alpha_pattern": {"query)|(": 4}}:  # valid in its place, and in that of PEFT
        load(tmp_path, base, {}, **config)
        return
    with pytest.raises(ModelConfigError, match=f"adapter_config.json: {next(iter(config))} "):
        load(tmp_path, base, {}, **config)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": SLOW},
        {"exclude_modules": SLOW},
        {"rank_pattern": {SLOW: 4}},
        {"alpha_pattern": {SLOW: 4}},
        {"modules_to_save": [SLOW]},
        {"layers_pattern": [SLOW], "layers_to_transform": [0], "target_modules": ["query"]},
    ],
)
def test_expressions_without_an_end_are_refused(
    tmp_path: Path, base: Path, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_patterns, "SECONDS", 0.2)
    with pytest.raises(ModelConfigError, match=r"the regular expressions .* take more than 0.2 s .* list the names"):
        load(tmp_path, base, {}, **config)


@pytest.mark.parametrize("number", ["1" * 5000, "\u0661"])
def test_numbers_of_layers_of_any_length_are_read(tmp_path: Path, base: Path, number: str) -> None:
    layer = f"layer.{number}.query"
    tensors = {f"{layer}.lora_A.weight": np.ones((4, 4), np.float32)}
    with pytest.raises(WeightError, match=r"has no lora_B.weight|which target_modules of .* does not name"):
        load(tmp_path, base, tensors, layers_to_transform=[0], target_modules=["query"])


def test_a_group_in_the_name_before_the_number_of_a_layer(tmp_path: Path, base: Path) -> None:
    settings = {"layers_pattern": "(layer|block)", "layers_to_transform": [0], "target_modules": ["query"]}
    assert load(tmp_path, base, {}, **settings).keys() == load(tmp_path, base, {}).keys()


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            {f"{QUERY}.lora_magnitude_vector": np.ones(1, np.float32)},
            {"use_dora": True},
            "does not fit .*lora_B.weight",
        ),
        (
            {f"{QUERY}.lora_magnitude_vector": np.ones(7, np.float32)},
            {"use_dora": True},
            "does not fit .*lora_B.weight",
        ),
        ({f"{QUERY}.lora_B.bias": np.ones(1, np.float32)}, {}, "does not fit .*lora_B.weight"),
        ({f"{QUERY}.lora_B.bias": np.ones((), np.float32)}, {}, "does not fit .*lora_B.weight"),
        ({f"{QUERY}.lora_embedding_A": np.ones((4, 32), np.float32)}, {}, "has no lora_embedding_B"),
        ({f"{QUERY}.lora_embedding_{part}": np.ones((4, 4), np.float32) for part in "AB"}, {}, "which has one kind"),
        ({}, {"lora_alpha": 1e308}, r"query.weight of .* is not finite with .* and the scale 2.5e\+307"),
        ({f"{QUERY}.lora_A.weight": np.full((4, 32), 1e30, np.float32)}, {"lora_alpha": 1e30}, "is not finite with"),
    ],
)
def test_tensors_of_other_shapes_and_huge_scales_are_named(
    tmp_path: Path, base: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], message: str
) -> None:
    """One value would count for all outputs, and an infinite weight would be named as one of the base model."""
    with pytest.raises(WeightError, match=message):
        load(tmp_path, base, tensors, **config)


def test_two_tensors_with_one_meaning_are_named(tmp_path: Path, base: Path) -> None:
    from safetensors.numpy import load_file, save_file

    load(tmp_path, base, {})
    file = tmp_path / "adapter_model.safetensors"
    a = f"{QUERY}.lora_A.weight"
    save_file(load_file(file) | {a: np.ones((4, 32), np.float32)}, file)
    with pytest.raises(WeightError, match=f"has two tensors for lora_A.weight of {QUERY}"):
        load_weights(load_model_config(tmp_path, base=str(base)))


@pytest.mark.parametrize("named", ["n" * 5000, "\ud800", "\0", "../" * 3000, "adapter_config.json"])
def test_names_that_are_no_folder_are_no_base_model(tmp_path: Path, named: str) -> None:
    write_adapter(tmp_path, factors(SHAPES, [QUERY]), base_model_name_or_path=named)
    with pytest.raises(ModelNotFound, match="is an adapter without its base model"):
        load_model_config(tmp_path)


def test_an_adapter_beside_its_model_may_be_named_through_a_link(tmp_path: Path) -> None:
    """PEFT writes the path of the model; the adapter is no second one below it."""
    folder = write_hf(tmp_path / "folder", TENSORS)
    write_adapter(folder, factors(SHAPES, [QUERY]), base_model_name_or_path=str(folder), target_modules=[QUERY])
    (tmp_path / "link").symlink_to(folder)
    for path, base in ((tmp_path / "link", None), (tmp_path / "link", str(folder)), (folder, str(tmp_path / "link"))):
        assert load_model_config(path, base=base).adapter is not None


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -100])
def test_a_file_that_ends_early_is_named(tmp_path: Path, base: Path, size: int) -> None:
    load(tmp_path, base, {})
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(WeightError, match=f"cannot read {file}"):
        load_weights(load_model_config(tmp_path, base=str(base)))


@pytest.mark.parametrize("header", [2**63, 10**9, 3])
def test_a_header_of_any_length_is_named(tmp_path: Path, base: Path, header: int) -> None:
    load(tmp_path, base, {})
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(header.to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(WeightError, match=f"cannot read {file}"):
        load_weights(load_model_config(tmp_path, base=str(base)))


def test_a_configuration_of_any_depth_is_named(tmp_path: Path, base: Path) -> None:
    load(tmp_path, base, {})
    for text in ('{"a":' * 100_000, "[]", json.dumps({"peft_type": "LORA", "r": 1})[:-1], "\xff"):
        (tmp_path / "adapter_config.json").write_text(text, "latin-1")
        with pytest.raises(ModelConfigError, match=r"adapter_config\.json"):
            load_model_config(tmp_path, base=str(base))
