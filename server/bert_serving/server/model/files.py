"""Locates the configuration, the vocabulary and the weights in a model folder."""

from __future__ import annotations

import glob
import json
import os
import re
from pathlib import Path

from .errors import ModelError, ModelNotFound, WeightError
from .rejections import reject_hub_cache, reject_missing_folder, reject_other_weights

DEFAULT_CKPT_NAME = "bert_model.ckpt"
DEFAULT_CONFIG_NAME = "bert_config.json"
HF_CONFIG_NAME = "config.json"
VOCAB_NAMES = ("tokenizer.json", "vocab.txt")
#: Files of tokenizers that are not fast; a folder with one of them alone needs a tokenizer.json.
SLOW_TOKENIZERS = (
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "spm.model",
    "tokenizer.model",
    "vocab.json",
)
#: Weights of a Hugging Face folder; the first existing file is used.
HF_WEIGHTS = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "pytorch"),
    ("pytorch_model.bin.index.json", "pytorch"),
)

_LFS_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"\.data-\d{5}-of-(\d{5})$")


def listing(folder: Path, limit: int = 20) -> str:
    """Lists up to ``limit`` names in ``folder`` for an error message."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "the folder is empty"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"the folder contains {', '.join(names[:limit])}{more}"


def expand_user(path: str | os.PathLike[str], flag: str) -> Path:
    """Returns ``path`` with ``~`` and ``~user`` replaced by a home folder.

    Args:
        flag: the option with this path, for the error message.

    Raises:
        ModelNotFound: the user is unknown, or has no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ModelNotFound(f"{flag} {path}: {error} Write the path without ~") from None


def require_folder(path: str | os.PathLike[str], flag: str) -> Path:
    """Returns ``path`` as a readable folder.

    Args:
        flag: the option with this path, for the error message.

    Raises:
        ModelNotFound: the folder does not exist, or is a file.
        ModelError: the folder is not readable.
    """
    folder = expand_user(path, flag)
    reject_missing_folder(folder, flag)
    if folder.is_dir():
        reject_hub_cache(folder, flag)
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelError(f"{flag}: this user may not read {folder}; change its permissions")
        return folder
    where = f"{folder}" if folder.is_absolute() else f"{folder} ({folder.absolute()})"
    if folder.exists():
        raise ModelNotFound(f"{flag}: {where} is a file, not a folder; unpack it, or set the folder that contains it")
    nearest = next(parent for parent in folder.absolute().parents if parent.is_dir())
    raise ModelNotFound(f"{flag}: the folder {where} does not exist; the path exists up to {nearest}: check the rest")


def find_config(folder: Path, config_name: str, prefers_hf: bool = False) -> Path:
    """Locates ``config_name``, or Hugging Face's ``config.json`` if the option is at its default.

    Args:
        prefers_hf: of both files, that of Hugging Face counts, because the weights are its own.

    Raises:
        ModelNotFound: neither file exists.
    """
    candidates = [config_name]
    if config_name == DEFAULT_CONFIG_NAME:
        candidates.insert(0 if prefers_hf else 1, HF_CONFIG_NAME)
    for name in candidates:
        if (folder / name).is_file():
            return folder / name
    raise ModelNotFound(
        f"no model configuration in {folder}: looked for {' and '.join(candidates)}, but {listing(folder)}; "
        "set -model_dir to the folder of the model, or -config_name to the file"
    )


def find_vocab(folder: Path) -> Path:
    """Locates ``tokenizer.json``, or else ``vocab.txt``.

    Raises:
        ModelNotFound: neither file exists.
    """
    for name in VOCAB_NAMES:
        if (folder / name).is_file():
            return folder / name
    slow = next((name for name in SLOW_TOKENIZERS if (folder / name).is_file()), None)
    if slow is not None:
        raise ModelNotFound(
            f"{folder} has {slow} and no tokenizer.json; save the fast tokenizer to this folder: "
            "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
        )
    raise ModelNotFound(
        f"no vocabulary in {folder}: looked for {' and '.join(VOCAB_NAMES)}, but {listing(folder)}; "
        "copy the vocabulary of the model to this folder"
    )


