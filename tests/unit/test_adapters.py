"""Adapters: the weights of a merged model are those of the formula, and what is not merged is refused by name."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, merge, write_adapter
from family_models import ARCHITECTURES, write_vocabulary

from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.log import get_logger
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.digest import model_digest
from bert_serving.server.model.errors import ModelConfigError, ModelError, ModelNotFound, ModelUnsupported, WeightError
from bert_serving.server.model.merged_reader import MergedReader, open_checkpoint
from bert_serving.server.model.weights import check_weights, load_weights
from bert_serving.server.supervisor.description import describe_model
from bert_serving.server.worker.head_weights import load_head_weights, prepare_head_weights
from model_folders import TINY, hf_tensors, random_weights, write_hf

LOG = get_logger("TEST")
Tensors = dict[str, np.ndarray]
QUERY, DENSE = "encoder.layer.0.attention.self.query", "encoder.layer.1.output.dense"


@pytest.fixture
def tensors() -> Tensors:
    return hf_tensors(weights=random_weights())


@pytest.fixture
def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_hf(tmp_path / "base", tensors)


def shapes_of(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name.removesuffix(".weight"): value.shape for name, value in tensors.items() if name.endswith(".weight")}


def rows(tensors: Tensors, layer: str) -> int:
    return len(tensors[f"{layer}.weight"])


def assert_merged(folder: Path, expected: Tensors, **options: Any) -> None:
    """Compares the weights of an adapter with those of a folder with other tensors."""
    wanted = load_weights(load_model_config(write_hf(folder.parent / "expected", expected)))
    found = load_weights(load_model_config(folder, **options))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_allclose(found[name], weight, atol=1e-6, err_msg=name)
        assert found[name].flags.c_contiguous


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"lora_alpha": 3, "fan_in_fan_out": True}, (0.75, 0.75)),
        ({"use_rslora": True}, (8 / math.sqrt(4), 8 / math.sqrt(4))),
        ({"alpha_pattern": {"query": 2, "output.dense": 6}}, (0.5, 1.5)),
        ({"alpha_pattern": {r"layer\.1\..*": 6, "dense": 7}}, (2.0, 1.5)),
        ({"r": 2, "rank_pattern": {"query": 4, "output.dense": 4}}, (2.0, 2.0)),
        ({"r": 2, "use_rslora": True, "rank_pattern": {".*": 4}, "alpha_pattern": {"query": 1}}, (0.5, 4.0)),
        ({"target_modules": r".*\.(query|dense)", "exclude_modules": ["layer.0.output.dense"]}, (2.0, 2.0)),
    ],
)
def test_the_scale_follows_rank_alpha_and_patterns(
    base: Path, tensors: Tensors, config: dict[str, Any], scales: tuple[float, float]
) -> None:
    if isinstance(config.get("target_modules"), str):
        config = config | {"target_modules": rf"{QUERY}|{DENSE}".replace(".", r"\.")}
    expected = tensors
    both = {}
    for layer, scale in zip((QUERY, DENSE), scales, strict=True):
        adapter = factors(shapes_of(tensors), [layer])
        both |= adapter
        expected = merge(expected, adapter, scale)
    folder = write_adapter(base.parent / "adapter", both, base_model_name_or_path="../base", **config)
    assert_merged(folder, expected)


@pytest.mark.parametrize("of_base", ["", "bert."])
@pytest.mark.parametrize("of_adapter", ["", "bert.", "0.auto_model.", "0.model."])
def test_names_of_base_and_adapter_may_have_other_prefixes(tmp_path: Path, of_base: str, of_adapter: str) -> None:
    tensors = hf_tensors(of_base, weights=random_weights())
    base = write_hf(tmp_path / "base", tensors)
    adapter = factors(shapes_of(tensors), [f"{of_base}{QUERY}"])
    renamed = {of_adapter + name.removeprefix(of_base): value for name, value in adapter.items()}
    folder = write_adapter(tmp_path / "adapter", renamed, target_modules=["query"], layers_to_transform=0)
    assert_merged(folder, merge(tensors, adapter, 2.0), base=str(base))


def test_magnitudes_set_the_lengths_of_the_rows(base: Path, tensors: Tensors) -> None:
    adapter = factors(shapes_of(tensors), [QUERY])
    lengths = np.linspace(0.5, 2, rows(tensors, QUERY), dtype=np.float32)
    merged = merge(tensors, adapter, 2.0)
    weight = merged[f"{QUERY}.weight"]
    merged[f"{QUERY}.weight"] = weight / np.linalg.norm(weight, axis=1, keepdims=True) * lengths[:, None]
    for name in ("lora_magnitude_vector", "lora_magnitude_vector.weight"):
        folder = base.parent / name
        write_adapter(folder, adapter | {f"{QUERY}.{name}": lengths}, use_dora=True)
        assert_merged(folder, merged, base=str(base))


def test_tables_biases_and_saved_modules_are_merged(base: Path, tensors: Tensors) -> None:
    random = np.random.default_rng(1)
    words = "embeddings.word_embeddings"
    number, width = tensors[f"{words}.weight"].shape
    adapter = factors(shapes_of(tensors), [QUERY])
    adapter[f"{words}.lora_embedding_A"] = random.normal(size=(4, number)).astype(np.float32)
    adapter[f"{words}.lora_embedding_B"] = random.normal(size=(width, 4)).astype(np.float32)
    adapter[f"{QUERY}.lora_B.bias"] = random.normal(size=rows(tensors, QUERY)).astype(np.float32)
    adapter[f"{QUERY}.base_layer.bias"] = random.normal(size=rows(tensors, QUERY)).astype(np.float32)
    adapter[f"{DENSE}.bias"] = random.normal(size=rows(tensors, DENSE)).astype(np.float32)
    adapter["pooler.dense.weight"] = random.normal(size=tensors["pooler.dense.weight"].shape).astype(np.float32)
    merged = merge(tensors, adapter, 2.0)
    merged[f"{words}.weight"] = (
        tensors[f"{words}.weight"]
        + 2.0 * (adapter[f"{words}.lora_embedding_B"] @ adapter[f"{words}.lora_embedding_A"]).T
    )
    merged[f"{QUERY}.bias"] = adapter[f"{QUERY}.base_layer.bias"] + 2.0 * adapter[f"{QUERY}.lora_B.bias"]
    merged[f"{DENSE}.bias"] = adapter[f"{DENSE}.bias"]
    merged["pooler.dense.weight"] = adapter["pooler.dense.weight"]
    settings = {"bias": "all", "lora_bias": True, "modules_to_save": ["pooler"]}
    folder = write_adapter(base.parent / "adapter", adapter, base_model_name_or_path=str(base), **settings)
    assert_merged(folder, merged)
    check_weights(load_model_config(folder), 2, need_pooler=True)


def family_folder(folder: Path, family: str, tensors: Tensors, **config: Any) -> Path:
    """Writes a folder of another family with the given tensors."""
    values = dict(ARCHITECTURES[family][1]) | {"model_type": family, "architectures": ["Model"]} | config
    write_hf(folder, tensors)
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    (folder / "vocab.txt").unlink()
    write_vocabulary(folder)
    return folder


@pytest.mark.parametrize(
    ("family", "fused", "layer", "part"),
    [
        ("modernbert", "layers.0.attn.Wqkv", "layers.0.attn.Wqkv", None),
        ("gte", "encoder.layer.0.attention.qkv_proj", "layers.0.self_attn.k_proj", 1),
        ("nomic_bert", "encoder.layers.0.attn.Wqkv", "layers.0.self_attn.v_proj", 2),
    ],
)
def test_layers_of_a_fused_tensor_are_merged(
    tmp_path: Path, family: str, fused: str, layer: str, part: int | None
) -> None:
    weight = np.random.default_rng(0).normal(size=(96, 32)).astype(np.float32)
    name = {"modernbert": "embeddings.tok_embeddings"}.get(family, "embeddings.word_embeddings")
    base = family_folder(tmp_path / "base", family, {f"{fused}.weight": weight, f"{name}.weight": weight[:60]})
    shape = (96, 32) if part is None else (32, 32)
    adapter = factors({layer: shape}, [layer])
    folder = write_adapter(tmp_path / "adapter", adapter, target_modules="all-linear")
    delta = 2.0 * adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]
    first = 0 if part is None else 32 * part
    weight[first : first + len(delta)] += delta
    found = open_checkpoint(load_model_config(folder, base=str(base))).read(f"{fused}.weight")
    np.testing.assert_allclose(found, weight, atol=1e-6)


class _Tf1Reader:
    """A TF1 checkpoint in memory, whose kernels are ``[in, out]``."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def require_float(self, name: str) -> None:
        pass

    def read(self, name: str) -> np.ndarray:
        return self._tensors[name]


