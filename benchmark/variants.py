"""Measures the memory of a base model with variants: adapters that share its weights, beside whole merged models.

    python benchmark/variants.py
    python benchmark/variants.py --model_dir /models/multilingual-e5-base --variants 4 --dtype fp32

The adapters have random weights of rank 8, for queries and values. Memory is that of all processes after each model has
encoded some batches; PSS counts a shared page once. Disk is the cache of prepared models. Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from footprint import MIB, memory_mib, serving
from safetensors.numpy import save_file

from bert_serving.client import BertClient
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.merged_reader import open_checkpoint
from bert_serving.server.model.rejections import is_no_weight
from heading import print_heading

RANK = 8
TEXTS = [f"text number {number} about the weather " * (1 + number % 5) for number in range(128)]


def write_adapter(folder: Path, base: Path, seed: int) -> None:
    """Writes an adapter of queries and values of a BERT model with random weights."""
    random, reader, tensors = np.random.default_rng(seed), open_checkpoint(load_model_config(base)), {}
    for name in reader.names():
        if name.endswith((".query.weight", ".value.weight")):
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            outputs, inputs = reader.shape(name)
            tensors[f"{layer}.lora_A.weight"] = random.normal(scale=0.02, size=(RANK, inputs)).astype(np.float32)
            tensors[f"{layer}.lora_B.weight"] = random.normal(scale=0.02, size=(outputs, RANK)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "target_modules": ["query", "value"]}
    config = json.dumps(settings | {"base_model_name_or_path": str(base.absolute())})
    (folder / "adapter_config.json").write_text(config, "utf-8")


def write_merged(folder: Path, adapter: Path, base: Path) -> None:
    """Writes the whole merged model."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    reader = open_checkpoint(load_model_config(adapter))
    names = (name for name in reader.names() if not is_no_weight(name))
    save_file({name: np.array(reader.read(name)) for name in names}, str(folder / "model.safetensors"))


def measure(base: Path, variants: list[Path], dtype: str, engine: str) -> tuple[float, float, float]:
    """Returns PSS and USS of a server with a model and its variants, and the disk space of its cache, in MiB."""
    flags = ["-cpu", "-engine", engine, "-dtype", dtype, "-threads", "1", "-model_dir", str(base)]
    for folder in variants:
        flags += ["-model", f"{folder.name}={folder}"]
    with tempfile.TemporaryDirectory(prefix="bert-serving-variants-") as cache, serving(flags, cache) as server:
        port, port_out = server.ports
        for model in (None, *(folder.name for folder in variants)):
            with BertClient(port=port, port_out=port_out, model=model) as client:
                client.encode(TEXTS)
        sizes = {(found := path.stat()).st_ino: found.st_blocks * 512 for path in Path(cache).rglob("*")}
        return *memory_mib(server.pid), sum(sizes.values()) / MIB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model_dir", default=default_model_dir(), help="a BERT model; the default is the default model"
    )
    parser.add_argument("--variants", type=int, default=2)
    parser.add_argument("--engine", default="onnx")
    parser.add_argument("--dtype", nargs="+", default=["fp32", "int8"])
    args = parser.parse_args()
    base = Path(args.model_dir)
    print_heading(f"{base.parent.name}/{base.name}, engine {args.engine}, one thread, and {args.variants} variants.")
    print("| dtype | variants | PSS (USS) MiB | cache on disk MiB |\n|---|---|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="bert-serving-variants-") as folder:
        adapters = [Path(folder) / f"adapter-{number}" for number in range(args.variants)]
        merged = [Path(folder) / f"merged-{number}" for number in range(args.variants)]
        for number, (adapter, whole) in enumerate(zip(adapters, merged, strict=True)):
            write_adapter(adapter, base, number)
            write_merged(whole, adapter, base)
        for dtype in args.dtype:
            for kind, folders in (("merged folders", merged), ("adapters", adapters)):
                pss, uss, disk = measure(base, folders, dtype, args.engine)
                print(f"| {dtype} | {kind} | {pss:,.0f} ({uss:,.0f}) | {disk:,.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
