"""The pipeline of a sentence-transformers folder: what is read, what is refused, and what the head computes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.errors import ModelConfigError, ModelUnsupported, WeightError
from bert_serving.server.model.pipeline import Dense, LayerNorm, Normalize, SentencePipeline, Truncate
from bert_serving.server.model.sentence_transformers import POOLING_MODES, read_pipeline
from bert_serving.server.worker.head_weights import read_head_weights
from bert_serving.server.worker.sentence_head import SentenceHead, normalize
from bert_serving.server.worker.token_pooling import pool

Write = Callable[..., Path]
CLASSES = {
    "Transformer": "sentence_transformers.models.Transformer",
    "Pooling": "sentence_transformers.models.Pooling",
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a folder: modules by class path, and the content of files by their path."""

    def make(modules: list[tuple[str, str]] | None = None, files: dict[str, Any] | None = None) -> Path:
        listed = modules or [(CLASSES["Transformer"], ""), (CLASSES["Pooling"], "1_Pooling")]
        entries = [
            {"idx": index, "name": str(index), "path": path, "type": kind} for index, (kind, path) in enumerate(listed)
        ]
        content = {
            "modules.json": entries,
            "1_Pooling/config.json": {"pooling_mode_mean_tokens": True},
            **(files or {}),
        }
        for name, value in content.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value if isinstance(value, str) else json.dumps(value), "utf-8")
        return tmp_path

    return make


def pipeline_of(folder: Path) -> SentencePipeline:
    pipeline = read_pipeline(folder)
    assert pipeline is not None
    return pipeline


def test_a_plain_folder_has_no_pipeline(tmp_path: Path) -> None:
    assert read_pipeline(tmp_path) is None


@pytest.mark.parametrize(
    "package",
    [
        "sentence_transformers.models",
        "sentence_transformers.sentence_transformer.modules",
        "sentence_transformers.base.modules",
    ],
)
def test_class_paths_of_all_versions(write: Write, package: str) -> None:
    names = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dropout", "2_Dropout"), ("Normalize", "3_Normalize")]
    pipeline = pipeline_of(write([(f"{package}.{name}", path) for name, path in names]))
    assert pipeline.pooling == ("mean",)
    assert pipeline.is_normalized


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"pooling_mode": "cls"}, ("cls",)),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({"pooling_mode_cls_token": 1, "pooling_mode_mean_tokens": 0}, ("cls",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, ("max", "mean")),
        ({"pooling_mode_lasttoken": True, "pooling_mode_cls_token": True}, ("cls", "lasttoken")),
        ({"word_embedding_dimension": 8}, ("mean",)),
    ],
)
def test_pooling_modes(write: Write, values: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert pipeline_of(write(files={"1_Pooling/config.json": values})).pooling == expected


@pytest.mark.parametrize(
    ("files", "length", "lower_case"),
    [
        ({}, None, False),
        ({"sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": True}}, 128, True),
        ({"sentence_roberta_config.json": {"max_seq_length": 64}}, 64, False),
        ({"sentence_bert_config.json": {}, "tokenizer_config.json": {"model_max_length": 512}}, 512, False),
        ({"tokenizer_config.json": {"model_max_length": 1e30}}, None, False),
        ({"tokenizer_config.json": {"max_len": 128}}, 128, False),
        ({"tokenizer_config.json": {"max_len": 128, "model_max_length": 256.0}}, 256, False),
        ({"sentence_bert_config.json": {}, "sentence_xlnet_config.json": {"max_seq_length": 64}}, 64, False),
        ({"sentence_bert_config.json": {"max_seq_length": None, "do_lower_case": 1}}, None, True),
        (
            {"sentence_bert_config.json": {"model_args": {"attn_implementation": "sdpa"}, "unpad_inputs": False}},
            None,
            False,
        ),
        ({"sentence_bert_config.json": '\ufeff{"max_seq_length": 32}'}, 32, False),
    ],
)
def test_length_and_case(write: Write, files: dict[str, Any], length: int | None, lower_case: bool) -> None:
    pipeline = pipeline_of(write(files=files))
    assert (pipeline.max_seq_length, pipeline.lower_case) == (length, lower_case)


def test_the_layout_of_old_versions(write: Write) -> None:
    modules = [("sentence_transformers.models.BERT", "0_BERT"), (CLASSES["Pooling"], "1_Pooling")]
    folder = write(modules, {"0_BERT/sentence_bert_config.json": {"max_seq_length": 75}})
    pipeline = pipeline_of(folder)
    assert (pipeline.transformer_dir, pipeline.max_seq_length) == (str(folder / "0_BERT"), 75)


