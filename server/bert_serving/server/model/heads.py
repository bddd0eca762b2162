"""Reads the head of a classifier or cross-encoder: where its weights are, its labels, and the activation of scores.

The head of each family is one vector of the last layer, a dense layer with an activation, optionally a LayerNorm, and a
linear layer with one output for each label (``...ForSequenceClassification`` of transformers).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .config import ModelConfig
from .errors import ModelConfigError, ModelUnsupported, WeightError
from .files import DEFAULT_CONFIG_NAME, HF_CONFIG_NAME
from .json_files import is_text, read_object
from .pipeline import SCORE_ACTIVATIONS, Dense, LayerNorm, Module, ScoreActivation, SentencePipeline
from .readers import open_reader

#: Values of ``problem_type`` in a configuration.
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
#: Class names of heads that give one score for each label end so.
HEAD_CLASS = "ForSequenceClassification"
#: Labels of a configuration that names none.
_DEFAULT_LABELS = 2


@dataclass(frozen=True, slots=True)
class HeadLayout:
    """Describes the head of a family. Names of tensors are without the prefix of the model and without ``.weight``.

    Attributes:
        dense: name of the dense layer.
        activation: that of the dense layer, one of ``ACTIVATIONS``.
        output: name of the linear layer.
        norm: name of the LayerNorm between them; None without one.
        norm_has_bias: whether the LayerNorm has a bias.
        pooling_key: key of the configuration with ``cls`` or ``mean``; None for the first token.
        bias_key: key of the configuration that says whether the dense layer has a bias; None if it has one.
        activation_key: key of the configuration with the activation of the dense layer; without the key or its value,
            it is ``activation``.
    """

    dense: str
    activation: str
    output: str
    norm: str | None = None
    norm_has_bias: bool = True
    pooling_key: str | None = None
    bias_key: str | None = None
    activation_key: str | None = None


_BERT = HeadLayout("pooler.dense", "Tanh", "classifier")
_ROBERTA = HeadLayout("classifier.dense", "Tanh", "classifier.out_proj")
#: ``model_type`` → head.
HEADS = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": HeadLayout("classifier.dense", "GELU", "classifier.out_proj"),
    "distilbert": HeadLayout("pre_classifier", "ReLU", "classifier"),
    "mpnet": _ROBERTA,
    "albert": HeadLayout("pooler", "Tanh", "classifier"),
    "modernbert": HeadLayout(
        "head.dense",
        "GELU",
        "classifier",
        norm="head.norm",
        norm_has_bias=False,
        pooling_key="classifier_pooling",
        bias_key="classifier_bias",
        activation_key="classifier_activation",
    ),
    "nomic_bert": _BERT,
    "gte": _BERT,
    "new": _BERT,
    "deberta-v2": HeadLayout("pooler.dense", "GELU", "classifier", activation_key="pooler_hidden_act"),
}
#: Activation in a configuration → that of ``Dense``.
ACTIVATION_NAMES = {"gelu": "GELU", "relu": "ReLU", "tanh": "Tanh", "silu": "SiLU"}
#: Tensors of the head in checkpoints of Google's ``run_classifier.py``.
_TF1_DENSE = ("pooler/dense/kernel", "pooler/dense/bias")
_TF1_OUTPUT = ("output_weights", "output_bias")
#: Prints the shape of the weights of a TF1 checkpoint's head, or null.
_SHAPES = """
import json, sys
from bert_serving.server.model.readers import Tf1Reader
reader = Tf1Reader(sys.argv[1])
found = [reader.shape(name) for name in reader.names() if name.split("/")[-1] == "output_weights"]
print(json.dumps(found[0] if found else None))
"""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a model.

    Attributes:
        pooling: ``cls`` or ``mean``, over the last layer.
        modules: what follows the pooling, up to the scores.
        labels: names of the scores.
        problem_type: one of ``PROBLEM_TYPES``; None if the folder names none.
    """

    pooling: str
    modules: tuple[Module, ...]
    labels: tuple[str, ...]
    problem_type: str | None

    def extend(self, pipeline: SentencePipeline) -> SentencePipeline:
        """Returns a pipeline that computes the scores."""
        return msgspec.structs.replace(
            pipeline, modules=self.modules, labels=self.labels, problem_type=self.problem_type
        )


