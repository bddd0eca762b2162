"""Which files of a model folder are the configuration, the vocabulary and the weights."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from .errors import ModelError, ModelNotFound, WeightError

DEFAULT_CKPT_NAME = "bert_model.ckpt"
DEFAULT_CONFIG_NAME = "bert_config.json"
HF_CONFIG_NAME = "config.json"
VOCAB_NAMES = ("vocab.txt", "tokenizer.json")
#: Weights of a Hugging Face style folder, the first that is there is taken.
HF_WEIGHTS = (
    ("model.safetensors", "safetensors"),
    ("model.safetensors.index.json", "safetensors"),
    ("pytorch_model.bin", "pytorch"),
    ("pytorch_model.bin.index.json", "pytorch"),
)

_LFS_POINTER = b"version https://git-lfs"
_SHARD = re.compile(r"\.data-\d{5}-of-(\d{5})$")


def listing(folder: Path, most: int = 20) -> str:
    """Names in ``folder`` as an error message shows them, at most ``most``."""
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    if not names:
        return "the folder is empty"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"the folder holds {', '.join(names[:most])}{more}"


def require_folder(path: str | os.PathLike[str], flag: str) -> Path:
    """``path`` as a folder that can be read.

    Args:
        flag: the option that named it, for the message.

    Raises:
        ModelNotFound: it is not there, or is a file.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not os.access(folder, os.R_OK | os.X_OK):
            raise ModelError(f"{flag}: {folder} may not be read by this user; change its permissions")
        return folder
    where = f"{folder}" if folder.is_absolute() else f"{folder} (that is {folder.absolute()})"
    if folder.exists():
        raise ModelNotFound(f"{flag}: {where} is a file, not a folder; unpack it, or name the folder that it lies in")
    nearest = next(parent for parent in folder.absolute().parents if parent.is_dir())
    raise ModelNotFound(f"{flag}: there is no folder {where}; the path exists up to {nearest}, check the rest of it")


def find_config(folder: Path, config_name: str) -> Path:
    """``config_name``, or Hugging Face's ``config.json`` where the option was left at its default.

    Raises:
        ModelNotFound: there is neither.
    """
    candidates = [config_name]
    if config_name == DEFAULT_CONFIG_NAME:
        candidates.append(HF_CONFIG_NAME)
    for name in candidates:
        if (folder / name).is_file():
            return folder / name
    raise ModelNotFound(
        f"no model configuration in {folder}: looked for {' and '.join(candidates)}, but {listing(folder)}; "
        "name the folder that holds the model with -model_dir, or the file with -config_name"
    )


def find_vocab(folder: Path) -> Path:
    """``vocab.txt``, or ``tokenizer.json`` where there is none.

    Raises:
        ModelNotFound: there is neither.
    """
    for name in VOCAB_NAMES:
        if (folder / name).is_file():
            return folder / name
    raise ModelNotFound(
        f"no vocabulary in {folder}: looked for {' and '.join(VOCAB_NAMES)}, but {listing(folder)}; "
        "copy the vocabulary that the model was trained with to this folder"
    )


def tf1_checkpoints(folder: Path) -> list[str]:
    """Prefixes of the TF1 checkpoints in ``folder``, the one that its ``checkpoint`` file names first."""
    found = sorted(entry.name[: -len(".index")] for entry in folder.glob("*.index") if entry.is_file())
    try:
        text = (folder / "checkpoint").read_text("utf-8", "replace")
    except OSError:
        text = ""
    named = re.search(r'^\s*model_checkpoint_path:\s*"([^"]+)"', text, re.MULTILINE)
    if named:
        latest = re.split(r"[\\/]", named.group(1))[-1]  # the file may hold the path of another machine
        found.sort(key=lambda name: name != latest)
    return found


