"""Heads of classifiers and cross-encoders: tiny random models against transformers, labels, activations, refusals."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import family_models
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.server import engines
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.errors import ConfigError
from bert_serving.server.model import heads
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.errors import ModelError, WeightError
from bert_serving.server.model.heads import HeadLayout
from bert_serving.server.model.pipeline import Dense, LayerNorm, ScoreActivation
from bert_serving.server.model.vector_options import VectorOptions
from bert_serving.server.model.weights import load_weights
from bert_serving.server.supervisor.placement import WorkerPlacement
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.supervisor.vector_space import vector_digest
from bert_serving.server.worker.head_weights import load_head_weights, prepare_head_weights, read_head_weights
from bert_serving.server.worker.sentence_head import SentenceHead
from model_folders import TINY, hf_tensors, write_hf, write_sharded
from servers import ENGINE

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASS = "BertForSequenceClassification"
OF_ROBERTA = family_models.SIZES | {"max_position_embeddings": 42, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
OF_DISTILBERT = {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "initializer_range": 0.15}
MODERNBERT = family_models.ARCHITECTURES["modernbert"]
#: Name → prefix of the classes in transformers, configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", family_models.SIZES | {"max_position_embeddings": 40}),
    "roberta": ("Roberta", OF_ROBERTA),
    "xlm-roberta": ("XLMRoberta", OF_ROBERTA),
    "camembert": ("Camembert", OF_ROBERTA),
    "distilbert": ("DistilBert", OF_DISTILBERT | {"vocab_size": family_models.WORDS, "max_position_embeddings": 40}),
    **family_models.ARCHITECTURES,
    "modernbert-mean": (MODERNBERT[0], MODERNBERT[1] | {"classifier_pooling": "mean", "classifier_bias": True}),
    "modernbert-tanh": (MODERNBERT[0], MODERNBERT[1] | {"classifier_activation": "tanh"}),
}


def served(folder: Path, *flags: str) -> tuple[ServerConfig, ModelConfig]:
    """Returns what a server with these flags would serve."""
    config = ServerConfig.from_args(get_args_parser().parse_args(["-model_dir", str(folder), *flags]))
    return read_model(config, logging.getLogger("test"))


def logits(model: Any, batch: Batch) -> np.ndarray:
    rows = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
    with torch.no_grad():
        found = [model(torch.tensor(row[None].astype(np.int64))).logits[0].numpy() for row in rows]
    return np.stack(found)


@pytest.mark.parametrize("family", MODELS)
def test_logits_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """On each engine that computes the family."""
    reference = family_models.save(tmp_path / "model", MODELS[family], "ForSequenceClassification", num_labels=3)
    config, model = served(tmp_path / "model", "-task", "classify")
    pipeline, width = config.pipeline, config.pooled_size(model)
    assert pipeline is not None
    head = SentenceHead(pipeline, width, read_head_weights(pipeline, width))
    batch = family_models.batch_of([1, 7, model.max_tokens, 23])
    wanted = logits(reference, batch)
    names = [info.name for info in engines.available("cpu", "fp32", needs=model.features) if info.name != "zeros"]
    assert names
    for engine in names:
        module = engines.load(engine)
        spec = EngineSpec(model, str(tmp_path / "cache"), config.pooling_strategy.name, config.pooling_layer)
        module.prepare(spec, lambda _: None)
        pooled = module.create(spec, Device(threads=1)).encode(batch)
        raw = np.full(batch.num_sequences, VectorOptions(raw_scores=True).code, np.int32)
        found = head.apply_with_options(pooled, batch, None, raw)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=engine)
        found = head.apply(pooled, batch)
        np.testing.assert_allclose(found, torch.softmax(torch.tensor(wanted), 1).numpy(), rtol=0, atol=1e-5)


def folder_of(path: Path, num_labels: int = 1, **config: Any) -> Path:
    """Writes a classifier with the encoder of the tiny model and a random head."""
    random = np.random.default_rng(num_labels)
    tensors = hf_tensors("bert.")
    hidden = len(tensors["bert.pooler.dense.bias"])
    tensors["classifier.weight"] = random.normal(size=(num_labels, hidden)).astype(np.float32)
    tensors["classifier.bias"] = random.normal(size=num_labels).astype(np.float32)
    labels = {"id2label": {str(index): f"label{index}" for index in range(num_labels)}}
    return write_hf(path / "model", tensors, **({"architectures": [CLASS]} | labels | config))


@pytest.mark.parametrize(
    ("task", "labels", "values", "activation"),
    [
        ("classify", 3, {}, "Softmax"),
        ("classify", 1, {}, "Sigmoid"),
        ("classify", 3, {"problem_type": "single_label_classification"}, "Softmax"),
        ("classify", 3, {"problem_type": "multi_label_classification"}, "Sigmoid"),
        ("classify", 3, {"problem_type": "regression"}, "Identity"),
        ("classify", 1, {"problem_type": "regression"}, "Identity"),
        ("classify", 1, {"sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "Sigmoid"),
        ("rerank", 1, {}, "Sigmoid"),
        ("rerank", 1, {"problem_type": "regression"}, "Sigmoid"),
        ("rerank", 1, {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, "Identity"),
        ("rerank", 1, {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "Identity"),
        ("rerank", 1, {"sentence_transformers": {"version": "4.0"}}, "Sigmoid"),
    ],
)
def test_the_activation_follows_the_folder(
    tmp_path: Path, task: str, labels: int, values: dict[str, Any], activation: str
) -> None:
    config, model = served(folder_of(tmp_path, labels, **values), "-task", task)
    public = config.public()
    assert (public["task"], public["activation"]) == (task, activation)
    assert public["problem_type"] == values.get("problem_type")
    assert public["labels"] == [f"label{index}" for index in range(labels)]
    assert config.vector_size(model) == labels


def test_the_own_file_of_a_cross_encoder_names_the_activation_first(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"})
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.Tanh"}')
    assert served(folder, "-task", "rerank")[0].public()["activation"] == "Tanh"
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": null}')
    assert served(folder, "-task", "rerank")[0].public()["activation"] == "Identity"


def test_a_configuration_without_labels_has_two_as_in_transformers(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 2, id2label=None)
    assert served(folder, "-task", "classify")[0].public()["labels"] == ["LABEL_0", "LABEL_1"]


def test_vectors_have_no_labels(tmp_path: Path) -> None:
    public = served(folder_of(tmp_path))[0].public()
    names = ("task", "labels", "problem_type", "activation")
    assert [public[name] for name in names] == ["embed", None, None, None]


def test_the_default_length_is_that_of_the_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    positions = served(folder)[1].max_position_embeddings
    assert served(folder, "-task", "rerank")[0].max_seq_len == positions
    for length, wanted in ((20, 20), (10**6, positions), (10**30, positions)):
        (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
        assert served(folder, "-task", "rerank")[0].max_seq_len == wanted
    assert served(folder, "-task", "rerank", "-max_seq_len", "12")[0].max_seq_len == 12
    assert served(folder)[0].max_seq_len == 25


@pytest.mark.parametrize(
    ("flags", "labels", "values", "message"),
    [
        (["classify"], 1, {"architectures": ["BertModel"]}, "the architecture is BertModel.*-task embed"),
        (["rerank"], 1, {"architectures": ["BertForMaskedLM"]}, "the architecture is BertForMaskedLM.*fine-tune one"),
        (["rerank"], 3, {}, r"the model has 3 labels \(label0, label1, label2\).*-task classify"),
        (["classify"], 1, {"problem_type": "guess"}, "problem_type is 'guess'"),
        (["classify"], 1, {"id2label": {"1": "a"}}, "id2label must map the numbers from 0 on"),
        (["classify"], 1, {"id2label": {"0": "a", "1": "a"}}, "the label 'a' twice"),
        (["classify"], 1, {"id2label": {"0": "a", "1": "b\ud800"}}, r"must map to texts, found 'b\\ud800'"),
        (["classify"], 1, {"id2label": []}, "id2label must map"),
        (
            ["rerank"],
            1,
            {"sbert_ce_default_activation_function": "my.Code"},
            "the activation 'my.Code' is not computed",
        ),
        (["rerank"], 1, {"sentence_transformers": {"activation_fn": 3}}, "sentence_transformers: the activation 3 is"),
        (["classify", "-pooling_strategy", "REDUCE_MEAN"], 1, {}, "-pooling_strategy is for vectors"),
        (["classify", "-pooling_layer", "-2"], 1, {}, "-pooling_layer is for vectors"),
        (["classify", "-normalize", "on"], 1, {}, "-normalize is for vectors"),
        (["rerank", "-dimensions", "1"], 1, {}, "-dimensions is for vectors"),
        (["rerank", "-mask_cls_sep"], 1, {}, "-mask_cls_sep is for vectors"),
        (["rerank", "-max_seq_len", "99999"], 1, {}, "-max_seq_len 99999 is more than the"),
    ],
)
def test_what_has_no_scores_is_refused(
    tmp_path: Path, flags: list[str], labels: int, values: dict[str, Any], message: str
) -> None:
    with pytest.raises((ModelError, ConfigError, RuntimeError), match=message):
        served(folder_of(tmp_path, labels, **values), "-task", *flags)


def test_an_embedding_folder_is_no_classifier_and_a_cross_encoder_gives_no_vectors(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    modules = [
        {"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    with pytest.raises(ModelError, match=r"the modules give vectors \(Transformer, Pooling\).*-task embed"):
        served(folder, "-task", "rerank")
    (folder / "modules.json").write_text(json.dumps(modules[::2]))
    with pytest.raises(ModelError, match=r"the modules are Transformer, Dense; .* serve the model with sentence-tr"):
        served(folder, "-task", "rerank")
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    (folder / "sentence_bert_config.json").write_text('{"transformer_task": "sequence-classification"}')
    with pytest.raises(ModelError, match=r"cross-encoder, which gives scores.*-task rerank"):
        served(folder)
    assert served(folder, "-task", "rerank")[0].public()["labels"] == ["label0"]


def test_weights_that_do_not_fit_the_head_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 3, id2label={"0": "a", "1": "b"})
    config, model = served(folder, "-task", "classify")
    assert config.pipeline is not None
    with pytest.raises(WeightError, match=r"classifier\.weight has shape \(3, 32\), expected \(2, 32\)"):
        read_head_weights(config.pipeline, model.hidden_size)
    write_hf(folder, hf_tensors("bert."), id2label={"0": "a"})  # no architecture is named
    config, model = served(folder, "-task", "classify")
    assert config.pipeline is not None
    with pytest.raises(WeightError, match=r"no tensor classifier\.weight, so the model has no head.*-task embed"):
        read_head_weights(config.pipeline, model.hidden_size)


def test_the_head_is_found_in_each_kind_of_checkpoint(tmp_path: Path) -> None:
    """In one file, in several, as a pickle of PyTorch, in bfloat16, and below another prefix."""
    folder = folder_of(tmp_path)
    config, model = served(folder, "-task", "rerank")
    assert config.pipeline is not None
    wanted = read_head_weights(config.pipeline, model.hidden_size)
    tensors = {**load_file(folder / "model.safetensors")}

    def found(path: Path) -> dict[str, np.ndarray]:
        (path / "config.json").write_text((folder / "config.json").read_text())
        config, model = served(path, "-task", "rerank")
        assert config.pipeline is not None
        cache = Cache(tmp_path / "cache")
        return dict(load_head_weights(str(prepare_head_weights(config.pipeline, model.hidden_size, cache))))

    sharded = write_sharded(tmp_path / "sharded", tensors)
    pickled, prefixed, short = (write_hf(tmp_path / name) for name in ("pickled", "prefixed", "short"))
    torch.save({name: torch.tensor(value) for name, value in tensors.items()}, pickled / "pytorch_model.bin")
    save_file({f"model.{name}": value for name, value in tensors.items()}, prefixed / "model.safetensors")
    torch.save({name: torch.tensor(value).bfloat16() for name, value in tensors.items()}, short / "pytorch_model.bin")
    for path, tolerance in ((sharded, 0), (pickled, 0), (prefixed, 0), (short, 0.02)):
        weights = found(path)
        assert weights.keys() == wanted.keys()
        for name, weight in weights.items():
            np.testing.assert_allclose(weight, wanted[name], rtol=0, atol=tolerance, err_msg=f"{path} {name}")
    twice = {**tensors, "other.classifier.weight": tensors["classifier.weight"]}
    with pytest.raises(WeightError, match=r"several tensors classifier.weight \(classifier.weight, other.classifier"):
        found(write_hf(tmp_path / "twice", twice))


def test_a_head_with_a_mean_and_a_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of ModernBERT, on the encoder of BERT."""
    layout = HeadLayout("head.dense", "GELU", "classifier", "head.norm", False, "classifier_pooling", "classifier_bias")
    monkeypatch.setitem(heads.HEADS, "bert", layout)
    folder = folder_of(tmp_path, 2, classifier_pooling="mean", classifier_bias=False, layer_norm_eps=1e-3)
    config, model = served(folder, "-task", "classify")
    assert config.pipeline is not None
    assert config.pooling_strategy.name == "REDUCE_MEAN"
    dense, norm, output, activation = config.pipeline.modules
    path, hidden = model.checkpoint, model.hidden_size
    assert dense == Dense(path, hidden, hidden, False, "GELU", ("head.dense.weight", "head.dense.bias"), "safetensors")
    assert norm == LayerNorm(path, hidden, False, 1e-3, ("head.norm.weight", "head.norm.bias"), "safetensors")
    assert output == Dense(path, hidden, 2, True, "Identity", ("classifier.weight", "classifier.bias"), "safetensors")
    assert activation == ScoreActivation("Softmax")
    random = np.random.default_rng(0)
    weights = {"0/weight": random.normal(size=(hidden, hidden)), "1/weight": random.normal(size=hidden)}
    weights |= {"2/weight": random.normal(size=(2, hidden)), "2/bias": random.normal(size=2)}
    weights = {name: weight.astype(np.float32) for name, weight in weights.items()}
    rows = random.normal(size=(5, hidden)).astype(np.float32)
    batch = Batch(*[np.ones(5, np.int32)] * 4)
    found = SentenceHead(config.pipeline, hidden, weights).apply(rows, batch)
    one, scale, two, bias = (torch.tensor(weight) for weight in weights.values())
    wanted = torch.nn.functional.gelu(torch.tensor(rows) @ one.T)
    wanted = torch.nn.functional.layer_norm(wanted, [hidden], scale, eps=1e-3) @ two.T + bias
    np.testing.assert_allclose(found, torch.softmax(wanted, 1).numpy(), rtol=0, atol=1e-6)
    folder = folder_of(tmp_path, 2, classifier_pooling="max")
    with pytest.raises(ModelError, match="classifier_pooling 'max' is not computed"):
        served(folder, "-task", "classify")


