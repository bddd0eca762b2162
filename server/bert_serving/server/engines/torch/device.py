"""Sets up PyTorch for a device and tests its faster kernels before the engine uses them.

The choice changes the speed, not the vectors. A kernel that fails its test is not used, and the log has the
reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ...model.config import ModelConfig
from ..base import Device, EngineUnavailable
from .attention import PackedAttention, needs_bias, varlen_attention
from .encoder import AddNorm, Embed, LinearGelu, activation, add_norm, embed

#: Maximum difference of two results: a few roundings of values around 1.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def open_device(device: Device, dtype: str) -> torch.device:
    """Sets up PyTorch in this process for ``device``.

    Raises:
        EngineUnavailable: PyTorch does not find that GPU.
    """
    if device.kind == "cpu":
        if device.threads:
            torch.set_num_threads(device.threads)
        with contextlib.suppress(RuntimeError):  # can be set once per process
            torch.set_num_interop_threads(1)
        return torch.device("cpu")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # same indexes as nvidia-smi
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            f"PyTorch {torch.__version__} finds no GPU, but {device} is configured; check nvidia-smi, install PyTorch "
            "with CUDA (pip install torch), or start with -cpu"
        )
    if device.index >= torch.cuda.device_count():
        raise EngineUnavailable(
            f"PyTorch finds {torch.cuda.device_count()} GPUs, none with index {device.index}; correct -device_map"
        )
    opened = torch.device("cuda", device.index)
    torch.cuda.set_device(opened)
    torch.cuda.set_per_process_memory_fraction(device.memory_fraction, opened)
    # Sums are float32. To use TF32 for fp32, set TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 of PyTorch.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.enable_cudnn_sdp(False)  # the other backends support masks of any shape
    if dtype == "fp32":  # the fused kernel splits fp32 into lower precisions
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    return opened


def find_packed_attention(
    device: torch.device, dtype: torch.dtype, model: ModelConfig
) -> tuple[PackedAttention | None, str]:
    """Returns attention without padding if the device computes it correctly, and a log line."""
    if dtype == torch.float32:
        return None, "attention over padded groups: packed sequences need bf16 or fp16"
    if needs_bias(model.architecture):
        return None, "attention over padded groups: packed sequences take no bias of the scores, which this model has"
    lengths, heads, head_size = [1, 33, 7], model.num_attention_heads, model.head_size
    try:
        generator = torch.Generator().manual_seed(1)
        # Non-contiguous views of one tensor, as in the encoder.
        qkv = torch.randn(sum(lengths), 3, heads, head_size, generator=generator).to(device, dtype)
        ends = torch.tensor([0, 1, 34, 41], dtype=torch.int32, device=device)
        query, key, value = qkv.unbind(1)
        for window in {0, *(min(8, window) for window in model.architecture.windows)}:
            found = varlen_attention(query, key, value, ends, max(lengths), window)
            expected = torch.cat([_plain_attention(part.float(), window) for part in qkv.split(lengths)])
            _compare(found, expected.to(dtype))
    except Exception as error:  # a missing kernel raises a different error on each GPU and release
        return None, f"attention over padded groups: packed sequences are not available here ({one_line(error)})"
    return varlen_attention, "attention over packed sequences, no padding"


def _plain_attention(qkv: torch.Tensor, window: int = 0) -> torch.Tensor:
    """Returns attention in one sequence by definition, ``[t, 3, heads, head size]`` to ``[t, heads, head size]``."""
    query, key, value = qkv.permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / qkv.shape[-1] ** 0.5
    if window:
        positions = torch.arange(len(qkv), device=qkv.device)
        scores = scores.masked_fill((positions[:, None] - positions).abs() > window, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1)


def linear_gelu(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Returns the GELU of a dense layer, which cuBLAS computes with the product, by the approximation with tanh."""
    return torch._addmm_activation(bias, inputs, weight.t(), use_gelu=True)


def find_linear_gelu(
    device: torch.device, dtype: torch.dtype, model: ModelConfig
) -> tuple[LinearGelu | None, str | None]:
    """Returns a dense layer with GELU in one kernel, and a log line; None if the model or the device has none.

    The approximation with tanh differs from the exact GELU by up to 5e-4, less than bf16 rounds. In fp16 only models
    that are defined by the approximation use it.
    """
    acts = ("gelu", "gelu_new") if dtype == torch.bfloat16 else ("gelu_new",)
    if model.architecture.gated or model.hidden_act not in acts or not model.architecture.intermediate_bias:
        return None, None
    try:
        generator = torch.Generator().manual_seed(1)
        shape = (model.intermediate_size, model.hidden_size)
        weight = torch.randn(shape, generator=generator).mul_(model.hidden_size**-0.5).to(device, dtype)
        bias = torch.randn(shape[0], generator=generator).to(device, dtype)
        for rows in (1, 33):
            inputs = torch.randn(rows, shape[1], generator=generator).to(device, dtype)
            product = torch.nn.functional.linear(inputs.float(), weight.float(), bias.float())
            _compare(linear_gelu(inputs, weight, bias), activation(model.hidden_act)(product).to(dtype))
    except Exception as error:  # a release without the operator
        return None, f"GELU in a kernel of its own ({one_line(error)})"
    return linear_gelu, "GELU in the kernel of its dense layer"