def test_kernels_of_a_google_checkpoint_are_merged_transposed(tmp_path: Path, tensors: Tensors) -> None:
    canonical = random_weights()
    adapter = factors(shapes_of(tensors), [QUERY, "encoder.layer.0.intermediate.dense"])
    folder = write_adapter(tmp_path / "adapter", adapter)
    model = load_model_config(folder, base=str(TINY))
    assert model.checkpoint_format == "tf1"
    assert model.adapter is not None
    reader = MergedReader(
        _Tf1Reader({f"bert/{name}": value for name, value in canonical.items()}), model, model.adapter
    )
    for layer in (QUERY, "encoder.layer.0.intermediate.dense"):
        name = layer.replace("layer.0", "layer_0").replace(".", "/") + "/kernel"
        delta = 2.0 * (adapter[f"{layer}.lora_B.weight"] @ adapter[f"{layer}.lora_A.weight"]).T
        np.testing.assert_allclose(reader.read(f"bert/{name}"), canonical[name] + delta, atol=1e-6)
    assert set(reader.names()) == {f"bert/{name}" for name in canonical}


NAN = np.full((4, 1), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({f"{QUERY}.lora_C.weight": NAN}, {}, f"has the tensor base_model.model.{QUERY}.lora_C.weight, but"),
        ({"prompt_embeddings": NAN}, {}, "has the tensor base_model.model.prompt_embeddings, but"),
        ({"classifier.weight": NAN}, {}, "classifier.weight, and modules_to_save does not name it"),
        ({f"{QUERY}.lora_B.weight": None}, {}, f"has no lora_B.weight of {QUERY}; copy the file again"),
        ({f"{QUERY}.lora_A.weight": None}, {}, f"has no lora_A.weight of {QUERY}; copy the file again"),
        ({f"{QUERY}.lora_A.weight": NAN}, {}, "does not fit encoder.layer.0.attention.self.query.weight of"),
        ({f"{QUERY}.lora_A.weight": "nan"}, {}, f"{QUERY}.lora_A.weight holds a value that is not finite"),
        ({f"{QUERY}.lora_A.weight": "int"}, {}, "is stored as I64: quantized weights are not supported"),
        ({f"0.{QUERY}.lora_A.weight": "A", f"0.{QUERY}.lora_B.weight": "B"}, {}, "both change encoder.layer.0"),
        ({}, {"r": 2}, "have the ranks 4 and 4, but .* sets 2"),
        ({}, {"use_dora": True}, f"{QUERY} has no lora_magnitude_vector, but use_dora is true"),
        ({f"{QUERY}.lora_magnitude_vector": NAN[:, 0]}, {}, "has a lora_magnitude_vector, but use_dora is false"),
        ({}, {"target_modules": ["value"]}, f"has weights of {QUERY}, which target_modules of .* does not name"),
        ({}, {"exclude_modules": ".*query"}, f"has weights of {QUERY}, which target_modules of .* does not name"),
        ({}, {"target_modules": ["query"]}, "no weights of encoder.layer.1.attention.self.query, which target_modules"),
        ({f"{QUERY}.bias": np.array(np.nan)}, {}, "does not fit encoder.layer.0.attention.self.query.bias of"),
        ({f"{QUERY}.bias": NAN[:, 0]}, {}, "does not fit encoder.layer.0.attention.self.query.bias of"),
    ],
)  # fmt: skip
def test_every_tensor_of_the_adapter_is_merged_or_named(
    base: Path, tensors: Tensors, change: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    adapter = factors(shapes_of(tensors), [QUERY])
    a, b = adapter[f"{QUERY}.lora_A.weight"], adapter[f"{QUERY}.lora_B.weight"]
    values = {"nan": a * np.nan, "int": a.astype(np.int64), "A": a, "B": b}
    for name, value in change.items():
        adapter.pop(name, None)
        if value is not None:
            adapter[name] = values[value] if isinstance(value, str) else value
    folder = write_adapter(base.parent / "adapter", adapter, **({"target_modules": [QUERY]} | config))
    if any(isinstance(value, str) and value in "AB" for value in change.values()):
        write_adapter(folder, adapter, target_modules=["query"], layers_to_transform=[0])
    with pytest.raises(WeightError, match=message):
        load_weights(load_model_config(folder, base=str(base)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not merged by this server, LORA is"),
        ({"peft_type": "PROMPT_TUNING"}, "peft_type 'PROMPT_TUNING' is not merged"),
        ({"peft_type": None}, "peft_type None is not merged"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights 'pissa_niter_4' changed the weights of the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights 'olora' changed"),
        ({"init_lora_weights": ["x"]}, r"init_lora_weights \"\['x'\]\" changed"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication .* is not honoured by this server"),
        ({"trainable_token_indices": [3]}, r"trainable_token_indices \[3\] is not honoured"),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens"),
        ({"target_parameters": ["weight"]}, "target_parameters"),
        ({"a_setting_of_tomorrow": 1}, "a_setting_of_tomorrow 1 is not honoured"),
    ],
)
def test_other_adapters_are_refused_by_name(base: Path, config: dict[str, Any], message: str) -> None:
    folder = write_adapter(base.parent / "adapter", {"x": NAN}, **config)
    with pytest.raises(ModelUnsupported, match=f"{folder}/adapter_config.json: {message}.*merge_and_unload"):
        load_model_config(folder, base=str(base))


@pytest.mark.parametrize(
    "config",
    [
        {"r": 0}, {"r": "8"}, {"lora_alpha": -1}, {"lora_alpha": "x"}, {"rank_pattern": [1]},
        {"alpha_pattern": {"(": 1}},
        {"alpha_pattern": {"query": None}}, {"target_modules": 3}, {"target_modules": [3]}, {"target_modules": "("},
        {"layers_to_transform": ["x"]}, {"modules_to_save": ["("]}, {"use_rslora": "yes"}, {"layers_pattern": 2},
        {"base_model_name_or_path": 3},
    ],
)  # fmt: skip
def test_settings_that_are_not_valid_are_named(tmp_path: Path, base: Path, config: dict[str, Any]) -> None:
    folder = write_adapter(tmp_path / "adapter", {"x": NAN}, **({"target_modules": ["query"]} | config))
    options = {} if "base_model_name_or_path" in config else {"base": str(base)}
    with pytest.raises(ModelConfigError, match=f"adapter_config.json: {next(iter(config))} "):
        load_model_config(folder, **options)


def test_the_base_is_the_option_or_what_the_adapter_names_or_beside_it(tmp_path: Path, tensors: Tensors) -> None:
    adapter = factors(shapes_of(tensors), [QUERY])
    base, other = write_hf(tmp_path / "base", tensors), write_hf(tmp_path / "other", tensors)
    folder = tmp_path / "adapter"
    for named in (str(base), "../base"):
        write_adapter(folder, adapter, base_model_name_or_path=named)
        assert Path(load_model_config(folder).checkpoint).resolve() == base / "model.safetensors"
    model = load_model_config(folder, base=str(other))  # what the user names wins
    assert model.checkpoint == str(other / "model.safetensors")
    assert model.vocab_path == str(other / "vocab.txt")
    shutil.copy(base / "vocab.txt", folder)
    assert load_model_config(folder).vocab_path == str(folder / "vocab.txt")
    write_adapter(other, adapter, base_model_name_or_path="organization/name")
    assert load_model_config(other).checkpoint == str(other / "model.safetensors")


def test_errors_name_what_was_looked_for(tmp_path: Path, base: Path, tensors: Tensors) -> None:
    adapter = factors(shapes_of(tensors), [QUERY])
    folder = write_adapter(tmp_path / "adapter", adapter, base_model_name_or_path="BAAI/bge-small-en")
    with pytest.raises(
        ModelNotFound, match=r"'BAAI/bge-small-en' of .* is no folder.*hf download BAAI/.*add -base FOLDER"
    ):
        load_model_config(folder)
    with pytest.raises(ModelNotFound, match=r"-base: the folder .* does not exist"):
        load_model_config(folder, base=str(tmp_path / "missing"))
    with pytest.raises(
        ModelUnsupported, match=f"-base {base} is for an adapter, but {base} has no adapter_config.json"
    ):
        load_model_config(base, base=str(base))
    with pytest.raises(ModelUnsupported, match=r"-tuned_model_dir .* and the adapter .* both change the weights"):
        load_model_config(folder, base=str(base), tuned_model_dir=base)
    with pytest.raises(ModelUnsupported, match=f"set -model_dir {folder} -base {base}"):
        load_model_config(base, tuned_model_dir=folder)
    with pytest.raises(ModelNotFound, match=f"-base {folder}/. is the adapter itself, .*: set -base to the folder"):
        load_model_config(folder, base=f"{folder}/.")
    nested = write_adapter(tmp_path / "nested", adapter, base_model_name_or_path=str(folder))
    with pytest.raises(ModelUnsupported, match=f"{folder}, the base model of the adapter {nested}, has an adapter"):
        load_model_config(nested)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"but no adapter_model.safetensors and no adapter_model.bin"):
        load_model_config(folder, base=str(base))


def test_the_digest_is_that_of_adapter_and_base_wherever_they_are(tmp_path: Path, tensors: Tensors) -> None:
    adapter = factors(shapes_of(tensors), [QUERY])
    base = write_hf(tmp_path / "base", tensors)
    other = write_hf(tmp_path / "other", tensors | {"pooler.dense.bias": tensors["pooler.dense.bias"] + 1})

    def digest(name: str, adapter: Tensors, base: Path, **config: Any) -> str:
        model = load_model_config(write_adapter(tmp_path / name, adapter, **config), base=str(base))
        assert ModelConfig.from_dict(json.loads(json.dumps(asdict(model)))) == model
        found = Cache(tmp_path / "cache").model_digest(model)
        assert found == model_digest(model, None)
        return found

    first = digest("a", adapter, base)
    assert (
        digest("b", adapter, base, revision="main", base_model_name_or_path="x/y", target_modules=[DENSE, QUERY])
        == first
    )
    others = [
        Cache(tmp_path / "cache").model_digest(load_model_config(base)),
        digest("a", factors(shapes_of(tensors), [QUERY], seed=1), base),
        digest("a", adapter, base, lora_alpha=9),
        digest("a", adapter, base, use_rslora=True),
        digest("a", adapter, other),
    ]
    assert len({first, *others}) == 6


def test_modules_and_prompts_are_those_of_the_base_unless_the_adapter_has_its_own(base: Path, tensors: Tensors) -> None:
    for path, content in {
        "modules.json": [{"type": f"sentence_transformers.models.{kind}", "path": name} for kind, name in
                         (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))],
        "1_Pooling/config.json": {"pooling_mode": "cls"},
        "config_sentence_transformers.json": {"prompts": {"query": "ask "}},
    }.items():  # fmt: skip
        (base / path).parent.mkdir(exist_ok=True)
        (base / path).write_text(json.dumps(content))
    folder = write_adapter(base.parent / "adapter", factors(shapes_of(tensors), [QUERY]))
    options = {"model_dir": str(folder), "base": str(base)}
    config, model = apply_model_folder(ServerConfig.from_dict(options), LOG)
    assert config.pipeline is not None
    assert (config.pooling_strategy.name, config.pipeline.is_normalized) == ("CLS_TOKEN", True)
    assert config.pipeline.prompts == {"query": "ask "}
    assert model.adapter is not None
    shutil.copytree(base / "1_Pooling", folder / "1_Pooling")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "max"}')
    shutil.copy(base / "modules.json", folder)
    config, model = apply_model_folder(ServerConfig.from_dict(options), LOG)
    assert config.pipeline is not None
    assert (config.pooling_strategy.name, config.pipeline.prompts) == ("REDUCE_MAX", {})
    assert (model.config_path, model.adapter is not None) == (str(base / "config.json"), True)