def test_a_prompt_may_be_null_or_have_an_empty_name(write: Write) -> None:
    values = {"prompts": {"query": None, "": "text: "}, "default_prompt_name": ""}
    pipeline = pipeline_of(write(files={"config_sentence_transformers.json": values}))
    assert (pipeline.prompts, pipeline.default_prompt_name) == ({"query": "", "": "text: "}, "")


def test_prompts_and_dimensions(write: Write) -> None:
    values = {"prompts": {"query": "query: "}, "default_prompt_name": "query", "truncate_dim": 16,
              "similarity_fn_name": "dot"}  # fmt: skip
    pipeline = pipeline_of(write(files={"config_sentence_transformers.json": values}))
    assert (pipeline.prompts, pipeline.default_prompt_name) == ({"query": "query: "}, "query")
    assert (pipeline.dimensions(384), pipeline.similarity) == (16, "dot")


NORM = "sentence_transformers.models.LayerNorm"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
#: Settings of the module Transformer that are refused.
OF_TRANSFORMER: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"processing_kwargs": {"text": {"max_length": 8}}}, ModelUnsupported, "processing_kwargs"),
    ({"query_expansion": {"strategy": "fixed", "length": 32}}, ModelUnsupported, "query_expansion"),
    ({"query_length": 32}, ModelUnsupported, "query_length 32"),
    ({"config_args": {"num_hidden_layers": 1}}, ModelUnsupported, "num_hidden_layers in config_args"),
    ({"tokenizer_args": {"do_lower_case": False}}, ModelUnsupported, "do_lower_case in tokenizer_args"),
    ({"model_kwargs": {"variant": "x"}}, ModelUnsupported, "variant in model_kwargs"),
    ({"model_kwargs": 5}, ModelUnsupported, "model_kwargs 5"),
    ({"new_setting": 1}, ModelUnsupported, "new_setting 1"),
    ({"module_output_name": "sentence_embedding"}, ModelUnsupported, "module_output_name"),
    ({"modality_config": {"text": {"method_output_name": "pooler_output"}}}, ModelUnsupported, "pooler_output"),
    ({"modality_config": {"text": {"method_output_name": ["hidden_states", 3]}}}, ModelUnsupported, "hidden_states"),
    ({"modality_config": {"text": {"method": "get_text_features"}}}, ModelUnsupported, "get_text_features"),
    ({"modality_config": {"text": {}, "image": {}}}, ModelUnsupported, "other than text .image"),
    ({"modality_config": {}}, ModelUnsupported, "other than text .none"),
    ({"modality_config": 5}, ModelConfigError, "modality_config must be an object"),
    ({"modality_config": {"text": "forward"}}, ModelConfigError, "modality_config must have an object"),
    ({"do_lower_case": "true"}, ModelConfigError, "do_lower_case must be true or false"),
]
LENGTHS = [("model_max_length", "512"), ("model_max_length", 0), ("model_max_length", True), ("max_len", 8.5)]
DENSE = [("sentence_transformers.models.Dense", "2_Dense")]


