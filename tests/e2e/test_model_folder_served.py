"""Serves sentence-transformers folders and compares the vectors with those of that library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.server.model.default import default_model_dir
from servers import Server, serving

pytestmark = pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")

TEXTS = [
    "A man is playing a guitar.",
    "The stock market fell sharply today. " * 60,
    "What is the capital of FRANCE?",
    "Ein schöner Tag im Café.",
    "x",
]
Build = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    """Imports the libraries in the process that runs these tests. Each process of a parallel run collects them."""
    global sentence_transformers, modules_of, base_modules_of, torch
    sentence_transformers = pytest.importorskip("sentence_transformers")
    modules_of = pytest.importorskip("sentence_transformers.sentence_transformer.modules")
    base_modules_of = pytest.importorskip("sentence_transformers.base.modules")
    torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Folders of the library, with MiniLM as their encoder: ``build(pooling modes, *modules, **settings)``."""

    def make(modes: Any = "mean", *modules: Any, max_seq_length: int = 64, **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("folder")
        transformer = modules_of.Transformer(default_model_dir(), max_seq_length=max_seq_length)
        pooling = modules_of.Pooling(384, modes)
        model = sentence_transformers.SentenceTransformer(
            modules=[transformer, pooling, *modules], device="cpu", **settings
        )
        model.save(str(folder))
        return folder

    return make


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def expected(folder: Path | str, **settings: Any) -> np.ndarray:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return np.asarray(model.encode(TEXTS, **settings))


def warnings_of(server: Server) -> list[str]:
    return [line for line in server.log.splitlines() if " W:SUPERVISOR" in line and "-host" not in line]


def vectors_of(folder: Path | str | None, *args: str) -> tuple[np.ndarray, list[str]]:
    """Vectors of ``TEXTS``, and the warnings of the start."""
    with (
        serving(*args, model_dir=folder) as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client,
    ):
        return client.encode(TEXTS), warnings_of(server)


def assert_same(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    norms = np.linalg.norm(found, axis=1), np.linalg.norm(wanted, axis=1)
    assert ((found * wanted).sum(1) / norms[0] / norms[1]).min() > 0.99999
    np.testing.assert_allclose(*norms, rtol=1e-4)


@pytest.mark.parametrize(
    "engine", ["onnx", *(pytest.param(name, marks=pytest.mark.minutes) for name in ("tensorflow", "torch"))]
)
def test_weighted_mean_and_modules_on_each_engine(build: Build, engine: str) -> None:
    folder = build(
        "weightedmean", base_modules_of.Dense(384, 128), modules_of.Dropout(0.1), base_modules_of.Normalize()
    )
    found, warnings = vectors_of(folder, "-engine", engine)
    assert_same(found, expected(folder))
    assert warnings == []


@pytest.mark.parametrize(
    "modes",
    [
        *(pytest.param(mode, marks=pytest.mark.minutes) for mode in ("cls", "max", "lasttoken")),
        "mean_sqrt_len_tokens",
        ("mean", "max"),
    ],
)
def test_pooling_modes(build: Build, modes: Any) -> None:
    folder = build(modes)
    assert_same(vectors_of(folder)[0], expected(folder))


def test_layer_norm_and_dense_without_bias(build: Build) -> None:
    gelu = base_modules_of.Dense(768, 64, bias=False, activation_function=torch.nn.GELU())
    folder = build(("max", "cls"), gelu, modules_of.LayerNorm(64))
    assert_same(vectors_of(folder)[0], expected(folder))


@pytest.mark.parametrize("folder", [None, default_model_dir()], ids=["default", "model_dir"])
def test_the_default_model_gives_unit_vectors_however_it_is_named(folder: str | None) -> None:
    found, warnings = vectors_of(folder)
    assert_same(found, expected(default_model_dir() or ""))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert warnings == []


def test_the_length_of_the_folder_counts(build: Build) -> None:
    folder = build(max_seq_length=16)
    assert_same(vectors_of(folder)[0], expected(folder))


def test_the_default_prompt_is_put_before_each_text(build: Build) -> None:
    prompts = {"query": "query ||| text: ", "passage": "passage: "}
    folder = build(prompts=prompts, default_prompt_name="query")
    assert_same(vectors_of(folder)[0], expected(folder))
    assert_same(vectors_of(folder, "-prompt_name", "passage")[0], expected(folder, prompt_name="passage"))


def test_dimensions_are_cut_and_normalized_again() -> None:
    model = sentence_transformers.SentenceTransformer(default_model_dir(), device="cpu", truncate_dim=100)
    wanted = np.asarray(model.encode(TEXTS, normalize_embeddings=True))
    assert_same(vectors_of(default_model_dir(), "-dimensions", "100")[0], wanted)


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (("-pooling_layer", "-2"), "the folder wants mean of layer -1 and then Normalize, which are left out"),
        (("-pooling_strategy", "CLS_TOKEN"), "the folder wants mean of layer -1"),
        (("-max_seq_len", "25"), "the folder wants 256"),
        (("-normalize", "off"), "the folder wants unit vectors"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_given_option_wins_even_at_its_default_and_the_log_says_so(args: tuple[str, ...], wanted: str) -> None:
    with serving(*args, model_dir=default_model_dir()) as server:
        (warning,) = warnings_of(server)
    assert wanted in warning
    assert args[0][1:].split("_")[0] in warning


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"1_Pooling/config.json": {"include_prompt": False}}, "include_prompt"),
        ({"modules.json": [{"type": "sentence_transformers.models.CLIPModel", "path": ""}]}, "CLIPModel"),
        ({"sentence_bert_config.json": {"transformer_task": "fill-mask"}}, "fill-mask"),
    ],
    ids=["prompt", "module", "task"],
)
def test_what_is_not_computed_is_refused_by_name(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    folder = Path(shutil.copytree(default_model_dir() or "", tmp_path / "model"))
    for name, value in change.items():
        (folder / name).write_text(json.dumps(value))
    server = Server(model_dir=folder)
    try:
        assert server.process.wait(60) == 3
        assert reason in server.log.splitlines()[-1]
        assert "Traceback" not in server.log
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("-prompt_name", "query"), "-prompt_name query: the model folder has the prompts none"),
        (("-dimensions", "385"), "-dimensions 385 is more than the 384 dimensions"),
    ],
    ids=["prompt", "dimensions"],
)
def test_an_option_that_does_not_fit_is_refused(args: tuple[str, ...], reason: str) -> None:
    server = Server(*args, model_dir=default_model_dir())
    try:
        assert server.process.wait(60) == 3
        assert reason in server.log
    finally:
        server.kill()


