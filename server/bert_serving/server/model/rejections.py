"""Rejects model folders whose vectors this server would compute wrongly, by name and with the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import ModelNotFound, ModelUnsupported, WeightError
from .families import FAMILIES

#: Repositories of the Hugging Face hub are named ``organization/name``.
HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_IN_ENCODER = re.compile(r"(?:embeddings|encoder|transformer)\.|encoder/layer_\d+/")
#: Tables that some checkpoints contain: numbers of positions and types, rotary embeddings. They follow from the
#: configuration.
_BUFFERS = re.compile(r"\.inv_freq$|(?:^|\.)embeddings\.(?:position_ids|token_type_ids)$")
#: Weights of Hugging Face folders for other libraries, and the argument of ``from_pretrained`` that reads them.
_OTHER_WEIGHTS = {"tf_model.h5": "from_tf", "flax_model.msgpack": "from_flax"}
#: Last bytes of a table of LevelDB, the format of V1 checkpoints.
_TABLE_END = bytes.fromhex("57fb808b247547db")
#: Key in each checkpoint that ``tf.train.Checkpoint`` writes.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
#: Slots of optimizers in TF1 checkpoints.
_OPTIMIZER = re.compile(r"/(adam_[mv]|Adam(_1)?|Momentum|lamb_[mv]|bert_adam_[mv])$")


def reject_folder(folder: Path, values: Mapping[str, Any], source: Path) -> None:
    """Rejects a folder by its configuration and by the files beside it.

    Args:
        values: the parsed configuration.
        source: the file with the configuration, for the message.

    Raises:
        ModelUnsupported: the weights are quantized, or need code of the model's own.
    """
    key = next((key for key in ("quantization_config", "compression_config") if values.get(key)), None)
    if key is not None:
        quantization = values[key]
        method = quantization.get("quant_method", "unknown") if isinstance(quantization, Mapping) else quantization
        raise ModelUnsupported(
            f"{source}: {key} ({method}) is not supported; serve the original weights, with -dtype int8 "
            "for quantization by the server"
        )
    if (code := values.get("auto_map")) and not _computes(values, code):
        raise ModelUnsupported(
            f"{source}: auto_map names code of the model's own, which this server does not run; "
            "serve a model without auto_map"
        )


def _computes(values: Mapping[str, Any], code: Any) -> bool:
    """Returns whether the server computes what the classes of ``auto_map`` compute."""
    name = "jina-bert" if values.get("position_embedding_type") == "alibi" else values.get("model_type")
    known = FAMILIES[name].code if isinstance(name, str) and name in FAMILIES else ()
    if not known or not isinstance(code, Mapping):
        return False
    paths = [str(path) for path in code.values()]
    # JinaBERT for code normalizes queries and keys, under the same names of classes.
    return all(path.rpartition(".")[2].startswith(known) and "qk-post-norm" not in path for path in paths)


def reject_tuned_adapter(tuned: Path, folder: Path) -> None:
    """Raises ``ModelUnsupported`` for an adapter in the place of a whole checkpoint."""
    raise ModelUnsupported(
        f"-tuned_model_dir {tuned} has an adapter_config.json (PEFT), so its weights replace no others; set -model_dir "
        f"{tuned} -base {folder}"
    )


def reject_other_weights(folder: Path, ckpt_name: str) -> None:
    """Rejects weights in a format that this server does not read.

    Raises:
        WeightError: the message names the file and how to convert it.
    """
    path = folder / ckpt_name
    if path.is_file() and _last_bytes(path, len(_TABLE_END)) == _TABLE_END:
        raise WeightError(
            f"{path} is a checkpoint of TensorFlow's old format V1; convert it: restore it with "
            "tf.compat.v1.train.Saver, and save it with a new one"
        )
    for name, argument in _OTHER_WEIGHTS.items():
        if (folder / name).is_file():
            raise WeightError(
                f"{folder / name} is of a format that this server does not read; convert it: transformers.AutoModel."
                f"from_pretrained(FOLDER, {argument}=True).save_pretrained(FOLDER), with transformers 4"
            )


def _last_bytes(path: Path, number: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - number))
        return file.read(number)


def reject_object_checkpoint(names: Collection[str], checkpoint: str) -> None:
    """Raises ``WeightError`` if the names of a TensorFlow checkpoint are those of objects instead of variables."""
    if _OBJECT_GRAPH in names:
        raise WeightError(
            f"{checkpoint} is an object-based checkpoint of TensorFlow 2, whose tensors do not have the names of BERT; "
            "save the variables with tf.compat.v1.train.Saver under the names of Google's BERT, or the model with "
            "save_pretrained()"
        )


def head_class(values: Mapping[str, Any]) -> str | None:
    """Returns the class of a model with a head that a configuration names; None if it names an encoder alone."""
    named = values.get("architectures")
    name = named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""
    return name if name and (not name.endswith("Model") or "LMHead" in name) else None


def own_code(values: Mapping[str, Any]) -> str | None:
    """Returns a class of the folder's own code, which is not run; None if ``auto_map`` names none."""
    code = values.get("auto_map")
    return str(next(iter(code.values()), None)) if isinstance(code, Mapping) and code else None


def reject_missing_folder(path: Path, flag: str) -> None:
    """Rejects the name of a hub repository in the place of a folder.

    Raises:
        ModelNotFound: the message has the command that downloads the repository.
    """
    if not path.exists() and not path.parent.is_dir() and HUB_NAME.match(str(path)):
        raise ModelNotFound(
            f"{flag} {path} is no folder; it looks like a name on the Hugging Face hub. This server downloads nothing: "
            f"hf download {path} --local-dir {path.name}, then {flag} {path.name}"
        )


def reject_hub_cache(folder: Path, flag: str) -> None:
    """Rejects the root of a repository in the cache of the hub's library.

    Raises:
        ModelNotFound: the message names the folder to use.
    """
    if folder.name.startswith("models--") and (folder / "snapshots").is_dir():
        snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
        named = snapshots[-1] if snapshots else folder / "snapshots" / "REVISION"
        raise ModelNotFound(f"{flag} {folder} is a cache of the Hugging Face hub; use {flag} {named}")


def is_no_weight(name: str) -> bool:
    """Returns whether a tensor follows from the configuration, or is of the training alone."""
    return any(kind.search(name) for kind in (_OPTIMIZER, _BUFFERS))


def reject_unused_tensors(
    names: Iterable[str], scope: str, used: set[str], checkpoint: str, bert_name: Callable[[str], str]
) -> None:
    """Rejects a checkpoint with tensors inside the encoder that the server would ignore.

    Args:
        names: all names in the checkpoint.
        scope: the prefix of the encoder's tensors.
        used: names of the tensors that an encoder of this architecture has.
        bert_name: returns BERT's name of a tensor.

    Raises:
        WeightError: the message names some of the tensors.
    """
    inside = [name for name in names if name.startswith(scope) and _IN_ENCODER.match(bert_name(name)[len(scope) :])]
    unused = sorted(name for name in inside if name not in used and not is_no_weight(name))
    if unused:
        raise WeightError(
            f"{checkpoint} has {len(unused)} tensors in its layers that the server does not know, such as "
            f"{', '.join(unused[:3])}; the model has another architecture, adapters, or quantized weights, which this "
            "server does not compute"
        )