def compile_add_norm(
    device: torch.device, dtype: torch.dtype, width: int, eps: float, cache_dir: Path, backend: str = "inductor"
) -> tuple[AddNorm, str]:
    """Compiles sum and layer normalization to one kernel for any number of rows above one; returns it and a log line.

    If the compilation fails or gives a wrong result, the uncompiled function is returned.

    Args:
        backend: PyTorch's name of the compiler.
    """
    generator = torch.Generator().manual_seed(1)
    gamma, beta = (torch.randn(width, generator=generator).to(device, dtype) for _ in range(2))

    def cases() -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
        for rows in (64, 2, 1001):
            inputs = torch.randn(rows, width, generator=generator).to(device, dtype)
            residual = torch.randn(rows, width, generator=generator).to(device, dtype)
            expected = add_norm(inputs.float(), residual.float(), gamma.float(), beta.float(), eps)
            yield (inputs, residual, gamma, beta, eps), expected.to(dtype)

    try:
        return _compile(add_norm, cases(), 2, cache_dir, backend), "layer normalization is compiled"
    except Exception as error:  # no compiler, no Triton, or an unsupported release
        return add_norm, f"layer normalization is not compiled ({one_line(error)})"


def compile_embed(
    device: torch.device,
    dtype: torch.dtype,
    tables: Sequence[torch.Tensor],
    eps: float,
    cache_dir: Path,
    backend: str = "inductor",
) -> tuple[Embed, str]:
    """Compiles the sum of embeddings and its layer normalization to one kernel, as ``compile_add_norm`` does.

    Args:
        tables: the arguments of ``embed`` from ``words`` to ``beta``.
    """
    generator = torch.Generator().manual_seed(1)

    def cases() -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
        for rows in (64, 2, 1001):
            ids = [torch.randint(len(table), (rows,), generator=generator) for table in tables[:3]]
            # Views of one tensor, as in the encoder.
            inputs = torch.cat(ids).to(device, torch.int32).split(rows)
            arguments = (*inputs, *tables, eps, dtype)
            yield arguments, embed(*arguments)

    try:
        return _compile(embed, cases(), 3, cache_dir, backend), "embeddings are compiled"
    except Exception as error:  # as above
        return embed, f"embeddings are not compiled ({one_line(error)})"


def _compile(
    function: Callable[..., torch.Tensor],
    cases: Iterator[tuple[tuple[Any, ...], torch.Tensor]],
    num_dynamic: int,
    cache_dir: Path,
    backend: str,
) -> Callable[..., torch.Tensor]:
    """Compiles a function for any number of rows above one, and compares its results.

    Compilation happens before the first request. A later shape that the kernel does not support runs uncompiled.

    Args:
        cases: arguments and the expected result.
        num_dynamic: number of arguments, the first ones, whose number of rows changes.
    """
    # The cache of compiled kernels is in a folder that only this user may write. Compilation runs in this process.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torchinductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    with torch.compiler.set_stance("default"):
        compiled = torch.compile(function, fullgraph=True, backend=backend)
        for index, (arguments, expected) in enumerate(cases):
            if index == 0:
                for each in arguments[:num_dynamic]:
                    torch._dynamo.mark_dynamic(each, 0)
            _compare(compiled(*arguments), expected)
    torch.compiler.set_stance("eager_on_recompile")  # no compilation during requests
    found: Callable[..., torch.Tensor] = compiled
    return found


def _compare(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ValueError if two results differ by more than rounding."""
    tolerance = _TOLERANCE[found.dtype]
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise ValueError("wrong result")


def one_line(error: Exception) -> str:
    """Returns an error as one log line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def is_lost(device: torch.device) -> bool:
    """Returns whether a GPU no longer responds to this process, as after an illegal memory access."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def device_notes(device: torch.device, dtype: str) -> list[str]:
    """Returns log lines about the device."""
    if device.type != "cuda":
        return []
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    notes = [f"{name}, compute capability {capability[0]}.{capability[1]}, CUDA {torch.version.cuda}"]
    if dtype == "bf16" and capability < (8, 0):
        notes.append("this GPU emulates bf16, which is slow; use -dtype fp16")
    return notes