def check(*args: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bert_serving.server", "-check", *args]
    env = os.environ | ({} if home is None else {"HOME": str(home)})
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


def test_check_prints_what_would_be_served_and_what_is_overridden() -> None:
    done = check("-model_dir", default_model_dir() or "", "-max_seq_len", "25", "-cpu")
    assert done.returncode == 0, done.stderr
    for text in (
        "sentence-transformers folder",
        "BERT, 6 layers of 384",
        "WordPiece, computed by the server",
        "REDUCE_MEAN of layer -1, then Normalize",
        "384 dimensions per text, length 1",
        "25 tokens",
        "-max_seq_len 25 is set; the folder wants 256",
    ):
        assert text in done.stdout
    assert len(done.stdout.splitlines()) <= 12


def test_check_of_a_folder_in_the_home_folder_with_prompts_and_a_similarity(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(default_model_dir() or "", tmp_path / "model"))
    values = {"prompts": {"": "résumé: "}, "default_prompt_name": "", "similarity_fn_name": "dot"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(values))
    done = check("-model_dir=~/model", "-cpu", home=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("sentence-transformers folder", "'résumé: '", "length 1, compared by dot", "256 tokens"):
        assert text in done.stdout


def test_check_refuses_as_the_start_does(tmp_path: Path) -> None:
    done = check("-model_dir", str(tmp_path / "none"))
    assert done.returncode == 3
    assert done.stderr.startswith("refused: -model_dir")
    assert "Traceback" not in done.stderr
