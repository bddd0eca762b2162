"""Measures the engine torch on one GPU: tokens per second and share of the peak, with and without a server.

    python benchmark/gpu.py                                  # BERT-base shape, random weights, bf16 and fp16
    python benchmark/gpu.py --workers 1 2 4 --dtype bf16     # several workers on the same GPU
    python benchmark/gpu.py --device cpu --size tiny --dtype fp32 --length 16 --seconds 0.2

The script first compares the vectors with fp32 on the CPU and stops if they differ too much. The engine then encodes
batches of ``--batch_tokens`` tokens. After that, servers with ``--workers`` workers on the GPU and ``--tokenizers``
processes that tokenize receive requests from ``--clients`` clients. All sequences of a batch have the same length and
different tokens. Writes ``gpu.md`` and ``gpu.json`` to the folder ``--out``.

MFU is the arithmetic of the model (two operations per multiplication with a weight or an attention score) divided by
the time, as a share of the vendor's peak for dense 16-bit matrices.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from engine_loop import SIZES, pack, random_model

from bert_serving.server.benchmark.corpus import SentenceSource
from bert_serving.server.benchmark.experiments import Load, Setting
from bert_serving.server.benchmark.load import Repeats
from bert_serving.server.benchmark.machine import machine, versions
from bert_serving.server.benchmark.managed_server import ServerManager
from bert_serving.server.benchmark.options import read_args
from bert_serving.server.benchmark.runner import Plan, measure
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import Device, Engine, EngineError, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.errors import ServingError
from bert_serving.server.model.cache import default_cache_dir
from bert_serving.server.model.config import ModelConfig, load_model_config

#: Dense 16-bit TFLOP/s with 32-bit sums, from the vendors' data sheets; the first entry whose words are all in the name
#: of the GPU.
PEAKS = {
    "B200": 2250, "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "A40": 150,
    "A30": 165, "A10G": 70, "A10": 125, "L40S": 362, "L40": 181, "L4": 121, "T4": 65, "V100": 125,
}  # fmt: skip
#: Minimum cosine to the fp32 vectors on the CPU.
MIN_COSINE = {"fp32": 0.99999, "bf16": 0.99, "fp16": 0.999}
#: Number of batches of each size, all different.
BATCHES = 4
#: Number of tokens of a short sequence.
SHORT_TOKENS = 14
#: Number of tokens per request of a client.
REQUEST_TOKENS = 32768


def operations_per_token(model: ModelConfig, length: int) -> int:
    """Returns the floating-point operations of all layers for one token of a sequence of ``length`` tokens."""
    hidden = model.hidden_size
    dense = 4 * hidden * hidden + 2 * hidden * model.intermediate_size
    return 2 * model.num_hidden_layers * (dense + 2 * length * hidden)


def find_peak(name: str) -> float | None:
    """Returns the peak of the GPU ``name`` in TFLOP/s, or None if it is unknown."""
    words = set(re.split(r"[\s_-]+", name))  # "A100-SXM4-80GB" is an A100, "RTX A1000" and "RTX A4000" are not
    return next((float(peak) for part, peak in PEAKS.items() if words.issuperset(part.split())), None)


def make_engine(model: ModelConfig, device: Device, dtype: str) -> Engine:
    """Returns an engine that pools the last layer."""
    spec = EngineSpec(model, default_cache_dir(), pooling_layers=(-1,), dtype=dtype)
    engine_module.prepare(spec, lambda _: None)
    return engine_module.create(spec, device)


def random_batch(model: ModelConfig, lengths: list[int], seed: int) -> Batch:
    random = np.random.default_rng(seed)
    return pack([random.integers(1, model.vocab_size, length).tolist() for length in lengths])


def worst_cosine(vectors: np.ndarray, exact: np.ndarray) -> float:
    """Returns the minimum cosine between the rows of two arrays."""
    products = np.linalg.norm(vectors, axis=1) * np.linalg.norm(exact, axis=1)
    return float(np.min(np.sum(vectors * exact, axis=1) / products))


def loop_rate(engine: Engine, batches: list[Batch], seconds: float) -> float:
    """Returns the tokens per second of an engine that encodes batches for at least ``seconds``, as a worker does."""
    begin = getattr(engine, "start", None) or (lambda batch: partial(engine.encode, batch))
    for batch in batches:
        engine.encode(batch)
    tokens, start = 0, time.perf_counter()
    finish = begin(batches[-1])
    while time.perf_counter() - start < seconds:
        for batch in batches:
            following = begin(batch)
            finish()
            finish = following
            tokens += batch.num_tokens
    finish()
    return tokens / (time.perf_counter() - start)


def median_ms(engine: Engine, batch: Batch, seconds: float) -> float:
    """Returns the median time of one batch at a time, in milliseconds."""
    times = []
    start = time.perf_counter()
    while (began := time.perf_counter()) - start < seconds:
        engine.encode(batch)
        times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1e3


def served_rate(args: argparse.Namespace, folder: str, dtype: str, length: int, workers: int, tokenizers: int) -> float:
    """Returns the tokens per second of a server, from the first request to the last response.

    Raises:
        ServingError: the server did not start, or a request failed.
    """
    where = ["-cpu"] if args.device == "cpu" else ["-device_map", *["0"] * workers]
    words = ["-model_dir", folder, "-engine", "torch", "-dtype", dtype, "-num_worker", str(workers), *where,
             "-pooling_layer", "-1", "-max_seq_len", str(length), "-gpu_memory_fraction", f"{0.9 / workers:.2f}",
             "-num_tokenizer", str(tokenizers),
             "-max_batch_size", str(max(1, max(args.batch_tokens) // length))]  # fmt: skip
    config = ServerConfig.from_args(read_args(words))
    load = Load(args.clients, max(1, min(REQUEST_TOKENS, max(args.batch_tokens)) // length))
    plan = Plan(
        # Words of the vocabulary, so that no two sentences have the same tokens.
        source=SentenceSource(None, [f"w{number}" for number in range(30000)], 0),
        repeats=Repeats(8, 2, args.seconds, 4 * args.seconds),
        seed=0,
        wait_seconds=600.0,
        out=Path(args.out),
        command="",
        options={},
    )
    with ServerManager(plan.wait_seconds) as manager:
        manager.serve(config)
        measured = measure(Setting(str(length), config, load), plan.source, load_model_config(folder), plan, manager)
    return measured.num_tokens / measured.seconds


def sentence_transformers_rate(args: argparse.Namespace, folder: str, dtype: str, length: int) -> float:
    """Returns the tokens per second of the library sentence-transformers in this process, in the same dtype.

    The library sorts texts by length; all texts have the same length here. The best of all ``--batch_tokens`` is
    returned.
    """
    import torch
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]
    from sentence_transformers.sentence_transformer.modules import (  # type: ignore[import-not-found]
        Pooling,
        Transformer,
    )

    torch_dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    transformer = Transformer(folder, max_seq_length=length, model_kwargs={"torch_dtype": torch_dtype})
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    encoder = SentenceTransformer(modules=[transformer, pooling], device="cuda" if args.device == "gpu" else "cpu")
    random = np.random.default_rng(3)
    best = 0.0
    for tokens in args.batch_tokens:
        size = max(1, tokens // length)
        texts = [" ".join(f"w{word}" for word in random.integers(0, 30000, length - 2)) for _ in range(4 * size)]
        encoder.encode(texts[:size], batch_size=size, show_progress_bar=False)
        done, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < args.seconds:
            encoder.encode(texts, batch_size=size, show_progress_bar=False)
            done += len(texts) * length
        best = max(best, done / elapsed)
    return best


def check(args: argparse.Namespace, model: ModelConfig, device: Device) -> list[dict[str, Any]]:
    """Returns the worst cosine to fp32 on the CPU for each dtype, and for fp32 on the device.

    Raises:
        EngineError: a cosine is below its minimum.
    """
    lengths = np.random.default_rng(1).integers(1, min(128, model.max_tokens), 32).tolist()
    batch = random_batch(model, [*lengths, model.max_tokens], 2)
    reference = make_engine(model, Device(), "fp32")
    exact = reference.encode(batch)
    reference.close()
    rows = []
    for dtype in dict.fromkeys(["fp32", *args.dtype]):
        engine = make_engine(model, device, dtype)
        cosine = worst_cosine(engine.encode(batch), exact)
        rows.append({"dtype": dtype, "worst_cosine": cosine, "notes": list(getattr(engine, "startup_notes", []))})
        engine.close()
        print(f"{dtype}: worst cosine to fp32 on the CPU {cosine:.6f}", file=sys.stderr)
        if not cosine >= MIN_COSINE[dtype]:
            raise EngineError(f"{dtype} vectors are wrong: worst cosine {cosine:.6f}, minimum {MIN_COSINE[dtype]}")
    return rows


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything and writes the result after each figure."""
    folder = random_model(args.size, Path(default_cache_dir()) / f"random-{args.size}")
    model = load_model_config(folder)
    device = Device(args.device, memory_fraction=0.9)
    facts = machine()
    name = facts["gpus"][0] if args.device == "gpu" and facts["gpus"] else facts["processor"]
    result: dict[str, Any] = {
        "command": shlex.join(["python", "benchmark/gpu.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "device": name,
        "peak_tflops": args.peak or find_peak(name),
        "model": f"BERT-{args.size} shape, random weights",
        "machine": facts,
        "versions": versions(),
        "vectors": check(args, model, device),
        "rows": [],
    }

    def add(how: str, dtype: str, length: int, detail: str, rate: float) -> None:
        row = {"how": how, "dtype": dtype, "length": length, "detail": detail, "tokens_per_second": rate}
        if result["peak_tflops"]:
            row["mfu"] = rate * operations_per_token(model, length) / (result["peak_tflops"] * 1e12)
        result["rows"].append(row)
        print(f"{how} {dtype} {length} {detail}: {rate:,.0f} tokens/s", file=sys.stderr)
        write(Path(args.out), result)

    for dtype in args.dtype:
        engine = make_engine(model, device, dtype)
        for sequences in (1, 32):
            batch = random_batch(model, [SHORT_TOKENS] * sequences, 0)
            time_ms = median_ms(engine, batch, args.seconds)
            detail = f"{sequences} sequence{'s' * (sequences > 1)} at a time, {time_ms:.2f} ms"
            add("engine", dtype, SHORT_TOKENS, detail, batch.num_tokens / time_ms * 1e3)
        for length in args.length:
            for tokens in args.batch_tokens:
                count = max(1, tokens // length)
                batches = [random_batch(model, [length] * count, seed) for seed in range(BATCHES)]
                add(
                    "engine",
                    dtype,
                    length,
                    f"{count * length} tokens a batch",
                    loop_rate(engine, batches, args.seconds),
                )
        engine.close()
        if args.peer:
            for length in args.length:
                rate = sentence_transformers_rate(args, folder, dtype, length)
                add("sentence-transformers", dtype, length, "in process, best of all sizes of batches", rate)
        for workers, tokenizers, length in itertools.product(args.workers, args.tokenizers, args.length):
            rate = served_rate(args, folder, dtype, length, workers, tokenizers)
            numbers = {"worker": workers, "tokenizer process": tokenizers, "client": args.clients}
            detail = ", ".join(f"{number} {name}{_plural(name, number)}" for name, number in numbers.items())
            add("served", dtype, length, detail, rate)
    return result


def _plural(name: str, number: int) -> str:
    return "" if number == 1 else "es" if name.endswith("s") else "s"


def markdown(result: dict[str, Any]) -> str:
    """Returns the result as a Markdown page."""
    peak = (
        f"{result['peak_tflops']:,.0f} TFLOP/s" if result["peak_tflops"] else "unknown, so MFU is missing; set --peak"
    )
    lines = [
        "## GPU",
        f"    {result['command']}",
        f"{result['date']}; {result['device']}; {result['model']}. Dense 16-bit peak {peak}.",
        ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        "Worst cosine to fp32 vectors on the CPU: "
        + ", ".join(f"{row['dtype']} {row['worst_cosine']:.6f}" for row in result["vectors"])
        + ".",
    ]
    lines += [f"{row['dtype']}: {'; '.join(row['notes'])}." for row in result["vectors"] if row["notes"]]
    table = ["| | dtype | tokens of a sequence | | tokens/s | MFU |", "|---|---|---:|---|---:|---:|"]
    for row in result["rows"]:
        mfu = f"{row['mfu']:.1%}" if "mfu" in row else ""
        cells = [row["how"], row["dtype"], row["length"], row["detail"], f"{row['tokens_per_second']:,.0f}", mfu]
        table.append(f"| {' | '.join(map(str, cells))} |")
    return "\n\n".join([*lines, "\n".join(table)]) + "\n"


def write(folder: Path, result: dict[str, Any]) -> None:
    """Writes ``gpu.md`` and ``gpu.json`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (folder / "gpu.md").write_text(markdown(result), "utf-8")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu only tests the script")
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--dtype", nargs="+", choices=MIN_COSINE, default=["bf16", "fp16"])
    parser.add_argument("--length", nargs="+", type=int, default=[50, 128, 512], help="tokens of a sequence, 3 to 512")
    parser.add_argument("--batch_tokens", nargs="+", type=int, default=[4096, 16384, 65536],
                        help="tokens of a batch; servers use the largest value")  # fmt: skip
    parser.add_argument(
        "--workers", nargs="*", type=int, default=[1, 2], help="workers on the GPU; without a value, no server"
    )
    parser.add_argument("--tokenizers", nargs="+", type=int, default=[0, 4], help="processes of a server that tokenize")
    parser.add_argument("--peer", action="store_true", help="also measure sentence-transformers, if installed")
    parser.add_argument("--clients", type=int, default=8, help="clients of a server, each with one request at a time")
    parser.add_argument("--seconds", type=float, default=5.0, help="minimum seconds per figure")
    parser.add_argument("--peak", type=float, help="dense 16-bit peak of the GPU in TFLOP/s, if unknown")
    parser.add_argument("--out", default="bert-serving-gpu", help="folder for gpu.md and gpu.json")
    args = parser.parse_args(argv)
    if not all(3 <= length <= 512 for length in args.length):
        parser.error("--length: the model takes 3 to 512 tokens, [CLS] and [SEP] counted")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    try:
        result = run(args)
    except (EngineError, ServingError) as error:
        print(f"benchmark/gpu.py: {error}", file=sys.stderr)
        return 1
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