def test_another_base_than_the_adapter_names_is_a_warning(
    base: Path, tensors: Tensors, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, other = factors(shapes_of(tensors), [QUERY]), write_hf(base.parent / "other", tensors)
    for named, is_warned in ((str(other), True), ("../other", True), (str(base), False), ("organization/name", False)):
        folder = write_adapter(base.parent / "adapter", adapter, base_model_name_or_path=named)
        caplog.clear()
        config = ServerConfig.from_dict({"model_dir": str(folder), "base": str(base)})
        config, model = apply_model_folder(config, LOG)
        warning = f"-base {base} is set; the adapter {folder} names {other} as its base model"
        assert (warning in caplog.messages) == is_warned
        assert f"base model: {base}, a Hugging Face folder" in describe_model(config, model)["model"]


def test_an_adapter_brings_its_classifier(base: Path, tensors: Tensors, tmp_path: Path) -> None:
    hidden = len(tensors["pooler.dense.bias"])
    adapter = factors(shapes_of(tensors), [QUERY, "pooler.dense"])
    random = np.random.default_rng(3)
    head = {"classifier.weight": random.normal(size=(3, hidden)), "classifier.bias": random.normal(size=3)}
    head = {name: value.astype(np.float32) for name, value in head.items()}
    settings = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    folder = write_adapter(tmp_path / "adapter", adapter | head, **settings)
    options = {"model_dir": str(folder), "base": str(base), "task": "classify"}
    config, model = apply_model_folder(ServerConfig.from_dict(options), LOG)
    assert config.pipeline is not None
    assert config.pipeline.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    cache = Cache(tmp_path / "cache")

    def prepared() -> Tensors:
        return dict(load_head_weights(str(prepare_head_weights(config.pipeline, hidden, cache, model))))

    weights = prepared()
    np.testing.assert_array_equal(weights["1/weight"], head["classifier.weight"])
    merged = merge(tensors, adapter, 2.0)["pooler.dense.weight"]
    np.testing.assert_allclose(weights["0/weight"], merged, atol=1e-6)
    write_adapter(folder, adapter | head | {"classifier.bias": head["classifier.bias"] + 1}, **settings)
    np.testing.assert_allclose(prepared()["1/bias"], head["classifier.bias"] + 1)
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    config, _ = apply_model_folder(ServerConfig.from_dict(options), LOG)
    assert config.pipeline is not None
    assert config.pipeline.labels == ("a", "b", "c")
    cut = tensors | {name: value[:2] for name, value in head.items()}  # a base with another number of labels
    write_hf(base, cut)
    np.testing.assert_array_equal(prepared()["1/weight"], head["classifier.weight"])
    write_adapter(folder, adapter)
    (folder / "config.json").unlink()
    write_hf(base, tensors)
    with pytest.raises(ModelError, match=r"has no tensor classifier.weight|needs a model of a class"):
        config, model = apply_model_folder(ServerConfig.from_dict(options), LOG)
        prepare_head_weights(config.pipeline, hidden, cache, model)  # type: ignore[arg-type]