def read_head(model: ModelConfig, task: str, folder: str) -> Head:
    """Reads the head that ``task`` serves: ``classify`` or ``rerank``. No weight is read.

    Labels and other settings of the head are in the configuration beside a fine-tuned checkpoint, if it has one.

    Args:
        folder: that of ``-model_dir``, whose ``config_sentence_transformers.json`` may name the activation.

    Raises:
        ModelUnsupported: the model has no such head.
        ModelConfigError: the configuration is invalid.
        WeightError: a TF1 checkpoint has no head.
    """
    own = _own_config(model)
    source = own or model.config_path
    values = read_object(Path(source))
    if (own is not None or not model.is_tuned) and not _brings_head(model):
        _require_head(model, values, task, source)
    if model.checkpoint_format != "tf1" and model.family not in HEADS:
        raise ModelUnsupported(
            f"{source}: heads of {model.family} are not computed, those of {', '.join(HEADS)} are; serve the vectors "
            "with -task embed"
        )
    labels = _labels(values, model, source)
    if task == "rerank" and len(labels) != 1:
        raise ModelUnsupported(
            f"{source}: the model has {len(labels)} labels ({', '.join(labels[:5])}), and -task rerank needs one "
            "score; serve it with -task classify"
        )
    problem_type = values.get("problem_type")
    if problem_type is not None and problem_type not in PROBLEM_TYPES:
        raise ModelConfigError(
            f"{source}: problem_type is {problem_type!r}; it must be one of {', '.join(PROBLEM_TYPES)}"
        )
    if task == "rerank":
        activation = _rerank_activation(values, source, Path(folder))
    else:
        activation = _classify_activation(problem_type, len(labels))
    pooling, modules = _modules(model, values, len(labels), source)
    return Head(pooling, (*modules, ScoreActivation(activation)), labels, problem_type)


def _own_config(model: ModelConfig) -> str | None:
    """Returns the configuration beside a checkpoint of ``-tuned_model_dir``, or beside an adapter; None without one."""
    names: tuple[str, ...] = (DEFAULT_CONFIG_NAME, HF_CONFIG_NAME) if model.is_tuned else ()
    folder = Path(model.checkpoint).parent
    if model.adapter is not None:
        folder, names = Path(model.adapter.folder), (HF_CONFIG_NAME,)
    return next((str(folder / name) for name in names if (folder / name).is_file()), None)


def _brings_head(model: ModelConfig) -> bool:
    """Returns whether an adapter has the head that its base model lacks."""
    layout = HEADS.get(model.family)
    if layout is None or model.adapter is None:
        return False
    name = f"{layout.output}.weight"
    model.adapter.require_quick([name])
    return model.adapter.saves(name)


def _require_head(model: ModelConfig, values: Mapping[str, Any], task: str, source: str) -> None:
    """Rejects a model whose configuration names another architecture. Without a name, the weights show it later."""
    named = values.get("architectures")
    name = str(named[0]) if isinstance(named, list) and named else None
    if model.checkpoint_format == "tf1" and model.family != "bert":
        name = model.family
    if name is not None and not name.endswith(HEAD_CLASS):
        raise ModelUnsupported(
            f"{source}: the architecture is {name}; -task {task} needs a model of a class ...{HEAD_CLASS}: fine-tune "
            "one, or serve the vectors of this one with -task embed"
        )


def _modules(model: ModelConfig, values: Mapping[str, Any], num_labels: int, source: str) -> tuple[str, list[Module]]:
    hidden, path, kind = model.hidden_size, model.checkpoint, model.checkpoint_format
    if kind == "tf1":
        dense = Dense(path, hidden, hidden, True, "Tanh", _TF1_DENSE, kind)
        return "cls", [dense, Dense(path, hidden, num_labels, True, "Identity", _TF1_OUTPUT, kind)]
    layout = HEADS[model.family]
    pooling = values.get(layout.pooling_key, "cls") if layout.pooling_key else "cls"
    if pooling not in ("cls", "mean"):
        raise ModelUnsupported(f"{source}: {layout.pooling_key} {pooling!r} is not computed; it must be cls or mean")
    has_bias = values.get(layout.bias_key) is True if layout.bias_key else True
    activation = _activation(values, layout, source)
    modules: list[Module] = [Dense(path, hidden, hidden, has_bias, activation, _tensors(layout.dense), kind)]
    if layout.norm:
        modules.append(LayerNorm(path, hidden, layout.norm_has_bias, model.layer_norm_eps, _tensors(layout.norm), kind))
    modules.append(Dense(path, hidden, num_labels, True, "Identity", _tensors(layout.output), kind))
    return pooling, modules