@pytest.mark.parametrize(
    ("modules", "files", "error", "named"),
    [
        ([("sentence_transformers.models.WeightedLayerPooling", "2")], {}, ModelUnsupported, "WeightedLayerPooling"),
        ([("sentence_transformers.sparse_encoder.models.SpladePooling", "2")], {}, ModelUnsupported, "SpladePooling"),
        ([("my_code.Head", "2")], {}, ModelUnsupported, "my_code.Head"),
        ([("sentence_transformers.models.Normalize", "../other")], {}, ModelConfigError, "../other"),
        ([], {"1_Pooling/config.json": {"include_prompt": False}}, ModelUnsupported, "include_prompt"),
        ([], {"1_Pooling/config.json": {"include_prompt": None}}, ModelUnsupported, "include_prompt"),
        ([], {"1_Pooling/config.json": {"pooling_mode_cls_token": "yes"}}, ModelConfigError, "true or false.*yes"),
        ([("sentence_transformers.models.Normalize", "2\0")], {}, ModelConfigError, "below it"),
        ([(NORMALIZE, "2")], {"2/config.json": {"module_input_name": "token_embeddings"}}, ModelUnsupported, "token_"),
        ([], {"1_Pooling/config.json": {"pooling_mode": "attention"}}, ModelUnsupported, "attention"),
        ([], {"1_Pooling/config.json": {"pooling_mode": 3}}, ModelConfigError, "pooling_mode"),
        ([], {"1_Pooling/config.json": "["}, ModelConfigError, "not valid JSON"),
        ([], {"modules.json": {}}, ModelConfigError, "JSON array"),
        ([], {"sentence_bert_config.json": {"transformer_task": "fill-mask"}}, ModelUnsupported, "fill-mask"),
        ([], {"sentence_bert_config.json": {"max_seq_length": -1}}, ModelConfigError, "max_seq_length"),
        *((([], {"sentence_bert_config.json": values}, error, named)) for values, error, named in OF_TRANSFORMER),
        *((([], {"tokenizer_config.json": {key: value}}, ModelConfigError, key)) for key, value in LENGTHS),
        ([], {"config_sentence_transformers.json": {"default_prompt_name": "q"}}, ModelConfigError, "prompt_name 'q'"),
        ([], {"config_sentence_transformers.json": {"default_prompt_name": ["q"]}}, ModelConfigError, "prompt_name"),
        ([], {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}}, ModelUnsupported, "model_type"),
        ([], {"config_sentence_transformers.json": {"model_type": None}}, ModelUnsupported, "model_type None"),
        ([], {"config_sentence_transformers.json": {"prompts": {"q": 5}}}, ModelConfigError, "'q' must be a text"),
        ([], {"config_sentence_transformers.json": {"prompts": {"q": "\ud800"}}}, ModelConfigError, r"'q'.*ud800"),
        ([], {"1_Pooling/config.json": {"pooling_mode_sum_tokens": True}}, ModelUnsupported, "sum_tokens True"),
        ([], {"1_Pooling/model.safetensors": "weights"}, ModelUnsupported, "safetensors: .* Pooling with"),
        ([(NORMALIZE, "2")], {"2/pytorch_model.bin": "weights"}, ModelUnsupported, "Normalize with weights"),
        ([("sentence_transformers.models.Dropout", "2")], {"2/a.pt": "w"}, ModelUnsupported, "Dropout with weights"),
        (DENSE, {"2_Dense/config.json": {"scale": 2}}, ModelUnsupported, "scale 2 is not honoured"),
        ([(NORM, "2")], {"2/config.json": {"dimension": 8, "eps": 1e-3}}, ModelUnsupported, "eps 0.001"),
        (DENSE, {"2_Dense/config.json": {"use_residual": True}}, ModelUnsupported, "use_residual"),
        (DENSE, {"2_Dense/config.json": {"module_input_name": "token_embeddings"}}, ModelUnsupported, "input_name"),
        (DENSE, {"2_Dense/config.json": {"activation_function": "os.system"}}, ModelUnsupported, "os.system"),
        (DENSE, {"2_Dense/config.json": {"activation_function": "torch.nn.Softmax"}}, ModelUnsupported, "Softmax"),
        (DENSE, {"2_Dense/config.json": {"in_features": 8, "out_features": 4}}, ModelConfigError, "model.safetensors"),
    ],
)  # fmt: skip
def test_refusals_name_what_is_refused(
    write: Write, modules: list[tuple[str, str]], files: dict[str, Any], error: type[Exception], named: str
) -> None:
    folder = write([(CLASSES["Transformer"], ""), (CLASSES["Pooling"], "1_Pooling"), *modules], files)
    with pytest.raises(error, match=named):
        read_pipeline(folder)


@pytest.mark.parametrize("package", ["sparse_encoder.models", "multi_vector_encoder.modules"])
def test_modules_of_other_kinds_of_models_are_refused_by_name(write: Write, package: str) -> None:
    kind = f"sentence_transformers.{package}.Pooling"
    with pytest.raises(ModelUnsupported, match=kind):
        read_pipeline(write([(CLASSES["Transformer"], ""), (kind, "1_Pooling")]))


def test_a_list_of_modules_that_is_a_folder_or_has_equal_names_is_refused(tmp_path: Path, write: Write) -> None:
    entry = {"name": "0", "path": "", "type": CLASSES["Transformer"]}
    with pytest.raises(ModelConfigError, match="two modules have the same name"):
        read_pipeline(write(files={"modules.json": [entry, entry]}))
    (tmp_path / "modules.json").unlink()
    (tmp_path / "modules.json").mkdir()
    with pytest.raises(ModelConfigError, match="Is a directory"):
        read_pipeline(tmp_path)


