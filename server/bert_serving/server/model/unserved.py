"""Names the tensors of a checkpoint that the server does not read: heads, and whatever else is outside the encoder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .config import ModelConfig
from .errors import ReaderMissing
from .files import shard_index
from .merged_reader import open_checkpoint
from .pipeline import SentencePipeline
from .rejections import is_no_weight
from .sources import find_sources

#: Number of tensors that a message names.
_SHOWN = 3


def tensor_names(config: ModelConfig) -> list[str]:
    """Returns the names of all tensors but scalars, which are counters of the training. Reads no weights.

    Raises:
        WeightError: the checkpoint is damaged.
        ReaderMissing: the library that reads this format is not installed.
    """
    reader = open_checkpoint(config)
    return sorted(name for name in reader.names() if reader.shape(name) != ())


def quick_tensor_names(config: ModelConfig) -> list[str] | None:
    """Returns the names of tensors within milliseconds; None if that needs TensorFlow, PyTorch or a missing library.

    Raises:
        WeightError: the checkpoint is damaged.
    """
    path = Path(config.checkpoint)
    if path.suffix == ".json" and config.adapter is None:
        return sorted(shard_index(path))
    try:
        return tensor_names(config) if config.is_quick_to_open else None
    except ReaderMissing:
        return None


def unserved_tensors(names: Iterable[str], config: ModelConfig, pipeline: SentencePipeline | None) -> list[str]:
    """Returns those of ``names`` that are neither of the encoder nor of the modules after it, such as those of a head.

    Raises:
        WeightError: the checkpoint has no word embeddings.
    """
    names = sorted(names)
    used = {source.name for source in find_sources(names, config).values()}
    of_modules = () if pipeline is None else pipeline.checkpoint_tensors
    ends = tuple(f"{separator}{name}" for name in of_modules for separator in "./")
    return [
        name
        for name in names
        if name not in used and not is_no_weight(name) and not (ends and f"/{name}".endswith(ends))
    ]


def describe_unserved(
    names: list[str], config: ModelConfig, task: str, pipeline: SentencePipeline | None = None
) -> str:
    """Returns the warning about tensors that are not served.

    Args:
        names: return value of ``unserved_tensors``; not empty.
        task: value of ``-task``.
        pipeline: what follows the encoder.
    """
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    # The configuration of a fine-tuned model may be that of its base.
    head = f" ({config.head_class})" if config.head_class and not config.is_tuned else ""
    has_head = pipeline is not None and pipeline.checkpoint_tensors
    of_vectors = f"vectors come from its encoder{' and a head' if has_head else ''}"
    served = of_vectors if task == "embed" else "scores come from the head of its family"
    return f"{config.checkpoint}: the tensors {', '.join(names[:_SHOWN])}{more} are not served{head}: {served}"
