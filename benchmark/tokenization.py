"""Compares the tokenizer of this project with the library ``tokenizers``: equal ids, and texts per second.

    pip install tokenizers==0.23.3
    python benchmark/tokenization.py
    python benchmark/tokenization.py --model_dir /models/bert --texts corpus.txt

Reads ``vocab.txt`` and ``tokenizer.json`` of a folder in Hugging Face style. The script first compares all ids and
stops if they differ. The library gets all texts in one call, on one thread and on one thread per core. The tokenizer of
this project is pure Python and numpy on one thread; a second figure is for two threads that share it and half the texts
each. The tokenizers are measured alternately; medians are reported. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bert_serving.server.engines.cpu_info import num_cores
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.tokenization.factory import load_tokenizer
from heading import print_heading
from texts import sts_sentences

MAX_SEQ_LEN = 128


def different(ours: list[list[int]], theirs: list[list[int]], texts: list[str]) -> list[str]:
    """Returns a line for each text whose ids differ."""
    return [
        f"{text!r}: {one} here, {other} in tokenizers"
        for text, one, other in zip(texts, ours, theirs, strict=True)
        if one != other
    ]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_dir", default=default_model_dir(), help="default: the default model")
    parser.add_argument(
        "--texts", type=Path, help="file with one text per line; default: sentences of the STS benchmark"
    )
    parser.add_argument("--number", type=int, default=20000, help="texts per round, repeated up to this number")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.model_dir is None:
        parser.error("the default model is not installed; use --model_dir")
    try:
        import tokenizers
    except ImportError:
        parser.error("tokenizers is not installed; pip install tokenizers==0.23.3")

    model = load_model_config(args.model_dir)
    limits = {"max_seq_len": MAX_SEQ_LEN, "max_tokens": model.max_tokens}
    ours = load_tokenizer(model.vocab_path, lower_case=None, **limits)
    theirs = tokenizers.Tokenizer.from_file(str(Path(args.model_dir) / "tokenizer.json"))
    theirs.no_padding()
    theirs.enable_truncation(MAX_SEQ_LEN)

    texts = args.texts.read_text("utf-8").splitlines() if args.texts else sts_sentences()
    encoded = ours.encode(texts)
    own_ids = [ids.tolist() for ids in np.split(encoded.input_ids, np.cumsum(encoded.lengths)[:-1])]
    if lines := different(own_ids, [encoding.ids for encoding in theirs.encode_batch(texts)], texts):
        print(f"{len(lines)} of {len(texts)} texts have different ids; the first: {lines[0]}", file=sys.stderr)
        return 1

    batch = [texts[index % len(texts)] for index in range(args.number)]
    halves = [batch[::2], batch[1::2]]
    cores = num_cores()
    with ThreadPoolExecutor(2) as pool:
        ways: dict[str, Callable[[], object]] = {
            "this, one thread": lambda: ours.encode(batch),
            "this, two threads": lambda: list(pool.map(ours.encode, halves)),
            "tokenizers, one thread": lambda: theirs.encode_batch_fast(batch),
            f"tokenizers, {cores} threads": lambda: theirs.encode_batch_fast(batch),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(args.rounds + 1):
            for name, call in ways.items():
                # The library reads this variable in every call.
                os.environ["TOKENIZERS_PARALLELISM"] = "false" if name == "tokenizers, one thread" else "true"
                took = seconds(call)
                if turn:  # the first is to warm up
                    times[name].append(took)
    mean = len(encoded.input_ids) / len(texts)
    print_heading(f"{len(texts)} different texts, {mean:.1f} tokens in the mean, all with the same ids.")
    print("| | texts/s | this, one thread, is faster by |\n|---|---:|---:|")
    own = times["this, one thread"]
    for name, taken in times.items():
        ratio = statistics.median(other / mine for other, mine in zip(taken, own, strict=True))
        print(f"| {name} | {args.number / statistics.median(taken):,.0f} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
