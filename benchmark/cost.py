"""Measures throughput against sentence length, number of clients and request size.

    python benchmark/cost.py
    python benchmark/cost.py -model_dir /models/bert -dtype bf16 -out cost-bf16

Accepts the flags of ``bert-serving-benchmark`` for the server and the load, except those that select tests. Writes
three tables and plots: random sentences of exactly 8 to 512 tokens in requests of 64; 1 to 256 clients with one
sentence
per request; requests of 1 to 8192 sentences. The last two send test sentences of the STS benchmark, or those of
``-texts``, with their own lengths.
"""

from __future__ import annotations

import shlex
import sys

from bert_serving.server.benchmark.cli import make_plan, run_until_interrupted
from bert_serving.server.benchmark.corpus import COMMON, SentenceSource
from bert_serving.server.benchmark.experiments import Experiment, Load, Setting
from bert_serving.server.benchmark.options import get_benchmark_parser, read_args
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ServingError
from bert_serving.server.model.errors import ModelError
from texts import sts_sentences

LENGTHS = [2**n for n in range(3, 10)]
CLIENTS = [2**n for n in range(9)]
SIZES = [2**n for n in range(14)]


#: Flags of ``bert-serving-benchmark``, in addition to its tests, that this script rejects.
REFUSED = ("test_num_worker", "client_batch_size", "num_client")


def experiments(
    config: ServerConfig, positions: int, words: SentenceSource, sentences: SentenceSource
) -> list[Experiment]:
    """Returns the three experiments, with random words and real sentences, for a model with ``positions`` positions."""
    long_enough = config.with_(max_seq_len=min(128, positions))
    lengths = [config.with_(max_seq_len=length) for length in LENGTHS if length <= positions]
    return [
        Experiment(
            "length",
            "Tokens of each sentence, in requests of 64.",
            [Setting(str(one.max_seq_len), one, Load(1, 64)) for one in lengths],
            source=words,
        ),
        Experiment(
            "clients",
            "Concurrent clients with one sentence per request; rates are totals of all clients.",
            [Setting(str(number), long_enough, Load(number, 1)) for number in CLIENTS],
            source=sentences,
        ),
        Experiment(
            "request size",
            "Sentences per request of one client.",
            [Setting(str(size), long_enough, Load(1, size)) for size in SIZES],
            source=sentences,
        ),
    ]


def main() -> int:
    arguments = sys.argv[1:]
    args = read_args(["-out", "bert-serving-cost", *arguments])
    default = get_benchmark_parser().get_default
    if not args.all_layers or any(getattr(args, name) != default(name) for name in REFUSED):
        flags = "-test_*, -open_loop, -client_batch_size and -num_client"
        print(
            f"benchmark/cost.py: {flags} have no effect: the tests are fixed; use bert-serving-benchmark",
            file=sys.stderr,
        )
        return 2
    try:
        config = ServerConfig.from_args(args)
        model = config.read_model()
        plan = make_plan(args, config, shlex.join(["python", "benchmark/cost.py", *arguments]))
        random_words = SentenceSource.from_files(None, args.client_vocab_file, args.seed)
    except (ServingError, ModelError, OSError, ValueError) as error:
        print(f"benchmark/cost.py: {error}", file=sys.stderr)
        return 2
    sentences = plan.source if args.texts else SentenceSource(sts_sentences(), COMMON, args.seed)
    return run_until_interrupted(experiments(config, model.max_tokens, random_words, sentences), model, plan)


if __name__ == "__main__":
    sys.exit(main())
