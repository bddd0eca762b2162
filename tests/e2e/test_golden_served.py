"""Serves every golden file and compares tokens and vectors with the original, through the frames of 1.10.0.

The reference engine, tensorflow, serves every third file; the engine that starts fastest serves the others.
``test_golden_engine.py`` compares each engine with all files, and ``test_golden_tokens.py`` the tokenizer. So the files
whose options matter to other parts of the server run with ``make test``, and the others with ``make faults``.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.server.model.default import default_model_dir
from preparation import entries, prepare
from servers import DATA, ENGINE, TINY, TINY_TUNED, serving

GOLDEN = DATA / "golden"


#: Files whose options the ventilator, the sink or the reader of the model folder uses.
OFTEN = {
    "tiny": {
        "mean_cased", "mean_lenNONE", "mean_small_batches", "mean_tuned", "none_fixed", "none_lenNONE",
        "none_layers-4-3-2-1", "none_no_special_token",
    },
    "minilm": {"mean_default"},
}  # fmt: skip


def cases() -> list[object]:
    no_model = pytest.mark.skipif(default_model_dir() is None, reason="the default model is not installed")
    return [
        pytest.param(
            path,
            ENGINE if index % 3 else "tensorflow",
            id=f"{path.parent.name}-{path.stem}",
            marks=[no_model] * (path.parent.name == "minilm")
            + [pytest.mark.minutes] * (path.stem not in OFTEN[path.parent.name]),
        )
        for index, path in enumerate(sorted(GOLDEN.glob("*/*.json")))
        if (path.with_suffix(".npz")).exists()
    ]


@pytest.fixture(scope="module")
def plain_minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model without ``modules.json``: the original knew no sentence-transformers folders."""
    folder = tmp_path_factory.mktemp("minilm") / "plain"
    if (source := default_model_dir()) is not None:
        folder.mkdir()
        for path in Path(source).iterdir():
            if path.name != "modules.json":
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own: the models of these tests are many, and each is served once."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize(("path", "engine"), cases())
def test_golden(path: Path, engine: str, plain_minilm: Path, cache: Path) -> None:
    golden = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        arrays = dict(file)
    is_tiny = path.parent.name == "tiny"
    model = TINY if is_tiny else plain_minilm
    args = [str(TINY_TUNED) if arg == "<tuned>" else arg for arg in golden["args"]]
    args += ["-show_tokens_to_client", "-engine", engine]
    prepared = prepare(*args, model_dir=model, cache=cache)
    with serving(*args, "-graph_tmp_dir", cache, model_dir=model) as server:
        assert entries(cache) == prepared, "the server prepared the model again"
        client = BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False)
        for name, part in golden["parts"].items():
            vectors, tokens = client.encode(part["texts"], is_tokenized=part["is_tokenized"], show_tokens=True)
            assert tokens == part["tokens"]
            expected = arrays[name]
            assert list(vectors.shape) == part["shape"]
            assert vectors.dtype == expected.dtype
            flat, wanted = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in (vectors, expected))
            np.testing.assert_allclose(flat, wanted, rtol=0, atol=1e-5 if is_tiny else 2e-4)
            norms = np.linalg.norm(flat, axis=1) * np.linalg.norm(wanted, axis=1)
            cosine = (flat * wanted).sum(1)[norms > 0] / norms[norms > 0]
            assert cosine.min() > 0.99999
        client.close()
