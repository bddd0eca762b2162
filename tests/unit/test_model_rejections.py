"""Tests that folders whose vectors would be wrong are rejected by name and with a remedy."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import write_adapter
from safetensors.numpy import save_file

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.errors import ModelError, ModelNotFound, ModelUnsupported, WeightError
from bert_serving.server.model.weights import load_weights
from model_folders import TINY, hf_tensors, write_hf


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantization_config \(gptq\).*-dtype int8"),
        ({"compression_config": {"format": "int"}}, r"compression_config \(unknown\)"),
        ({"auto_map": {"AutoModel": "modeling.Custom"}}, "auto_map names code of the model's own"),
    ],
    ids=["quantized", "compressed", "code"],
)
def test_configuration_is_rejected(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    write_hf(tmp_path, hf_tensors())
    change_config(tmp_path, **values)
    with pytest.raises(ModelUnsupported, match=message):
        load_model_config(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "encoder.layer.0.attention.self.q_norm.weight",
        "encoder.layer.1.output.adapter.down.weight",
        "encoder.layer.0.attention.self.query.SCB",
        "encoder.layer.0.attention.self.query.lora_A.default.weight",
        "encoder.final_norm.weight",
        "embeddings.projection.weight",
        "embeddings.word_embeddings.weight_scale",
    ],
)
def test_unknown_tensor_inside_a_layer_is_rejected(tmp_path: Path, name: str) -> None:
    write_hf(tmp_path, hf_tensors() | {name: np.ones(4, np.float32)})
    with pytest.raises(WeightError, match=f"1 tensors in its layers that the server does not know, such as {name}"):
        load_weights(load_model_config(tmp_path))


def test_heads_and_other_tensors_outside_the_layers_are_ignored(tmp_path: Path) -> None:
    extra = {"classifier.weight": np.ones((2, 4), np.float32), "embeddings.position_ids": np.arange(4)[None],
             "embeddings.token_type_ids": np.zeros((1, 4), np.int64)}  # fmt: skip
    write_hf(tmp_path, hf_tensors() | extra)
    assert load_weights(load_model_config(tmp_path))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_integer_weights_are_rejected(tmp_path: Path, dtype: Any) -> None:
    tensors = hf_tensors()
    name = "encoder.layer.0.output.dense.weight"
    write_hf(tmp_path, tensors)
    save_file(tensors | {name: tensors[name].astype(dtype)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(WeightError, match=rf"{name} .* quantized weights are not supported"):
        load_weights(load_model_config(tmp_path))


def test_integer_weights_of_a_tf1_checkpoint_are_rejected(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    reader = tf.train.load_checkpoint(str(TINY / "bert_model.ckpt"))
    tensors = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    name = "bert/encoder/layer_0/output/dense/kernel"
    tensors[name] = (20 * tensors[name]).astype(np.int8)
    for file in tmp_path.glob("bert_model.ckpt*"):
        file.unlink()
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "bert_model.ckpt"),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    with pytest.raises(WeightError, match=rf"{name} of .* is stored as int8: quantized weights are not supported"):
        load_weights(load_model_config(tmp_path))


@pytest.mark.parametrize(
    ("architectures", "head"),
    [
        (["BertForSequenceClassification"], "BertForSequenceClassification"),
        (["BertLMHeadModel"], "BertLMHeadModel"),
        (["MyCrossEncoder"], "MyCrossEncoder"),
        (["BertModel"], None),
        (None, None),
    ],
)
def test_head_class_is_known(tmp_path: Path, architectures: list[str] | None, head: str | None) -> None:
    write_hf(tmp_path, hf_tensors())
    change_config(tmp_path, architectures=architectures)
    assert load_model_config(tmp_path).head_class == head


@pytest.mark.parametrize("values", [{"architectures": ["RobertaModel"]}, {"type_vocab_size": 1}])
def test_a_configuration_without_model_type_must_be_that_of_bert(tmp_path: Path, values: dict[str, Any]) -> None:
    write_hf(tmp_path, hf_tensors())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model_config(tmp_path).family == "bert"
    (tmp_path / "config.json").write_text(json.dumps(config | values))
    with pytest.raises(ModelUnsupported, match=r"model_type is missing, and the model .* is not BERT"):
        load_model_config(tmp_path)


def test_the_configuration_is_that_of_the_weights(tmp_path: Path) -> None:
    write_hf(tmp_path, hf_tensors())
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "bert_config.json").write_text(json.dumps(values | {"hidden_act": "relu"}))
    assert load_model_config(tmp_path).config_path == str(tmp_path / "config.json")
    for path in TINY.glob("bert_model.ckpt*"):
        shutil.copy(path, tmp_path)
    assert load_model_config(tmp_path).config_path == str(tmp_path / "bert_config.json")


def test_hub_name_is_explained() -> None:
    with pytest.raises(ModelNotFound, match=r"looks like a name on the .* hub.*hf download BAAI/bge-small-en"):
        load_model_config("BAAI/bge-small-en")


def test_root_of_a_hub_cache_names_the_snapshot(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--BAAI--bge-small-en" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    with pytest.raises(ModelNotFound, match=f"use -model_dir {snapshot}"):
        load_model_config(tmp_path / "models--BAAI--bge-small-en")


def torch_folder(folder: Path, content: Any, **settings: Any) -> Path:
    torch = pytest.importorskip("torch")
    write_hf(folder, hf_tensors())
    (folder / "model.safetensors").unlink()
    torch.save(content(torch), folder / "pytorch_model.bin", **settings)
    return folder


def tensors_of(torch: Any) -> dict[str, Any]:
    return {name: torch.from_numpy(value) for name, value in hf_tensors().items()}


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (tensors_of, {"_use_new_zipfile_serialization": False}),
        (lambda torch: {"model_state_dict": tensors_of(torch), "epoch": 3}, {}),
        (lambda torch: {"state_dict": tensors_of(torch)}, {}),
    ],
    ids=["before 1.6", "training loop", "lightning"],
)
def test_forms_of_pytorch_files_are_read(tmp_path: Path, content: Any, settings: dict[str, Any]) -> None:
    weights = load_weights(load_model_config(torch_folder(tmp_path, content, **settings)))
    expected = load_weights(load_model_config(TINY))
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight)


def test_adapters_in_pytorch_files_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensors, name = hf_tensors(), "encoder.layer.0.attention.self.query.weight"
    base = write_hf(tmp_path / "base", tensors)
    a, b = (torch.full(shape, 0.5) for shape in ((4, tensors[name].shape[1]), (len(tensors[name]), 4)))
    folder = write_adapter(tmp_path / "adapter", {}, target_modules=None)
    (folder / "adapter_model.safetensors").unlink()
    layer = f"base_model.model.{name.removesuffix('.weight')}"
    torch.save({f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}, folder / "adapter_model.bin")
    found = load_weights(load_model_config(folder, base=str(base)))
    expected = load_weights(load_model_config(base))["encoder/layer_0/attention/self/query/kernel"] + 2.0
    np.testing.assert_allclose(found["encoder/layer_0/attention/self/query/kernel"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda torch: torch.nn.Linear(2, 2), r"contains torch.nn.modules.linear.Linear.*state_dict"),
        (lambda torch: torch.ones(3), "contains a Tensor, not tensors by name"),
    ],
    ids=["whole model", "one tensor"],
)
def test_other_contents_of_pytorch_files_are_rejected(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(WeightError, match=message):
        load_weights(load_model_config(torch_folder(tmp_path, content)))


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    marker = tmp_path / "ran"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    write_hf(tmp_path, hf_tensors())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Attack()}))
    with pytest.raises(ModelError):
        load_weights(load_model_config(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack"])
def test_weights_of_other_libraries_are_rejected_with_the_command_that_converts_them(tmp_path: Path, name: str) -> None:
    write_hf(tmp_path)
    (tmp_path / name).write_bytes(b"weights")
    with pytest.raises(WeightError, match=rf"{name} is of a format that this server does not read.*from_pretrained"):
        load_model_config(tmp_path)


@pytest.mark.parametrize("content", [b"<html>", b"junk", b""])
def test_a_file_that_is_not_of_pytorch_is_rejected_in_one_line(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("torch")
    write_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(WeightError, match=r"^[^\n]*is not a file of PyTorch; copy or download it again$"):
        load_weights(load_model_config(tmp_path))


def test_a_damaged_pickle_is_rejected_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02<")
    with pytest.raises(WeightError, match=r"^cannot read [^\n]*; copy or download it again$"):
        load_weights(load_model_config(tmp_path))


@pytest.mark.parametrize("kind", ["objects", "V1"])
def test_checkpoints_of_tensorflow_without_the_names_of_bert_are_rejected(tmp_path: Path, kind: str) -> None:
    tf = pytest.importorskip("tensorflow")
    for name in ("bert_config.json", "vocab.txt"):
        shutil.copy(TINY / name, tmp_path)
    prefix = str(tmp_path / "bert_model.ckpt")
    if kind == "objects":
        tf.train.Checkpoint(model=tf.Variable([1.0])).write(prefix)
    else:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            variable = tf.compat.v1.get_variable("bert/embeddings/word_embeddings", [3, 2])
            session.run(variable.initializer)
            saver = tf.compat.v1.train.Saver(write_version=tf.compat.v1.train.SaverDef.V1)
            saver.save(session, prefix, write_meta_graph=False)
    expected = {"objects": "an object-based checkpoint of TensorFlow 2", "V1": "TensorFlow's old format V1"}[kind]
    with pytest.raises(WeightError, match=f"{expected}.*tf.compat.v1.train.Saver"):
        load_weights(load_model_config(tmp_path))
