"""Reads heads in files beside the modules of a sentence-transformers folder, as BGE-M3 has them.

The library FlagEmbedding defines them: ``sparse_linear`` gives the weight of each token of a text, and
``colbert_linear`` its vector.
"""

from __future__ import annotations

from pathlib import Path

from .config import ModelConfig
from .files import reject_lfs_pointer
from .readers import open_reader
from .token_heads import LexicalHead, MultiHead, Tensor, TokenHead
from .token_names import read_unused_ids

_SUFFIXES = (".safetensors", ".pt")
_SPARSE, _MULTI = "sparse_linear", "colbert_linear"


def read_folder_heads(folder: Path, model: ModelConfig) -> dict[str, TokenHead]:
    """Returns the heads of a folder by their output; empty without their files. No weight is read.

    Raises:
        WeightError: a file is damaged.
        ModelConfigError: the vocabulary cannot be read.
    """
    heads: dict[str, TokenHead] = {}
    hidden = model.hidden_size
    if (path := _find(folder, _SPARSE)) is not None:
        heads["sparse"] = LexicalHead(_linear(path, 1, hidden), read_unused_ids(model.vocab_path))
    if (path := _find(folder, _MULTI)) is not None:
        dims = hidden if path.suffix == ".pt" else open_reader(str(path), "safetensors").shape("weight")[0]
        tensors = {f"0/{name}": tensor for name, tensor in _linear(path, dims, hidden).items()}
        heads["multi"] = MultiHead(tensors, ("Identity",), dims, skips_first=True)
    return heads


def _find(folder: Path, name: str) -> Path | None:
    for suffix in _SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            reject_lfs_pointer(path)
            return path
    return None


def _linear(path: Path, outputs: int, inputs: int) -> dict[str, Tensor]:
    return {
        "weight": Tensor(("weight",), (outputs, inputs), str(path)),
        "bias": Tensor(("bias",), (outputs,), str(path)),
    }
