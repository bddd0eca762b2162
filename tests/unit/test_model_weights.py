"""Tests that checkpoints of all formats load as the same canonical weights, or raise an error that names the tensor."""

from __future__ import annotations

import json
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.errors import ReaderMissing, WeightError
from bert_serving.server.model.sources import canonical_hf, canonical_tf1
from bert_serving.server.model.weights import expected_shapes, load_weights
from model_folders import TINY, TINY_TUNED, hf_tensors, write_hf, write_sharded

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def tiny() -> Tensors:
    return load_weights(load_model_config(TINY))


def assert_equal(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


def test_names_shapes_and_dtype(tiny: Tensors) -> None:
    config = load_model_config(TINY)
    assert {name: weight.shape for name, weight in tiny.items()} == expected_shapes(config, 4, need_pooler=True)
    assert all(weight.dtype == np.float32 and weight.flags.c_contiguous for weight in tiny.values())


def test_loads_only_the_needed_layers() -> None:
    weights = load_weights(load_model_config(TINY), need_layers=2, need_pooler=False)
    assert {name.split("/")[1] for name in weights if name.startswith("encoder/")} == {"layer_0", "layer_1"}
    assert not any(name.startswith("pooler/") for name in weights)


def test_tuned_checkpoint_with_optimizer_and_head(tiny: Tensors) -> None:
    tuned = load_weights(load_model_config(TINY, tuned_model_dir=TINY_TUNED, ckpt_name="model.ckpt-343"))
    assert tuned.keys() == tiny.keys()
    assert not np.array_equal(tuned["pooler/dense/kernel"], tiny["pooler/dense/kernel"])


@pytest.mark.parametrize("prefix", ["", "bert.", "0.auto_model."])
@pytest.mark.parametrize("old_names", [False, True])
def test_hugging_face_names(tmp_path: Path, tiny: Tensors, prefix: str, old_names: bool) -> None:
    tensors = hf_tensors(prefix, old_names) | {"cls.predictions.bias": np.zeros(3, np.float32)}
    assert_equal(load_weights(load_model_config(write_hf(tmp_path, tensors))), tiny)


def test_sharded_safetensors(tmp_path: Path, tiny: Tensors) -> None:
    assert_equal(load_weights(load_model_config(write_sharded(tmp_path, hf_tensors()))), tiny)


def test_fp16_is_widened(tmp_path: Path, tiny: Tensors) -> None:
    halves = {name: tensor.astype(np.float16) for name, tensor in hf_tensors().items()}
    weights = load_weights(load_model_config(write_hf(tmp_path, halves)))
    assert_equal(weights, {name: weight.astype(np.float16).astype(np.float32) for name, weight in tiny.items()})


def test_bf16_is_widened(tmp_path: Path, tiny: Tensors) -> None:
    """Writes the bytes of the file, because numpy has no bfloat16: the upper half of a float32."""
    write_hf(tmp_path)
    header, data = {}, b""
    for name, tensor in hf_tensors().items():
        upper = (tensor.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [len(data), len(data) + len(upper)]}
        data += upper
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    weights = load_weights(load_model_config(tmp_path))
    for name, weight in tiny.items():
        truncated = (weight.view(np.uint32) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(weights[name], truncated, err_msg=name)


def test_missing_weight_is_named(tmp_path: Path) -> None:
    tensors = hf_tensors()
    del tensors["encoder.layer.2.attention.self.value.bias"]
    config = load_model_config(write_hf(tmp_path, tensors))
    with pytest.raises(WeightError, match=r"no weight encoder/layer_2/attention/self/value/bias, expected .* \[32\]"):
        load_weights(config)
    load_weights(config, need_layers=2)  # a layer that is not needed may be incomplete


def test_only_cls_pooled_needs_a_pooler(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in hf_tensors().items() if not name.startswith("pooler.")}
    config = load_model_config(write_hf(tmp_path, tensors))
    load_weights(config, need_pooler=False)
    with pytest.raises(WeightError, match="another pooling strategy than CLS_POOLED"):
        load_weights(config)


def test_error_for_a_wrong_shape_names_both_shapes(tmp_path: Path) -> None:
    config = load_model_config(write_hf(tmp_path, hf_tensors(), intermediate_size=128))
    with pytest.raises(WeightError, match=r"intermediate\.dense\.weight .* shape \[64, 32\], .* requires \[128, 32\]"):
        load_weights(config)


def test_extra_layers_are_rejected(tmp_path: Path) -> None:
    config = load_model_config(write_hf(tmp_path, hf_tensors(), num_hidden_layers=3))
    with pytest.raises(WeightError, match=r"has 4 layers, but num_hidden_layers .* is 3"):
        load_weights(config)


def test_nan_is_rejected(tmp_path: Path) -> None:
    tensors = hf_tensors()
    tensors["encoder.layer.0.output.dense.weight"][3, 4] = np.nan
    with pytest.raises(WeightError, match=r"encoder\.layer\.0\.output\.dense\.weight .* NaN"):
        load_weights(load_model_config(write_hf(tmp_path, tensors)))


def test_other_models_and_several_encoders_are_rejected(tmp_path: Path) -> None:
    other = {"transformer.wte.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(WeightError, match=r"not a model of the family bert; its tensors are transformer\.wte\.weight"):
        load_weights(load_model_config(write_hf(tmp_path / "gpt", other)))
    two = hf_tensors("query.") | hf_tensors("passage.")
    with pytest.raises(WeightError, match=r"several encoders \(passage\., query\.\)"):
        load_weights(load_model_config(write_hf(tmp_path / "two", two)))


def test_truncated_files(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, hf_tensors())
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightError, match="copy or download it again"):
        load_weights(load_model_config(folder))


def test_truncated_tf1_checkpoint(tmp_path: Path) -> None:
    for file in TINY.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if ".data-" in file.name else content)
    with pytest.raises(WeightError, match="cannot read"):
        load_weights(load_model_config(tmp_path))


def test_pytorch_bin_gives_the_same_weights(tmp_path: Path, tiny: Tensors) -> None:
    torch = pytest.importorskip("torch")
    write_hf(tmp_path)
    tensors = {f"bert.{name}": torch.from_numpy(tensor) for name, tensor in hf_tensors().items()}
    torch.save(tensors, str(tmp_path / "pytorch_model.bin"))
    assert_equal(load_weights(load_model_config(tmp_path)), tiny)


def test_sharded_pytorch_bin_in_half_precision(tmp_path: Path, tiny: Tensors) -> None:
    torch = pytest.importorskip("torch")
    write_hf(tmp_path)
    names = sorted(hf_tensors())
    shards = {"pytorch_model-1.bin": names[::2], "pytorch_model-2.bin": names[1::2]}
    for file, part in shards.items():
        torch.save({name: torch.from_numpy(hf_tensors()[name]).bfloat16() for name in part}, str(tmp_path / file))
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name, weight in load_weights(load_model_config(tmp_path)).items():
        assert weight.dtype == np.float32
        np.testing.assert_allclose(weight, tiny[name], rtol=2**-8, err_msg=name)


def test_errors_of_pytorch_bin_name_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hf(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    if find_spec("torch") is not None:
        with pytest.raises(WeightError, match="cannot read"):
            load_weights(load_model_config(tmp_path))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ReaderMissing, match="pip install torch, or convert"):
        load_weights(load_model_config(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert/embeddings/word_embeddings", ("bert/", "embeddings/word_embeddings")),
        ("encoder/layer_3/output/dense/kernel", ("", "encoder/layer_3/output/dense/kernel")),
        ("bert/encoder/layer_3/output/dense/kernel/adam_m", None),
        ("global_step", None),
        ("cls/predictions/transform/dense/kernel", None),
        ("output_weights", None),
    ],
)
def test_canonical_names_of_tf1_tensors(name: str, expected: tuple[str, str] | None) -> None:
    assert canonical_tf1(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert.embeddings.word_embeddings.weight", ("bert.", "embeddings/word_embeddings")),
        ("embeddings.LayerNorm.gamma", ("", "embeddings/LayerNorm/gamma")),
        ("embeddings.LayerNorm.weight", ("", "embeddings/LayerNorm/gamma")),
        ("encoder.layer.11.output.LayerNorm.bias", ("", "encoder/layer_11/output/LayerNorm/beta")),
        (
            "model.bert.encoder.layer.0.attention.self.key.weight",
            ("model.bert.", "encoder/layer_0/attention/self/key/kernel"),
        ),
        ("bert.pooler.dense.weight", ("bert.", "pooler/dense/kernel")),
        ("embeddings.position_ids", None),
        ("cls.predictions.bias", None),
        ("classifier.weight", None),
    ],
)
def test_canonical_names_of_hugging_face_tensors(name: str, expected: tuple[str, str] | None) -> None:
    assert canonical_hf(name) == expected
