"""Writes the prepacked weights of oneDNN to a file, and maps them: all workers of a machine share its pages.

PyTorch's compiler stores prepacked weights in compiled models by the same functions. They have no public name. So a
process of its own writes the file, and compares each product with that of a private copy (``prepacked_entry.py``). A
worker compares one product for each shape of a layer, and uses private copies if something differs.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .device import one_line
from .shared_weights import INDEX, WEIGHTS
from .weights import load

Tensor = Any

#: Each layer begins at a multiple of this number of bytes: that of a page.
_ALIGNMENT = 4096
#: Number of rows of the products that are compared. oneDNN keeps the code of each number in memory.
_ROWS = 16


class NotEqual(ValueError):
    """Mapped weights differ from those that this process prepacks."""


def prepack_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns private copies of the weights of the dense layers, prepacked, by the scopes of the layers.

    Raises:
        RuntimeError, AttributeError: oneDNN is missing, or does not support this dtype.
    """
    return {scope: _prepack(weight) for scope, weight in _dense_weights(weights)}


def open_prepacked(weights: dict[str, Tensor], folder: Path | None) -> tuple[dict[str, Tensor], str]:
    """Returns the weights of ``prepack_weights``, mapped from ``folder`` if they are equal; and words for a log line.

    Args:
        folder: a folder that ``write_prepacked`` has written, or None.

    Raises:
        RuntimeError, AttributeError: as ``prepack_weights``.
    """
    if folder is None:
        return prepack_weights(weights), "prepacked weights"
    try:
        return map_prepacked(weights, folder), "prepacked weights that all workers share"
    except Exception as error:  # the functions are not public: each release may have other errors
        return prepack_weights(weights), f"prepacked weights of this worker alone ({one_line(error)})"


def write_prepacked(weights: dict[str, Tensor], folder: Path, threads: Sequence[int]) -> None:
    """Writes the prepacked weights, and compares all of them. Writes the reason if they cannot be used.

    Args:
        threads: numbers of threads of workers. oneDNN may choose another layout for each.

    Raises:
        OSError, MemoryError, RuntimeError: disk or memory do not suffice.
    """
    try:
        _write(weights, folder, threads)
        for number in threads:
            torch.set_num_threads(number)
            map_prepacked(weights, folder, compare_all=True)
    except (AttributeError, RuntimeError, ValueError) as error:
        if "memory" in str(error):
            raise
        (folder / WEIGHTS).unlink(missing_ok=True)
        reason = f"PyTorch {torch.__version__} cannot map them: {one_line(error)}"
        (folder / INDEX).write_text(json.dumps({"reason": reason}), "utf-8")


def map_prepacked(weights: dict[str, Tensor], folder: Path, compare_all: bool = False) -> dict[str, Tensor]:
    """Returns the weights of ``prepack_weights`` in the pages of a file; compares the first of each shape.

    Args:
        compare_all: compare every one.

    Raises:
        NotEqual: the layout, or a product, is not that of a private copy.
        ValueError: the folder has no layout for this number of threads, or the reason why nothing is mapped.
        OSError, KeyError, RuntimeError, AttributeError: the folder has other weights, or PyTorch lacks a function.
    """
    index = json.loads((folder / INDEX).read_text("utf-8"))
    if "reason" in index:
        raise ValueError(index["reason"])
    places = index["threads"].get(str(torch.get_num_threads()))
    if places is None:
        raise ValueError(f"the file has no layout for {torch.get_num_threads()} threads")
    names = {place.get("file", WEIGHTS) for place in places.values()}
    files = {name: np.memmap(folder / name, np.uint8, "r") for name in names}
    make = _find_function()
    layouts: dict[Any, Tensor] = {}
    mapped = {}
    for scope, weight in _dense_weights(weights):
        private = _prepack(weight) if compare_all or weight.shape not in layouts else None
        if private is not None:
            layouts[weight.shape] = _layout(private)
        layout, place = layouts[weight.shape], places[scope]
        if _digest(layout) != place["layout"]:
            raise NotEqual("the layout is that of another processor")
        pages = files[place.get("file", WEIGHTS)][place["offset"] : place["offset"] + place["bytes"]]
        mapped[scope] = make(pages, weight, layout)
        if torch.ops.mkldnn._nbytes(mapped[scope]) != len(pages):
            raise NotEqual(f"the file has {len(pages)} bytes for {scope}, which needs another number")
        if private is not None and not _equal_products(private, mapped[scope], weight):
            raise NotEqual(f"a product of mapped weights differs, {scope}")
    return mapped


