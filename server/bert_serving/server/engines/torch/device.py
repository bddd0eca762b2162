"""Sets PyTorch up for a device, and finds out what that device can do: each claim is tried out before it is relied on.

Nothing here decides what is computed, only how fast. What cannot be had is left out, with a line for the log.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import torch

from ..base import Device, EngineUnavailable
from .encoder import AddNorm, PackedAttention, add_norm, varlen_attention

#: How far two ways of computing the same may lie apart: some roundings of values around 1.
_TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def open_device(device: Device, dtype: str) -> torch.device:
    """Sets PyTorch up in this process for ``device``.

    Raises:
        EngineUnavailable: PyTorch does not see that GPU.
    """
    if device.kind == "cpu":
        if device.threads:
            torch.set_num_threads(device.threads)
        with contextlib.suppress(RuntimeError):  # can be set once in a process
            torch.set_num_interop_threads(1)
        return torch.device("cpu")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # so that indexes are those of nvidia-smi
    if not torch.cuda.is_available():
        raise EngineUnavailable(
            f"PyTorch {torch.__version__} sees no GPU where {device} was asked for; check nvidia-smi, install PyTorch "
            "with CUDA (pip install torch), or start with -cpu"
        )
    if device.index >= torch.cuda.device_count():
        raise EngineUnavailable(
            f"PyTorch sees {torch.cuda.device_count()} GPUs, none with index {device.index}; correct -device_map"
        )
    opened = torch.device("cuda", device.index)
    torch.cuda.set_device(opened)
    torch.cuda.set_per_process_memory_fraction(device.memory_fraction, opened)
    # Sums are float32. For TF32 in place of fp32 there is PyTorch's own TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.enable_cudnn_sdp(False)  # the others take masks of any shape and have been there longest
    if dtype == "fp32":  # by its definition: the fused kernel splits fp32 into smaller numbers
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    return opened


def find_packed_attention(
    device: torch.device, dtype: torch.dtype, heads: int, head_size: int
) -> tuple[PackedAttention | None, str]:
    """Attention without padding where the device has it and it gives the right result, and a line for the log."""
    if dtype == torch.float32:
        return None, "attention over padded groups: packed sequences need bf16 or fp16"
    lengths = [1, 33, 7]
    try:
        generator = torch.Generator().manual_seed(1)
        # as in the encoder: views of one tensor, not contiguous
        qkv = torch.randn(sum(lengths), 3, heads, head_size, generator=generator).to(device, dtype)
        ends = torch.tensor([0, 1, 34, 41], dtype=torch.int32, device=device)
        query, key, value = qkv.unbind(1)
        found = varlen_attention(query, key, value, ends, max(lengths))
        expected = torch.cat([_plain_attention(part.float()) for part in qkv.split(lengths)])
        _compare(found, expected.to(dtype))
    except Exception as error:  # no such kernel, and each kind of GPU and release has its own way to say so
        return None, f"attention over padded groups: packed sequences cannot be had here ({one_line(error)})"
    return varlen_attention, "attention over packed sequences, no padding"


def _plain_attention(qkv: torch.Tensor) -> torch.Tensor:
    """Attention within one sequence by its definition, ``[t, 3, heads, head size]`` to ``[t, heads, head size]``."""
    query, key, value = qkv.permute(1, 2, 0, 3)
    scores = query @ key.transpose(1, 2) / qkv.shape[-1] ** 0.5
    return (scores.softmax(-1) @ value).transpose(0, 1)


def compile_add_norm(
    device: torch.device, dtype: torch.dtype, width: int, eps: float, cache_dir: Path, backend: str = "inductor"
) -> tuple[AddNorm, str]:
    """Sum and layer normalization as one kernel for any number of rows above one, and a line for the log.

    It is compiled here, before the first request; a shape that it should not fit later is computed as it was. Where it
    cannot be compiled, or gives another result, it stays as it was too.

    Args:
        backend: PyTorch's name of what compiles.
    """
    # Kept where only this user may write, for the next start; and compiled in this process, not in a pool of others.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir / "torchinductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    try:
        with torch.compiler.set_stance("default"):
            compiled = torch.compile(add_norm, fullgraph=True, backend=backend)
            generator = torch.Generator().manual_seed(1)
            gamma, beta = torch.randn(2, width, generator=generator).to(device, dtype)
            for rows in (64, 2, 1001):
                inputs = torch.randn(rows, width, generator=generator).to(device, dtype)
                residual = torch.randn(rows, width, generator=generator).to(device, dtype)
                expected = add_norm(inputs.float(), residual.float(), gamma.float(), beta.float(), eps)
                if rows == 64:
                    torch._dynamo.mark_dynamic(inputs, 0)
                    torch._dynamo.mark_dynamic(residual, 0)
                _compare(compiled(inputs, residual, gamma, beta, eps), expected.to(dtype))
        torch.compiler.set_stance("eager_on_recompile")  # never compile while requests wait
    except Exception as error:  # no compiler, no Triton, a release that cannot: there are many ways
        return add_norm, f"layer normalization is not compiled ({one_line(error)})"
    return compiled, "layer normalization is compiled"


def _compare(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ValueError where two results are not the same but for rounding."""
    tolerance = _TOLERANCE[found.dtype]
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=tolerance, atol=tolerance):
        raise ValueError("its result is wrong")


def one_line(error: Exception) -> str:
    """An error for a line of the log, cut to a length that fits."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def is_lost(device: torch.device) -> bool:
    """Whether a GPU no longer answers this process, as after an illegal access; only a new process can use it."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return True
    return False


def device_notes(device: torch.device, dtype: str) -> list[str]:
    """What the user should know about this device."""
    if device.type != "cuda":
        return []
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    notes = [f"{name}, compute capability {capability[0]}.{capability[1]}, CUDA {torch.version.cuda}"]
    if dtype == "bf16" and capability < (8, 0):
        notes.append("this GPU has no bf16 of its own, so it is slow; take -dtype fp16")
    return notes