def tf1_checkpoints(folder: Path) -> list[str]:
    """Returns the prefixes of the TF1 checkpoints in ``folder``; the latest per its ``checkpoint`` file is first."""
    found = sorted(entry.name[: -len(".index")] for entry in folder.glob("*.index") if entry.is_file())
    try:
        text = (folder / "checkpoint").read_text("utf-8", "replace")
    except OSError:
        text = ""
    named = re.search(r'^\s*model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if named:
        latest = re.split(r"[\\/]", named.group(1))[-1]  # the path may be from another machine
        found.sort(key=lambda name: name != latest)
    return found


def find_checkpoint(folder: Path, ckpt_name: str, flag: str) -> tuple[str, str]:
    """Locates the weights in ``folder``.

    Args:
        ckpt_name: prefix of a TF1 checkpoint, or file name of Hugging Face weights. At its default, the usual Hugging
            Face names are tried too.
        flag: the option with the path of ``folder``, for the error message.

    Returns:
        ``(path, format)`` for ``ModelConfig.checkpoint`` and ``.checkpoint_format``.

    Raises:
        ModelNotFound: there is no such checkpoint; the message lists the existing ones.
        WeightError: the checkpoint is incomplete, or is a Git LFS pointer.
    """
    # As in 1.10, the name may be a path: absolute, or relative to the folder.
    path = folder / expand_user(ckpt_name, "-ckpt_name")
    folder, ckpt_name = path.parent, path.name
    if (folder / f"{ckpt_name}.index").is_file():
        require_shards(folder, ckpt_name)
        return str(folder / ckpt_name), "tf1"
    names = (
        HF_WEIGHTS if ckpt_name == DEFAULT_CKPT_NAME else tuple(w for w in HF_WEIGHTS if _same_kind(w[0], ckpt_name))
    )
    for name, kind in names:
        path = folder / (name if ckpt_name == DEFAULT_CKPT_NAME else ckpt_name)
        if path.is_file():
            reject_lfs_pointer(path)
            return str(path), kind
    looked = [f"{ckpt_name}.index"]
    looked += [name for name, _ in HF_WEIGHTS] if ckpt_name == DEFAULT_CKPT_NAME else []
    text = f"no checkpoint {ckpt_name!r} in {folder}: looked for {', '.join(looked)}"
    if there := tf1_checkpoints(folder):
        raise ModelNotFound(f"{text}; found {', '.join(there)}: add -ckpt_name {there[0]}")
    if others := [name for name, _ in HF_WEIGHTS if (folder / name).is_file()]:
        raise ModelNotFound(f"{text}; found {others[0]}: remove -ckpt_name to use it")
    reject_other_weights(folder, ckpt_name)
    raise ModelNotFound(f"{text}, but {listing(folder)}; set {flag} to the folder of the weights")


def _same_kind(known: str, name: str) -> bool:
    """Returns whether two names of weights have the same suffix, and thus the same format."""
    ending = known.partition(".")[2]
    return name.endswith("." + ending) and name.endswith(".json") == known.endswith(".json")


def require_shards(folder: Path, prefix: str) -> None:
    """Raises ``WeightError`` if a data file of a TF1 checkpoint is missing or empty."""
    shards = [entry for entry in folder.glob(f"{glob.escape(prefix)}.data-*") if _SHARD.search(entry.name)]
    if not shards:
        raise WeightError(
            f"checkpoint {folder / prefix} has an index but no {prefix}.data-00000-of-00001; "
            f"{listing(folder)}; copy the missing file"
        )
    total = int(_SHARD.search(shards[0].name).group(1))  # type: ignore[union-attr]
    for number in range(total):
        name = f"{prefix}.data-{number:05d}-of-{total:05d}"
        if not (folder / name).is_file() or (folder / name).stat().st_size == 0:
            raise WeightError(f"checkpoint {folder / prefix}: {name} is missing or empty; copy it again")
    for name in (f"{prefix}.index", shards[0].name):
        reject_lfs_pointer(folder / name)


def reject_lfs_pointer(path: Path) -> None:
    """Raises ``WeightError`` if ``path`` is a Git LFS pointer instead of the file."""
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise WeightError(f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder")


def checkpoint_files(checkpoint: str, checkpoint_format: str) -> list[Path]:
    """Returns all files of a checkpoint, sorted.

    Args:
        checkpoint: ``ModelConfig.checkpoint``.
        checkpoint_format: ``ModelConfig.checkpoint_format``.

    Raises:
        WeightError: an index names a file that is missing or outside its folder.
    """
    path = Path(checkpoint)
    if checkpoint_format == "tf1":
        return [path.with_name(path.name + ".index"), *sorted(path.parent.glob(f"{glob.escape(path.name)}.data-*"))]
    if path.suffix == ".json":
        return [path, *sorted({path.parent / shard for shard in shard_index(path).values()})]
    return [path]


def shard_index(path: Path) -> dict[str, str]:
    """Reads tensor name → file name from the index of a sharded checkpoint.

    Raises:
        WeightError: the index is invalid, or names a file that is missing or outside its folder.
    """
    try:
        weight_map = json.loads(path.read_text("utf-8-sig"))["weight_map"]
        shards = {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightError(f"{path} is not the index of a sharded checkpoint ({error!r}); copy it again") from error
    for shard in set(shards.values()):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise WeightError(
                f"{path} names {shard!r}, which is outside its folder; the index is invalid: copy it again"
            )
        if not (path.parent / shard).is_file():
            raise WeightError(f"{path} names {shard}, which is missing: {listing(path.parent)}; copy it again")
        reject_lfs_pointer(path.parent / shard)
    return shards
