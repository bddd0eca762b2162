"""The flags of ``bert-serving-benchmark``: all of ``bert-serving-start``, and what is tested with what load."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from ..config.options import Option, at_least, seconds, sequence_length
from ..config.server_config import get_args_parser

_EPILOG = """\
examples:
  bert-serving-benchmark                                             all five tests on the default model
  bert-serving-benchmark -model_dir M -test_max_seq_len 20 40 80 160 320
  bert-serving-benchmark -test_pooling_layer -1 -2 -3 -1,-2,-3,-4    the last: four layers, concatenated
  bert-serving-benchmark -texts corpus.txt -test_num_client 1 8 64 -client_batch_size 1
  bert-serving-benchmark -texts corpus.txt -open_loop 50 100 200     single sentences that arrive at random
  bert-serving-benchmark -test_client_batch_size 16 256 4096 -test_num_worker 1 2 4
  bert-serving-benchmark -engine zeros                               all but the model
"""


def layers(text: str) -> tuple[int, ...]:
    """``-1`` is one layer, ``-1,-2`` two that are concatenated."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is neither a layer, as -2, nor several, as -1,-2") from None


def rate(text: str) -> float:
    value = float(text)
    if value <= 0:
        raise ValueError(f"{value} is no rate, it must be above 0 sentences per second")
    return value


# fmt: off
GROUPS: dict[str, list[Option]] = {
    "Tests (those named are run; without any, all but -open_loop)": [
        Option("test_max_seq_len", (32, 64, 128, 256), "values of -max_seq_len; sentences are as long",
               parse=sequence_length, many=True, metavar="N", v1=True),
        Option("test_client_batch_size", (1, 16, 256, 4096), "sentences in a request", parse=at_least(1), many=True,
               metavar="N", v1=True),
        Option("test_num_client", (1, 4, 16, 64), "clients at a time", parse=at_least(1), many=True, metavar="N",
               v1=True),
        Option("test_max_batch_size", (8, 32, 128, 512), "values of -max_batch_size", parse=at_least(1), many=True,
               metavar="N", v1=True),
        Option("test_pooling_layer", (), "values of -pooling_layer, several layers of one value joined by commas; "
               "by default each layer of the model", parse=layers, many=True, metavar="L[,L]", v1=True),
        Option("open_loop", (), "requests of one sentence that arrive at random, so many per second in the mean, "
               "whether or not those before are done", parse=rate, many=True, metavar="RATE"),
    ],
    "Load": [
        Option("client_batch_size", 256, "sentences in a request, where that is not what is tested", parse=at_least(1),
               metavar="N", v1=True),
        Option("num_client", 1, "clients at a time, where that is not what is tested", parse=at_least(1), metavar="N",
               v1=True),
        Option("test_num_worker", (), "values of -num_worker: every test is run with each, and its table has a "
               "column of sentences/s for each", parse=at_least(1), many=True, metavar="N"),
        Option("num_repeat", 10, "requests of each client; the first two are to warm up", parse=at_least(1),
               metavar="N", v1=True),
        Option("min_seconds", 2.0, "go on for so long even when -num_repeat is reached", parse=seconds, metavar="S"),
        Option("max_seconds", 20.0, "send no more after so long, even before -num_repeat is reached; also how long "
               "-open_loop takes for each rate", parse=seconds, metavar="S"),
        Option("texts", None, "text file, a sentence per line, in place of random words: lengths as they are",
               metavar="FILE"),
        Option("client_vocab_file", None, "text file whose words the random sentences are made of; by default common "
               "English ones", metavar="FILE", v1=True),
        Option("seed", 0, "of the random words and arrivals", parse=int, metavar="N"),
        Option("wait_till_ready", 300.0, "longest wait in seconds until a server is ready", parse=seconds, metavar="S",
               v1=True),
        Option("out", "bert-serving-benchmark", "folder for result.md, result.json, the plots and the servers' log",
               metavar="DIR"),
    ],
}
# fmt: on

TESTS = tuple(option.name for group in list(GROUPS.values())[:1] for option in group)


def get_benchmark_parser() -> argparse.ArgumentParser:
    """The parser; tests that were not named are None."""
    parser = get_args_parser("bert-serving-benchmark")
    parser.description = (
        "Measure how fast a server is under a load. For each setting a server is started on free ports of this "
        "machine (-host, -port, -port_out and -http_port have no effect), then clients send requests: in processes of "
        "their own where each waits for its answer, in this process with -open_loop."
    )
    parser.epilog = _EPILOG
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            option.add_to(group)
    parser.set_defaults(max_seq_len=40, **dict.fromkeys(TESTS))
    return parser


def read_args(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed command line, with the default values of the tests to run and an empty list for the others."""
    # argparse takes "-1,-2" for a flag unless it begins with a space
    words = [f" {word}" if re.fullmatch(r"-\d+(,-?\d+)+", word) else word for word in argv]
    args = get_benchmark_parser().parse_args(words)
    options = {option.name: option for group in GROUPS.values() for option in group}
    any_named = any(getattr(args, name) is not None for name in TESTS)
    for name in TESTS:
        if getattr(args, name) is None:
            run_it = not any_named and name != "open_loop"
            setattr(args, name, list(options[name].default) if run_it else [])
    args.all_layers = not any_named
    return args