@pytest.mark.parametrize("function", ["Softmax", "Sigmoid"])
def test_extreme_logits_have_exact_scores(function: str) -> None:
    rows = np.array([[-100, 5, 4.5], [1e4, -1e4, 0], [-18, -20, -21], [88, 90, 3e38]], np.float32)
    pipeline = heads.SentencePipeline("", (), (ScoreActivation(function),))
    found = SentenceHead(pipeline, 3, {}).apply(rows, Batch(*[np.ones(4, np.int32)] * 4))
    wanted = getattr(torch.nn, function)(*([1] if function == "Softmax" else []))(torch.tensor(rows).double())
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-38)


def test_the_error_function_of_gelu_is_exact() -> None:
    rows = np.concatenate([np.linspace(-12, 12, 200_001), np.geomspace(1e-30, 1e30, 100)]).astype(np.float32)[:, None]
    head = SentenceHead(
        heads.SentencePipeline("", (), (Dense("", 1, 1, False, "GELU"),)), 1, {"0/weight": np.ones((1, 1), np.float32)}
    )
    found = head.apply(rows, Batch(*[np.ones(len(rows), np.int32)] * 4))
    wanted = torch.nn.functional.gelu(torch.tensor(rows))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6, atol=1e-6)


def test_scores_have_full_precision_with_fp16(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    assert served(folder, "-fp16")[0].output_dtype == "float16"
    assert served(folder, "-fp16", "-task", "rerank")[0].output_dtype == "float32"


def test_the_head_is_part_of_the_vector_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERT_SERVING_CACHE", str(tmp_path / "cache"))

    def space(*flags: str, raw: bool = False, **values: Any) -> str:
        config, model = served(folder_of(tmp_path, **values), *flags)
        digest = vector_digest(config, model, [WorkerPlacement(Device("cpu", 0, 1), "onnx", "fp32")])
        spaces = config.with_(vector_digest=digest).vector_spaces(model)
        return spaces.of(VectorOptions(raw_scores=raw))

    two: dict[str, Any] = {"num_labels": 2}
    found = [
        space(),
        space("-pooling_strategy", "CLS_TOKEN", "-pooling_layer", "-1"),
        space("-task", "classify"),
        space("-task", "classify", raw=True),
        space("-task", "classify", **two),
        space("-task", "classify", **two, problem_type="multi_label_classification"),
    ]
    assert len(set(found)) == len(found)
    assert space("-task", "rerank") == space("-task", "classify")  # both are the sigmoid of one score
    one = {"problem_type": "regression"}
    assert space("-task", "classify", **one) == space("-task", "classify", **one, raw=True)
    assert space("-task", "classify", **two, raw=True) == space(
        "-task", "classify", **two, raw=True, problem_type="multi_label_classification"
    )


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of Google's ``run_classifier.py``: a tiny model with three labels."""
    tensorflow = pytest.importorskip("tensorflow")
    random = np.random.default_rng(3)
    weights = {f"bert/{name}": value for name, value in load_weights(load_model_config(TINY)).items()}
    hidden = len(weights["bert/pooler/dense/bias"])
    weights |= {
        "output_weights": random.normal(size=(3, hidden)).astype(np.float32),
        "output_bias": random.normal(size=3).astype(np.float32),
        "output_weights/adam_m": np.zeros((3, hidden), np.float32),
        "global_step": np.int64(7),
    }
    folder = tmp_path_factory.mktemp("google")
    tensorflow.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt-7"),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=list(weights.values()),
    )
    np.savez(folder / "head.npz", weight=weights["output_weights"], bias=weights["output_bias"])
    return folder