def _activation(values: Mapping[str, Any], layout: HeadLayout, source: str) -> str:
    name = values.get(layout.activation_key) if layout.activation_key else None
    if name is None:
        return layout.activation
    if name not in ACTIVATION_NAMES:
        raise ModelUnsupported(
            f"{source}: {layout.activation_key} {name!r} is not computed; it must be one of "
            f"{', '.join(ACTIVATION_NAMES)}"
        )
    return ACTIVATION_NAMES[name]


def _tensors(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"


def _labels(values: Mapping[str, Any], model: ModelConfig, source: str) -> tuple[str, ...]:
    names = values.get("id2label")
    if names is None:
        number = _tf1_outputs(model) if model.checkpoint_format == "tf1" else _saved_labels(model)
        number = values.get("num_labels", values.get("_num_labels", number))
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ModelConfigError(f"{source}: num_labels is {number!r}; it must be an integer above 0")
        return tuple(f"LABEL_{index}" for index in range(number))
    if not isinstance(names, dict) or sorted(map(str, names)) != sorted(map(str, range(len(names)))) or not names:
        raise ModelConfigError(
            f"{source}: id2label must map the numbers from 0 on to the names of labels, it is {str(names)[:100]}"
        )
    labels = tuple(str(names[str(index)]) for index in range(len(names)))
    if wrong := [label for label in labels if not is_text(label)]:
        raise ModelConfigError(f"{source}: id2label must map to texts, found {ascii(wrong[0])[:100]}")
    if len(set(labels)) < len(labels):
        twice = next(label for label, number in Counter(labels).items() if number > 1)
        raise ModelConfigError(f"{source}: id2label has the label {twice!r} twice; give each label a name of its own")
    return labels


def _saved_labels(model: ModelConfig) -> int:
    """Returns the number of labels of the head in an adapter, which has no configuration; else the default."""
    if _brings_head(model) and model.adapter is not None and model.adapter.weights_format == "safetensors":
        reader = open_reader(model.adapter.weights, "safetensors")
        ending = f".{HEADS[model.family].output}.weight"
        return next((reader.shape(name)[0] for name in reader.names() if name.endswith(ending)), _DEFAULT_LABELS)
    return _DEFAULT_LABELS


def _tf1_outputs(model: ModelConfig) -> int:
    """Returns the number of labels in a TF1 checkpoint. Reads it in a process, because TensorFlow stays in memory."""
    command = [sys.executable, "-c", _SHAPES, model.checkpoint]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise WeightError(f"cannot read the labels of {model.checkpoint} ({reason})")
    shape = json.loads(done.stdout.splitlines()[-1])
    if shape is None:
        raise WeightError(
            f"{model.checkpoint} has no tensor {_TF1_OUTPUT[0]}, so it is no classifier; serve its vectors with -task "
            "embed, or set -tuned_model_dir and -ckpt_name to the checkpoint of a classifier"
        )
    return int(shape[0])


def _rerank_activation(values: Mapping[str, Any], source: str, folder: Path) -> str:
    """Returns the activation that the folder names, in the order of sentence-transformers; else Sigmoid."""
    own, nested = folder / "config_sentence_transformers.json", values.get("sentence_transformers")
    named = {
        str(own): read_object(own).get("activation_fn") if own.is_file() else None,
        f"{source}: sentence_transformers": nested.get("activation_fn") if isinstance(nested, dict) else None,
        source: values.get("sbert_ce_default_activation_function"),
    }
    source, name = next(((where, name) for where, name in named.items() if name is not None), ("", None))
    if name is None:
        return "Sigmoid"
    function = name.rpartition(".")[2] if isinstance(name, str) and name.startswith("torch.nn.") else None
    if function not in SCORE_ACTIVATIONS:
        raise ModelUnsupported(
            f"{source}: the activation {name!r} is not computed; it must be one of torch.nn's "
            f"{', '.join(SCORE_ACTIVATIONS)}"
        )
    return function


def _classify_activation(problem_type: str | None, num_labels: int) -> str:
    """Returns the activation of the pipeline ``text-classification`` of transformers."""
    if problem_type == "regression":
        return "Identity"
    return "Sigmoid" if problem_type == "multi_label_classification" or num_labels == 1 else "Softmax"
