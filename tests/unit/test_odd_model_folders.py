"""Compares folders of sentence-transformers in unusual forms with that library: layouts, names, switches, prompts."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.server import engines
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.cache import Cache
from bert_serving.server.supervisor.preflight import read_model
from bert_serving.server.tokenization.factory import make_tokenizer
from bert_serving.server.worker.engine_spec import engine_spec
from bert_serving.server.worker.head_weights import load_head_weights, prepare_head_weights
from bert_serving.server.worker.sentence_head import SentenceHead
from model_folders import TINY, hf_tensors, write_hf

library = pytest.importorskip("sentence_transformers")
modules_of = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
base_modules_of = pytest.importorskip("sentence_transformers.base.modules")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ENGINE = next(info.name for info in engines.available("cpu", "fp32") if info.name != "zeros")
TEXTS = ["Hello, world!", "hello [SEP] world [MASK]", "ΑΣ İstanbul, Café", "", "the dog is hairy " * 20]
SETTINGS, POOLING = "sentence_bert_config.json", "1_Pooling/config.json"
PROMPTS, TOKENIZER = "config_sentence_transformers.json", "tokenizer_config.json"
Change = Callable[[Path], object]


def write_json(path: Path, **values: Any) -> None:
    old = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | values), "utf-8")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a tokenizer of transformers and a chain of modules, as the library saves it."""
    torch.manual_seed(0)
    encoder, folder = tmp_path_factory.mktemp("encoder"), tmp_path_factory.mktemp("folder")
    write_hf(encoder, hf_tensors(), architectures=["BertModel"])
    words = (TINY / "vocab.txt").read_text("utf-8").split()
    tokenizer = transformers.BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    tokenizer.save_pretrained(encoder)
    model = library.SentenceTransformer(
        modules=[
            modules_of.Transformer(str(encoder), max_seq_length=40),
            modules_of.Pooling(32, ("mean", "max")),
            base_modules_of.Dense(64, 24, activation_function=torch.nn.Tanh()),
            base_modules_of.Dense(24, 16, bias=False, activation_function=torch.nn.SiLU()),
            modules_of.LayerNorm(16),
            base_modules_of.Normalize(),
        ],
        device="cpu",
    )
    model.save(str(folder))
    shutil.copy(TINY / "vocab.txt", folder / "vocab.txt")
    return folder


def served(folder: Path, cache: Path) -> tuple[np.ndarray, list[list[int]]]:
    """Returns the vectors and the token ids that a server computes."""
    config, model = read_model(ServerConfig(model_dir=str(folder), engine=ENGINE), logging.getLogger())
    tokenized = make_tokenizer(config, model).encode(TEXTS)
    ids = tokenized.input_ids
    batch = Batch(ids, np.zeros_like(ids), np.ones_like(ids), tokenized.lengths)
    spec = engine_spec(config, model, {"cache_dir": str(cache), "dtype": "fp32"})
    module = engines.load(ENGINE)
    module.prepare(spec, lambda _: None)
    pipeline, width = config.pipeline, config.pooled_size(model)
    assert pipeline is not None
    weights = prepare_head_weights(pipeline, width, Cache(cache))
    head = SentenceHead(pipeline, width, load_head_weights(None if weights is None else str(weights)))
    vectors = head.apply(module.create(spec, Device(threads=1)).encode(batch), batch)
    return vectors, [row.tolist() for row in np.split(ids, np.cumsum(tokenized.lengths)[:-1])]


def old_layout(folder: Path) -> None:
    """The layout of 2019: a folder of the encoder, ``vocab.txt`` alone, switches of the pooling."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        shutil.move(folder / name, inner / name)
    for name in ("tokenizer.json", TOKENIZER, SETTINGS):
        (folder / name).unlink()
    write_json(inner / SETTINGS, max_seq_length=16, do_lower_case=True)
    (folder / POOLING).write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": 1, "pooling_mode_max_tokens": True})
    )
    entries = json.loads((folder / "modules.json").read_text())
    entries[0] |= {"path": inner.name, "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps(entries))


def without_normalize(folder: Path) -> None:
    """The folder of Normalize is missing, as in the default model."""
    (path,) = folder.glob("*_Normalize")
    shutil.rmtree(path)


CHANGES: dict[str, Change] = {
    "as saved": lambda folder: None,
    "old layout": old_layout,
    "vocab.txt": lambda folder: (folder / "tokenizer.json").unlink(),
    "lower-casing first": lambda folder: write_json(folder / SETTINGS, do_lower_case=True),
    "length of the tokenizer": lambda folder: write_json(folder / TOKENIZER, model_max_length=9),
    "prompt": lambda folder: write_json(
        folder / PROMPTS, prompts={"": "Frage, 質問\n: ", "q": None}, default_prompt_name=""
    ),
    "dimensions": lambda folder: write_json(folder / PROMPTS, truncate_dim=5),
    "switches as numbers": lambda folder: write_json(folder / "2_Dense" / "config.json", bias=1, use_residual=0),
    "one mode, as a list": lambda folder: (
        write_json(folder / POOLING, pooling_mode=["lasttoken", "cls"]),
        write_json(folder / "config.json", layer_norm_eps=1e-2),
    ),
    "another configuration beside": lambda folder: (folder / "bert_config.json").write_text('{"hidden_size": 8}'),
    "no folder of Normalize": without_normalize,
}


@pytest.mark.parametrize("name", CHANGES)
def test_vectors_and_ids_are_those_of_the_library(
    original: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "model"))
    CHANGES[name](folder)
    reference = library.SentenceTransformer(str(folder), device="cpu")
    prompt = (reference.prompts or {}).get(reference.default_prompt_name, "")
    expected_ids = [
        reference.tokenizer(prompt + text, truncation=True, max_length=reference.max_seq_length)["input_ids"]
        for text in TEXTS
    ]
    vectors, ids = served(folder, tmp_path_factory.getbasetemp() / "odd-folders-cache")
    assert ids == expected_ids
    expected = np.concatenate([reference.encode([text]) for text in TEXTS])  # alone, without padding
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max()))