@pytest.mark.slow
def test_a_classifier_of_google_is_served_from_its_checkpoint(google: Path, tmp_path: Path) -> None:
    tuned = ("-tuned_model_dir", str(google), "-ckpt_name", "model.ckpt-7")
    config, model = served(TINY, "-task", "classify", *tuned)
    assert config.public()["labels"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert config.max_seq_len == model.max_position_embeddings
    pipeline, width = config.pipeline, config.pooled_size(model)
    assert pipeline is not None
    head = SentenceHead(pipeline, width, read_head_weights(pipeline, width))
    batch = family_models.batch_of([3, 9], 1)
    batch = Batch(batch.input_ids % 20, batch.type_ids, batch.mask, batch.lengths)
    vectors = {}
    for strategy in ("CLS_TOKEN", "CLS_POOLED"):
        spec = EngineSpec(model, str(tmp_path), strategy, (-1,))
        module = engines.load(ENGINE)
        module.prepare(spec, lambda _: None)
        vectors[strategy] = module.create(spec, Device(threads=1)).encode(batch)
    with np.load(google / "head.npz") as file:
        wanted = vectors["CLS_POOLED"] @ file["weight"].T + file["bias"]
    found = head.apply(vectors["CLS_TOKEN"], batch)
    np.testing.assert_allclose(found, torch.softmax(torch.tensor(wanted), 1).numpy(), rtol=0, atol=1e-5)
    # Names of the labels in a configuration beside the checkpoint win over those of the base model.
    (google / "bert_config.json").write_text(json.dumps({"id2label": {"0": "a", "1": "b", "2": "c"}}))
    assert served(TINY, "-task", "classify", *tuned)[0].public()["labels"] == ["a", "b", "c"]


def test_a_base_model_of_google_is_no_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow, which reads the names of tensors, is not started for this."""
    monkeypatch.setattr(heads, "_SHAPES", "print('null')")
    with pytest.raises(WeightError, match=r"no tensor output_weights, so it is no classifier.*-tuned_model_dir"):
        served(TINY, "-task", "classify")
    monkeypatch.setattr(heads, "_SHAPES", "raise SystemExit('no TensorFlow')")
    with pytest.raises(WeightError, match=r"cannot read the labels of .*bert_model.ckpt \(no TensorFlow\)"):
        served(TINY, "-task", "classify")


def test_the_head_of_a_tuned_folder_is_served_with_its_labels(tmp_path: Path) -> None:
    """The folder of the base model is one for vectors; the tuned one has the head."""
    tuned = folder_of(tmp_path / "tuned", 2)
    base = write_hf(tmp_path / "base", hf_tensors(), architectures=["BertModel"])
    modules = [{"path": "", "type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling")]
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "config_sentence_transformers.json").write_text('{"prompts": {"a": "b"}, "default_prompt_name": "a"}')
    config = served(base, "-task", "classify", "-tuned_model_dir", str(tuned))[0]
    assert config.public()["labels"] == ["label0", "label1"]
    assert config.prompt_name is None
    (tuned / "config.json").unlink()  # then the weights alone decide
    assert served(base, "-task", "classify", "-tuned_model_dir", str(tuned))[0].public()["labels"] == [
        "LABEL_0",
        "LABEL_1",
    ]
    write_hf(tuned, architectures=["BertForMaskedLM"])
    with pytest.raises(ModelError, match=r"tuned.*the architecture is BertForMaskedLM"):
        served(base, "-task", "classify", "-tuned_model_dir", str(tuned))