def main(weights: str, folder: str, threads: Sequence[int]) -> None:
    """Runs ``write_prepacked`` for a file of weights."""
    with torch.inference_mode():
        write_prepacked(load(Path(weights), torch.device("cpu")), Path(folder), threads)


def _dense_weights(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yields scope and weight of each dense layer of the encoder."""
    for name, weight in weights.items():
        if name.startswith("encoder/layer_") and name.endswith("/weight"):
            yield name.removesuffix("/weight"), weight


def _prepack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def _layout(prepacked: Tensor) -> Tensor:
    """Returns oneDNN's description of a layout, uint8. Only this version of PyTorch can read it."""
    return torch.ops.mkldnn._get_mkldnn_serialized_md(prepacked)


def _digest(layout: Tensor) -> str:
    return sha256(layout.numpy().tobytes()).hexdigest()


def _write(weights: dict[str, Tensor], folder: Path, threads: Sequence[int]) -> None:
    """Writes the bytes of each layer in each layout to one file, and their places by number of threads to another."""
    places: dict[int, dict[str, Any]] = {number: {} for number in threads}
    with open(folder / WEIGHTS, "wb") as file:
        for scope, weight in _dense_weights(weights):
            written: dict[str, Any] = {}
            for number in threads:
                torch.set_num_threads(number)
                prepacked = _prepack(weight)
                digest, count = _digest(_layout(prepacked)), torch.ops.mkldnn._nbytes(prepacked)
                if digest not in written:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    written[digest] = {"offset": file.tell(), "bytes": count, "layout": digest}
                    file.write((ctypes.c_char * count).from_address(torch.ops.mkldnn.data_ptr(prepacked)))
                places[number][scope] = written[digest]
    (folder / INDEX).write_text(json.dumps({"threads": places}, indent=1), "utf-8")


def _find_function() -> Callable[[np.ndarray, Tensor, Tensor], Tensor]:
    """Returns a function of bytes, a plain weight and a layout that makes a prepacked weight of these bytes.

    It calls ``aoti_torch_create_tensor_from_blob_v2`` of ``torch/csrc/inductor/aoti_torch/c/shim.h``.

    Raises:
        AttributeError: this version of PyTorch lacks a function.
    """
    library = ctypes.CDLL(torch._C.__file__)
    create, own = library.aoti_torch_create_tensor_from_blob_v2, torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr
    number, numbers = ctypes.c_int64, ctypes.POINTER(ctypes.c_int64)
    # Data; dimensions, sizes, strides, offset; dtype, device, index of the device; new handle; layout and its size.
    create.argtypes = [ctypes.c_void_p, number, numbers, numbers, number, *[ctypes.c_int32] * 3]
    create.argtypes += [ctypes.POINTER(ctypes.c_void_p), ctypes.c_int32, ctypes.c_void_p, number]
    create.restype = ctypes.c_int32
    dtypes = {torch.float32: library.aoti_torch_dtype_float32(), torch.bfloat16: library.aoti_torch_dtype_bfloat16()}
    cpu, mkldnn = library.aoti_torch_device_type_cpu(), library.aoti_torch_layout__mkldnn()
    to_capsule = ctypes.pythonapi.PyCapsule_New
    to_capsule.argtypes, to_capsule.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p], ctypes.py_object

    def make(data: np.ndarray, weight: Tensor, layout: Tensor) -> Tensor:
        sizes, strides = (number * 2)(*weight.shape), (number * 2)(*weight.stride())
        handle = ctypes.c_void_p()
        shape = data.ctypes.data, 2, sizes, strides, 0, dtypes[weight.dtype], cpu, 0
        if create(*shape, ctypes.byref(handle), mkldnn, layout.data_ptr(), layout.numel()):
            raise RuntimeError("aoti_torch_create_tensor_from_blob_v2 fails")
        tensor = own(to_capsule(handle, None, None))
        tensor.mapping = data  # the tensor does not own its bytes: the mapping must not end before it
        return tensor

    return make


def _equal_products(private: Tensor, mapped: Tensor, weight: Tensor) -> bool:
    """Returns whether two prepacked copies of a weight give the same products to the bit."""
    linear = torch.ops.mkldnn._linear_pointwise.default
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(_ROWS, weight.shape[1], generator=generator).to(weight.dtype)
    found, expected = (linear(inputs, each, None, "none", [], "") for each in (mapped, private))
    return bool(torch.equal(found, expected))
