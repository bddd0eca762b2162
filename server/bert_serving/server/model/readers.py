"""Reads single tensors from checkpoints of several formats, by their names in the file."""

from __future__ import annotations

import json
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import ReaderMissing, WeightError
from .files import shard_index
from .rejections import reject_object_checkpoint
from .tensorflow_import import import_modules


class Reader(Protocol):
    """Reads the tensors of one checkpoint."""

    def names(self) -> Iterable[str]:
        """Returns the names of all tensors, including those that are not BERT weights."""
        ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def require_float(self, name: str) -> None:
        """Raises ``WeightError`` if a tensor is quantized."""
        ...

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor, converted to float32. It may be a view of the file.

        Raises:
            WeightError: the tensor is quantized, or the file is damaged.
        """
        ...


#: Types of weights that are not quantized.
_SAFETENSORS_FLOATS = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_TF_FLOATS = ("float16", "bfloat16", "float32", "float64")
_TORCH_FLOATS = ("torch.float16", "torch.bfloat16", "torch.float32", "torch.float64")


def _quantized(name: str, dtype: str, file: str) -> WeightError:
    return WeightError(
        f"{name} of {file} is stored as {dtype}: quantized weights are not supported; serve the original weights, with "
        "-dtype int8 for quantization by the server"
    )


class Tf1Reader:
    """Reads a TF1 checkpoint: ``prefix.index`` and ``prefix.data-*``."""

    def __init__(self, prefix: str):
        readers, errors = import_modules(
            "reading a TF1 checkpoint", "training.py_checkpoint_reader", "framework.errors"
        )
        # the C++ reader maps its status codes to different Python errors
        self._errors = (errors.OpError, ValueError, RuntimeError, LookupError)
        try:
            self._reader = readers.NewCheckpointReader(prefix)
            self._shapes = self._reader.get_variable_to_shape_map()
            self._types = self._reader.get_variable_to_dtype_map()
        except self._errors as error:
            raise WeightError(f"cannot read the checkpoint {prefix} ({error}); copy its files again") from error
        reject_object_checkpoint(self._shapes, prefix)
        self._prefix = prefix

    def names(self) -> Iterable[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._shapes[name])

    def require_float(self, name: str) -> None:
        dtype = self._types[name].name
        if dtype not in _TF_FLOATS:
            raise _quantized(name, dtype, f"checkpoint {self._prefix}")

    def read(self, name: str) -> np.ndarray:
        self.require_float(name)
        try:
            return np.asarray(self._reader.get_tensor(name), dtype=np.float32)
        except self._errors as error:
            raise WeightError(f"cannot read {name} of checkpoint {self._prefix} ({error}); copy it again") from error


class SafetensorsReader:
    """Maps ``model.safetensors``, or a sharded checkpoint by its index."""

    def __init__(self, path: str):
        try:
            from safetensors import SafetensorError, safe_open
        except ImportError as error:
            raise ReaderMissing(f"reading {path} needs the package safetensors; pip install safetensors") from error
        index = Path(path)
        shards = set(shard_index(index).values()) if index.suffix == ".json" else {index.name}
        self._locations: dict[str, tuple[Path, Any]] = {}
        self._mapped: dict[Path, _MappedFile] = {}
        for shard in sorted(shards):
            file = index.parent / shard
            try:
                tensors: Any = safe_open(str(file), framework="np")
                self._locations.update(dict.fromkeys(tensors.keys(), (file, tensors)))
                self._mapped[file] = _MappedFile(file)
            except (SafetensorError, OSError, ValueError) as error:
                raise WeightError(f"cannot read {file} ({error}); copy or download it again") from error

    def names(self) -> Iterable[str]:
        return self._locations.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._locations[name][1].get_slice(name).get_shape())

    def require_float(self, name: str) -> None:
        file, tensors = self._locations[name]
        dtype = tensors.get_slice(name).get_dtype()
        if dtype not in _SAFETENSORS_FLOATS:
            raise _quantized(name, dtype, str(file))

    def read(self, name: str) -> np.ndarray:
        self.require_float(name)
        return self._mapped[self._locations[name][0]].read(name)


class _MappedFile:
    """A safetensors file that ``safe_open`` has validated, mapped into memory.

    The format (https://huggingface.co/docs/safetensors#format) is a 64-bit length, a JSON header of this length, data.
    """

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            self._entries: dict[str, Any] = json.loads(file.read(header_size))
            self._data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)[
                8 + header_size :
            ]

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor as float32: a view of the file if it has this type."""
        entry = self._entries[name]
        begin, end = entry["data_offsets"]
        values = self._data[begin:end].view(_SAFETENSORS_FLOATS[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":  # the upper half of a float32; numpy has no such dtype
            return np.asarray((values.astype(np.uint32) << 16).view(np.float32))
        return np.asarray(values, np.float32)


class PytorchReader:
    """Reads ``pytorch_model.bin``, or a sharded checkpoint by its index. Unpickles tensors only (``weights_only``)."""

    def __init__(self, path: str):
        try:
            import torch
        except ImportError as error:
            raise ReaderMissing(
                f"reading {path} needs PyTorch; pip install torch, or convert the weights to model.safetensors"
            ) from error
        index = Path(path)
        shards = set(shard_index(index).values()) if index.suffix == ".json" else {index.name}
        self._path = path
        self._tensors: dict[str, Any] = {}
        for shard in sorted(shards):
            self._tensors.update(_load_tensors(torch, index.parent / shard))

    def names(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def require_float(self, name: str) -> None:
        dtype = str(self._tensors[name].dtype)
        if dtype not in _TORCH_FLOATS:
            raise _quantized(name, dtype, self._path)

    def read(self, name: str) -> np.ndarray:
        self.require_float(name)
        return np.asarray(self._tensors[name].detach().float().numpy(), dtype=np.float32)


def _load_tensors(torch: Any, file: Path) -> dict[str, Any]:
    """Loads the tensors of a file that ``torch.save`` wrote; only tensors are unpickled.

    Raises:
        WeightError: the file is damaged, or contains a whole model instead of its tensors.
    """
    with open(file, "rb") as opened:
        if opened.read(1) not in (b"P", b"\x80"):  # a zip file, or the pickle of PyTorch before 1.6
            raise WeightError(f"{file} is not a file of PyTorch; copy or download it again")
    settings = {"map_location": "cpu", "weights_only": True}
    try:
        is_zip = zipfile.is_zipfile(file)  # PyTorch before 1.6 wrote another format, which cannot be mapped
        loaded = torch.load(str(file), mmap=is_zip, **settings)
    except Exception as error:  # torch raises pickle, zip, runtime and value errors here
        other = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
        if other is not None:
            raise WeightError(
                f"{file} contains {other.group(1)}, and this server runs no code from a file; save the tensors alone: "
                "torch.save(model.state_dict(), FILE), or model.save_pretrained(FOLDER)"
            ) from error
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise WeightError(f"cannot read {file} ({reason}); copy or download it again") from error
    for key in ("state_dict", "model_state_dict"):  # checkpoints of training loops
        loaded = loaded.get(key, loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict):
        raise WeightError(
            f"{file} contains a {type(loaded).__name__}, not tensors by name; save the tensors: "
            "torch.save(model.state_dict(), FILE)"
        )
    return {name: value for name, value in loaded.items() if hasattr(value, "shape")}


def open_reader(checkpoint: str, checkpoint_format: str) -> Reader:
    """Opens ``ModelConfig.checkpoint``.

    Raises:
        WeightError: a file is damaged.
        ReaderMissing: the library for this format is not installed.
    """
    readers: dict[str, Callable[[str], Reader]] = {
        "tf1": Tf1Reader,
        "safetensors": SafetensorsReader,
        "pytorch": PytorchReader,
    }
    return readers[checkpoint_format](checkpoint)