@pytest.mark.parametrize("first", ["Router", "CLIPModel", "WordEmbeddings", "StaticEmbedding"])
def test_another_first_module_is_refused_by_name(write: Write, first: str) -> None:
    with pytest.raises(ModelUnsupported, match=first):
        read_pipeline(write([(f"sentence_transformers.models.{first}", "")]))


# -- head -------------------------------------------------------------------------------------------------------------


def batch_of(lengths: list[int], mask: list[int] | None = None) -> Batch:
    ones = np.ones(sum(lengths), np.int32)
    return Batch(ones, ones * 0, ones if mask is None else np.array(mask, np.int32), np.array(lengths, np.int32))


def pipeline_with(*modules: Any, pooling: tuple[str, ...] = ()) -> SentencePipeline:
    return SentencePipeline("", pooling, modules)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from(POOLING_MODES), st.integers(0, 2**32 - 1))
def test_pooling_is_that_of_each_sequence_alone(lengths: list[int], mode: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    tokens = random.standard_normal((sum(lengths), 4), dtype=np.float32)
    mask = random.integers(0, 2, len(tokens))
    mask[np.cumsum(lengths) - 1] = 1  # at least one token of each sequence counts
    found = pool(tokens, batch_of(lengths, mask.tolist()), mode)
    start = 0
    for row, length in zip(found, lengths, strict=True):
        seen = mask[start : start + length].astype(bool)
        own, position = tokens[start : start + length][seen].astype(np.float64), np.flatnonzero(seen) + 1.0
        expected = {
            "cls": own[0],
            "lasttoken": own[-1],
            "max": own.max(0),
            "mean": own.mean(0),
            "mean_sqrt_len_tokens": own.sum(0) / np.sqrt(len(own)),
            "weightedmean": (own * position[:, None]).sum(0) / position.sum(),
        }[mode]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)
        start += length


def test_unit_vectors() -> None:
    rows = normalize(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]])


def test_modules_in_order_and_the_dtype_of_the_engine(tmp_path: Path) -> None:
    kernel = np.array([[1, 0], [0, 2], [1, 1]], np.float32)
    save_file({"linear.weight": kernel, "linear.bias": np.array([0, 0, 1], np.float32)}, tmp_path / "d.safetensors")
    dense = Dense(str(tmp_path / "d.safetensors"), 2, 3, True, "ReLU")
    pipeline = pipeline_with(dense, Normalize(), Truncate(2))
    head = SentenceHead(pipeline, 2, read_head_weights(pipeline, 2))
    found = head.apply(np.array([[3, -4]], np.float16), batch_of([1]))
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, [[1, 0]])


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    save_file({"linear.weight": np.zeros((3, 2), np.float32)}, tmp_path / "d.safetensors")
    dense = Dense(str(tmp_path / "d.safetensors"), 2, 3, True, "Tanh")
    with pytest.raises(WeightError, match=r"linear\.bias"):
        read_head_weights(pipeline_with(dense), 2)
    with pytest.raises(WeightError, match="takes 2 dimensions, its input has 4"):
        read_head_weights(pipeline_with(dense), 4)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("module", [Dense("", 2, 2, True, "Tanh"), Dense("", 2, 2, False, "Tanh"), LayerNorm("", 2)])
def test_surplus_tensors_of_a_module_are_refused_by_name(tmp_path: Path, module: Any, suffix: str) -> None:
    torch = pytest.importorskip("torch")
    path = tmp_path / f"model.{suffix}"
    names = module.names if module.has_bias else module.names[:1]
    tensors = {name: np.ones((2, 2) if name == "linear.weight" else 2, np.float32) for name in names}

    def read(**surplus: np.ndarray) -> Any:
        saved = tensors | {name.replace("__", "."): value for name, value in surplus.items()}
        if suffix == "bin":
            torch.save({name: torch.tensor(value) for name, value in saved.items()}, path)
        else:
            save_file(saved, path)
        return read_head_weights(pipeline_with(msgspec.structs.replace(module, weights=str(path))), 2)

    assert len(read()) == len(names)
    for name in ("residual__weight", *(() if module.has_bias else ("linear__bias",))):
        with pytest.raises(WeightError, match=rf"the tensor {name.replace('__', '.')}, which {type(module).__name__}"):
            read(**{name: np.ones(2, np.float32)})


def test_a_module_in_the_folder_of_the_encoder_has_no_weights_of_its_own(write: Write) -> None:
    modules = [(CLASSES["Transformer"], ""), (CLASSES["Pooling"], "1_Pooling"), (NORMALIZE, "")]
    assert pipeline_of(write(modules, {"model.safetensors": "weights"})).module_names == ["Normalize"]
