"""Measures an engine without a server: sequences and tokens per second, and the time of one sentence.

    python benchmark/engine_loop.py                                    # the default model
    python benchmark/engine_loop.py -random base -dtype fp32 bf16      # BERT-base shape, random weights
    python benchmark/engine_loop.py -model_dir /models/bert -sentences sentences.txt
    python benchmark/engine_loop.py -random base -length 128 -batch_size 32
    python benchmark/engine_loop.py -random base -pause 2              # one sentence also after 2 ms without work

Compare only figures of the same run: other programs on the machine can halve them. The CPU time per sequence is less
affected, but includes the spinning of waiting threads (ONNX Runtime).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, Engine, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.cache import default_cache_dir
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.weights import expected_shapes
from bert_serving.server.tokenization.factory import load_tokenizer

#: layers, hidden size, heads, intermediate size
SIZES = {
    "tiny": (2, 128, 2, 512),
    "mini": (6, 384, 12, 1536),
    "base": (12, 768, 12, 3072),
    "large": (24, 1024, 16, 4096),
}


def random_model(size: str, folder: Path) -> str:
    """Writes a Hugging Face model folder with random weights and BERT-``size`` shape, once; returns its path."""
    from safetensors.numpy import save_file

    if (folder / "model.safetensors").is_file():
        return str(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layers, hidden, heads, intermediate = SIZES[size]
    values = {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": 512,
    }
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{number}" for number in range(30522 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    config = ModelConfig(str(folder), "", "", "", "safetensors", False, 30522, hidden, layers, heads, intermediate)
    random = np.random.default_rng(0)
    tensors = {}
    for name, shape in expected_shapes(config, layers, need_pooler=True).items():
        scope, _, kind = name.rpartition("/")
        if kind == "gamma":
            weight = np.ones(shape, np.float32)
        else:
            weight = random.standard_normal(shape, dtype=np.float32) * np.float32(0.02)
        stem = scope.replace("layer_", "layer.").replace("/", ".")
        if kind == "kernel":
            tensors[f"{stem}.weight"] = np.ascontiguousarray(weight.T)
        elif kind.endswith("_embeddings"):
            tensors[f"{stem}.{kind}.weight"] = weight
        else:
            tensors[f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}.get(kind, kind) }"] = weight
    temporary = folder / f"model.{os.getpid()}"
    save_file(tensors, str(temporary))
    os.replace(temporary, folder / "model.safetensors")
    return str(folder)


def read_sequences(args: argparse.Namespace, model: ModelConfig) -> list[list[int]]:
    """Returns token ids: of a file of sentences, of a fixed length, or of lengths like those of the STS benchmark."""
    random = np.random.default_rng(1)
    if args.sentences:
        limit = model.max_tokens
        tokenizer = load_tokenizer(args.vocab or model.vocab_path, lower_case=True, max_seq_len=limit, max_tokens=limit)
        tokenized = tokenizer.encode(Path(args.sentences).read_text("utf-8").splitlines()[: args.number])
        return [part.tolist() for part in np.split(tokenized.input_ids, np.cumsum(tokenized.lengths)[:-1])]
    # The test sentences of the STS benchmark have 14.2 tokens on average, 5 to 70.
    drawn = 5 + random.gamma(2.2, 9.2 / 2.2, args.number).astype(int)
    lengths = np.full(args.number, args.length) if args.length else np.minimum(drawn, 70)
    return [random.integers(1, model.vocab_size, length).tolist() for length in lengths]


def pack(sequences: list[list[int]]) -> Batch:
    """Returns a batch of the sequences with token type 0."""
    ids = np.concatenate([np.array(ids, np.int32) for ids in sequences])
    lengths = np.array([len(ids) for ids in sequences], np.int32)
    return Batch(ids, np.zeros_like(ids), np.ones_like(ids), lengths)


def batches(sequences: list[list[int]], size: int) -> Iterator[Batch]:
    """Yields batches of sequences of similar length."""
    ordered = sorted(sequences, key=len)
    for start in range(0, len(ordered), size):
        yield pack(ordered[start : start + size])


def best_time(engine: Engine, work: list[Batch], repeats: int) -> tuple[float, float]:
    """Returns the minimum seconds and CPU seconds of ``repeats`` passes over ``work``, after one warm-up pass."""
    wall, cpu = [], []
    for _ in range(repeats + 1):
        start, start_cpu = time.perf_counter(), time.process_time()
        for batch in work:
            engine.encode(batch)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return min(wall[1:]), min(cpu[1:])


def single_times(engine: Engine, sequences: list[list[int]], pause: float = 0.0) -> np.ndarray:
    """Returns the seconds of each sentence, one at a time.

    Args:
        pause: seconds without work before each sentence. Another sentence, which is not timed, precedes it.
    """
    work = [pack([ids]) for ids in sequences]
    seconds = []
    for batch in work[:5] + work:
        if pause:
            engine.encode(batch)
            time.sleep(pause)
        start = time.perf_counter()
        engine.encode(batch)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds[5:])


def pauses(engine: Engine, sequences: list[list[int]], pause: float) -> str:
    """Compares single sentences without and with a pause in alternating rounds: median and 5 % quantile of each."""
    times: dict[float, list[np.ndarray]] = {0.0: [], pause: []}
    for _ in range(5):
        for seconds, rounds in times.items():
            rounds.append(single_times(engine, sequences, seconds) * 1e3)
    quantiles = [np.percentile(np.concatenate(rounds), [50, 5]) for rounds in times.values()]
    (one, least_one), (other, least_other) = quantiles
    return f"{one:.2f} ({least_one:.2f}) in a row, {other:.2f} ({least_other:.2f}) after {pause * 1e3:g} ms"


def memory_mib() -> tuple[float, float]:
    """Returns private and resident memory of this process in MiB; Linux only."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return float("nan"), float("nan")
    values = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
    return values["Private_Clean"] + values["Private_Dirty"], values["Rss"]


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("-model_dir", help="folder of a model; default: the default model")
    model.add_argument("-random", choices=SIZES, help="random weights of this size, written to the cache folder once")
    parser.add_argument("-engine", default="auto")
    parser.add_argument("-dtype", nargs="+", default=["fp32"])
    parser.add_argument("-device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("-threads", type=int, default=0)
    parser.add_argument("-pooling_strategy", default="REDUCE_MEAN")
    parser.add_argument("-pooling_layer", type=int, nargs="+", default=[-1])
    parser.add_argument("-xla", action="store_true")
    parser.add_argument("-sentences", help="text file, a sentence per line; default: random tokens")
    parser.add_argument("-vocab", help="vocabulary for -sentences; default: the model's own")
    parser.add_argument("-length", type=int, help="fixed number of tokens of the random sequences")
    parser.add_argument("-number", type=int, default=512, help="number of sequences")
    parser.add_argument("-batch_size", type=int, nargs="+", default=[128])
    parser.add_argument("-repeats", type=int, default=3)
    parser.add_argument("-pause", type=float, help="also time single sentences after so many ms without work")
    return parser.parse_args(argv)


def main(argv: list[str]) -> None:
    args = parse(argv)
    folder = args.model_dir or default_model_dir()
    if args.random:
        folder = random_model(args.random, Path(default_cache_dir()) / f"random-{args.random}")
    if folder is None:
        sys.exit("the default model is not installed; use -model_dir or -random base")
    model = load_model_config(folder)
    sequences = read_sequences(args, model)
    tokens = sum(len(ids) for ids in sequences)
    print(f"{folder}: {len(sequences)} sequences, {tokens / len(sequences):.1f} tokens in the mean")
    columns = "engine, dtype, batch, seq/s, tokens/s, CPU ms/seq, single p50 ms, load s, private MiB, resident MiB"
    print(f"| {' | '.join(columns.split(', '))} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for dtype in args.dtype:
        name = engines.choose(args.engine, args.device, dtype)
        module = engines.load(name)
        spec = EngineSpec(
            model=model,
            cache_dir=default_cache_dir(),
            pooling_strategy=args.pooling_strategy,
            pooling_layers=tuple(args.pooling_layer),
            dtype=dtype,
            xla=args.xla,
        )
        module.prepare(spec, lambda line: print(line, file=sys.stderr))
        start = time.perf_counter()
        engine = module.create(spec, Device(args.device, threads=args.threads))
        load = time.perf_counter() - start
        for size in args.batch_size:
            seconds, cpu = best_time(engine, list(batches(sequences, size)), args.repeats)
            single = np.median(single_times(engine, sequences[:50])) * 1e3
            if args.pause:
                print(f"single, ms: {pauses(engine, sequences[:50], args.pause / 1e3)}", file=sys.stderr)
            private, resident = memory_mib()
            rate = f"{len(sequences) / seconds:.1f} | {tokens / seconds:.0f} | {cpu / len(sequences) * 1e3:.2f}"
            rest = f"{single:.1f} | {load:.2f} | {private:.0f} | {resident:.0f}"
            print(f"| {name}{' xla' if args.xla else ''} | {dtype} | {size} | {rate} | {rest} |", flush=True)
        engine.close()


if __name__ == "__main__":
    main(sys.argv[1:])
