"""The formats of vectors that ``output_fmt`` selects."""

from __future__ import annotations

from typing import Any

from .errors import OptionError
from .protocol import FloatArray


def convert(array: FloatArray, output_fmt: str) -> Any:
    """Returns an array in a format. Imports PyTorch for ``"torch"`` only; a tensor shares the memory of the array.

    Raises:
        OptionError: there is no such format, or PyTorch is not installed.
    """
    if output_fmt == "ndarray":
        return array
    if output_fmt == "list":
        return array.tolist()
    if output_fmt != "torch":
        raise OptionError(f'"output_fmt" must be "ndarray", "list" or "torch", but is {output_fmt!r}')
    try:
        import torch
    except ImportError as error:
        raise OptionError(
            f'output_fmt="torch" needs the package torch ({error}): pip install torch, or use output_fmt="ndarray"'
        ) from None
    return torch.from_numpy(array)
