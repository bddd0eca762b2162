"""Tensors that are not served are named by the weights, whatever the configuration says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_models
import numpy as np
import pytest
from family_models import ARCHITECTURES
from safetensors.numpy import load_file, save_file

from bert_serving.server.cli.check import check
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.errors import ReaderMissing
from bert_serving.server.model.heads import HEADS, read_head
from bert_serving.server.model.pipeline import SentencePipeline
from bert_serving.server.model.unserved import describe_unserved, quick_tensor_names, tensor_names, unserved_tensors
from bert_serving.server.worker import prepare
from model_folders import TINY, TINY_TUNED, hf_tensors, write_classifier, write_hf, write_sharded

#: Families of transformers with these heads.
FAMILIES = {
    **ARCHITECTURES,
    "bert": ("Bert", family_models.SIZES),
    "roberta": ("Roberta", family_models.SIZES),
    "distilbert": ("DistilBert", {"vocab_size": 60, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}),
}


def unserved(model: ModelConfig, pipeline: SentencePipeline | None = None) -> list[str]:
    return unserved_tensors(tensor_names(model), model, pipeline)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_transformers_are_found_in_the_weights_alone(tmp_path: Path, family: str) -> None:
    transformers = pytest.importorskip("transformers")
    name, values = FAMILIES[family]
    for head in ("Model", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"):
        if not hasattr(transformers, name + head):
            continue
        folder = tmp_path / head
        reference = family_models.save(folder, (name, values), head)
        family_models.change(folder / "config.json", architectures=None)
        model = load_model_config(folder)
        assert model.head_class is None
        encoder = {id(each) for each in reference.base_model.parameters()}
        # A tensor that the head shares with the encoder is saved once. Saved tensors may have other names.
        own = [value for value in reference.parameters() if id(value) not in encoder]
        found = unserved(model)
        assert len(found) == len(own)
        assert bool(found) == (head != "Model")
        if head == "ForSequenceClassification" and family in HEADS:
            pipeline = read_head(model, "classify", str(folder)).extend(SentencePipeline(str(folder), ()))
            assert unserved(model, pipeline) == []


@pytest.mark.parametrize("architectures", [None, ["BertModel"], ["BertForMaskedLM"], "BertForMaskedLM"])
def test_the_configuration_does_not_decide(tmp_path: Path, architectures: Any) -> None:
    extra = {"qa_outputs.weight": np.ones((2, 4), np.float32), "num_batches_tracked": np.array(1, np.float32)}
    for folder, tensors, expected in (("encoder", {}, []), ("head", extra, ["qa_outputs.weight"])):
        write_hf(tmp_path / folder, {**hf_tensors(), **tensors}, architectures=architectures)
        assert unserved(load_model_config(tmp_path / folder)) == expected


def test_each_format(tmp_path: Path) -> None:
    tensors = {**hf_tensors(), "classifier.weight": np.ones((2, 4), np.float32)}
    sharded = load_model_config(write_sharded(tmp_path, tensors))
    assert unserved(sharded) == ["classifier.weight"]
    assert quick_tensor_names(sharded) == tensor_names(sharded)
    google = load_model_config(TINY, tuned_model_dir=TINY_TUNED, ckpt_name="model.ckpt-343")
    assert unserved(google) == ["output_bias", "output_weights"]
    assert unserved(load_model_config(TINY)) == []
    assert quick_tensor_names(google) is None


def test_the_message_names_few_tensors_and_the_class(tmp_path: Path) -> None:
    model = load_model_config(write_classifier(tmp_path))
    assert describe_unserved(unserved(model), model, "embed") == (
        f"{model.checkpoint}: the tensors classifier.bias, classifier.weight are not served "
        "(BertForSequenceClassification): vectors come from its encoder"
    )
    pipeline = read_head(model, "classify", str(tmp_path)).extend(SentencePipeline(str(tmp_path), ()))
    assert describe_unserved(["a"], model, "embed", pipeline).endswith("vectors come from its encoder and a head")
    assert "a, b, c and 2 more are not served" in describe_unserved(list("abcde"), model, "classify")


def test_check_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_classifier(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    del config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))

    def checked(task: str) -> str:
        flags = ["-model_dir", str(folder), "-cpu", "-task", task]
        assert check(ServerConfig.from_args(get_args_parser().parse_args(flags))) == 0
        return capsys.readouterr().out

    assert "the tensors classifier.bias, classifier.weight are not served: vectors" in checked("embed")
    assert "are not served" not in checked("classify")


def test_check_refuses_the_tensors_that_the_start_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = hf_tensors("bert.")
    scale = "bert.encoder.layer.0.attention.self.query.SCB"
    query = "bert.encoder.layer.0.attention.self.query.weight"

    def refusal(changed: dict[str, np.ndarray], *flags: str) -> str:
        folder = write_classifier(tmp_path)
        save_file({**load_file(folder / "model.safetensors"), **changed}, folder / "model.safetensors")
        args = get_args_parser().parse_args(["-model_dir", str(folder), "-cpu", *flags])
        code = check(ServerConfig.from_args(args))
        found = capsys.readouterr().err
        assert code == (3 if found else 0)
        return found

    assert refusal({}) == refusal({}, "-task", "classify") == ""
    assert scale in refusal({scale: np.ones(4, np.float32)})
    assert "quantized" in refusal({query: tensors[query].astype(np.int8)})
    assert "has shape" in refusal({query: tensors[query][:4]})
    three = {"classifier.weight": np.ones((3, 4), np.float32)}
    assert "classifier.weight has shape" in refusal(three, "-task", "classify")
    assert refusal({query: tensors[query][:4]}, "-engine", "zeros") == ""  # which reads no weights


def test_the_names_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, model = Cache(tmp_path / "cache"), load_model_config(write_classifier(tmp_path / "model"))

    def fail(error: Exception) -> Callable[[ModelConfig], list[str]]:
        def read(_: ModelConfig) -> list[str]:
            raise error

        return read

    monkeypatch.setattr(prepare, "tensor_names", fail(ReaderMissing("not installed")))
    assert prepare._tensor_names(cache, model, "digest") == []
    monkeypatch.setattr(prepare, "tensor_names", tensor_names)
    names = prepare._tensor_names(cache, model, "digest")
    assert "classifier.bias" in names
    monkeypatch.setattr(prepare, "tensor_names", fail(AssertionError("read again")))
    assert prepare._tensor_names(cache, model, "digest") == names