def find_checkpoint(folder: Path, ckpt_name: str, flag: str) -> tuple[str, str]:
    """Where the weights in ``folder`` are.

    Args:
        ckpt_name: prefix of a TF1 checkpoint, or the file name of Hugging Face style weights. At its default, Hugging
            Face's own names are looked for as well.
        flag: the option that named ``folder``, for the message.

    Returns:
        ``(path, format)`` as ``ModelConfig.checkpoint`` and ``.checkpoint_format`` hold them.

    Raises:
        ModelNotFound: there is no such checkpoint; the message lists those that are there.
        WeightError: the checkpoint is there in part, or is a Git LFS pointer.
    """
    if (folder / f"{ckpt_name}.index").is_file():
        require_shards(folder, ckpt_name)
        return str(folder / ckpt_name), "tf1"
    names = (
        HF_WEIGHTS if ckpt_name == DEFAULT_CKPT_NAME else tuple(w for w in HF_WEIGHTS if _same_kind(w[0], ckpt_name))
    )
    for name, kind in names:
        path = folder / (name if ckpt_name == DEFAULT_CKPT_NAME else ckpt_name)
        if path.is_file():
            refuse_lfs_pointer(path)
            return str(path), kind
    looked = [f"{ckpt_name}.index"]
    looked += [name for name, _ in HF_WEIGHTS] if ckpt_name == DEFAULT_CKPT_NAME else []
    text = f"no checkpoint {ckpt_name!r} in {folder}: looked for {', '.join(looked)}"
    if there := tf1_checkpoints(folder):
        raise ModelNotFound(f"{text}; there is {', '.join(there)}: add -ckpt_name {there[0]}")
    if others := [name for name, _ in HF_WEIGHTS if (folder / name).is_file()]:
        raise ModelNotFound(f"{text}; there is {others[0]}: leave -ckpt_name out to use it")
    raise ModelNotFound(f"{text}, but {listing(folder)}; name the folder that holds the weights with {flag}")


def _same_kind(known: str, name: str) -> bool:
    """Whether ``name`` is weights of the same kind as ``known``, judged by how the two end."""
    ending = known.partition(".")[2]
    return name.endswith("." + ending) and name.endswith(".json") == known.endswith(".json")


def require_shards(folder: Path, prefix: str) -> None:
    """Raises ``WeightError`` where a data file of a TF1 checkpoint is missing or empty."""
    shards = [entry for entry in folder.glob(f"{prefix}.data-*") if _SHARD.search(entry.name)]
    if not shards:
        raise WeightError(
            f"checkpoint {folder / prefix} has an index but no {prefix}.data-00000-of-00001 beside it, "
            f"{listing(folder)}; copy the missing file"
        )
    total = int(_SHARD.search(shards[0].name).group(1))  # type: ignore[union-attr]
    for number in range(total):
        name = f"{prefix}.data-{number:05d}-of-{total:05d}"
        if not (folder / name).is_file() or (folder / name).stat().st_size == 0:
            raise WeightError(f"checkpoint {folder / prefix}: {name} is missing or empty; copy it again")
    for name in (f"{prefix}.index", shards[0].name):
        refuse_lfs_pointer(folder / name)


def refuse_lfs_pointer(path: Path) -> None:
    """Raises ``WeightError`` where ``path`` is the stand-in that Git leaves when large files were not fetched."""
    with open(path, "rb") as file:
        start = file.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise WeightError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in that folder")


def checkpoint_files(checkpoint: str, checkpoint_format: str) -> list[Path]:
    """Every file that the weights of a checkpoint are read from, sorted.

    Args:
        checkpoint: ``ModelConfig.checkpoint``.
        checkpoint_format: ``ModelConfig.checkpoint_format``.

    Raises:
        WeightError: an index names a file that is missing or lies outside the folder.
    """
    path = Path(checkpoint)
    if checkpoint_format == "tf1":
        return [path.with_name(path.name + ".index"), *sorted(path.parent.glob(f"{path.name}.data-*"))]
    if path.suffix == ".json":
        return [path, *sorted({path.parent / shard for shard in shard_index(path).values()})]
    return [path]


def shard_index(path: Path) -> dict[str, str]:
    """Tensor name → file name, from the index of a sharded checkpoint.

    Raises:
        WeightError: the index is broken, or names a file that is missing or lies outside the folder.
    """
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        shards = {str(tensor): str(shard) for tensor, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightError(f"{path} is not the index of a sharded checkpoint ({error!r}); copy it again") from error
    for shard in set(shards.values()):
        if Path(shard).name != shard or shard in ("", ".", ".."):
            raise WeightError(f"{path} names {shard!r}, which is outside its folder; the index is broken")
        if not (path.parent / shard).is_file():
            raise WeightError(f"{path} names {shard}, which is not there: {listing(path.parent)}; copy it again")
        refuse_lfs_pointer(path.parent / shard)
    return shards
