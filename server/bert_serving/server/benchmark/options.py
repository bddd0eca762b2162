"""Defines the flags of ``bert-serving-benchmark``: those of ``bert-serving-start``, the tests and the load."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence

from bert_serving.client.flag_sources import choose_log_level, command_args

from ..config.command_line import get_args_parser
from ..config.option import Option, at_least, integer, number, seconds, sequence_length

_EPILOG = """\
examples:
  bert-serving-benchmark                                             all five tests on the default model
  bert-serving-benchmark -model_dir M -test_max_seq_len 20 40 80 160 320
  bert-serving-benchmark -test_pooling_layer -1 -2 -3 -1,-2,-3,-4    the last value concatenates four layers
  bert-serving-benchmark -texts corpus.txt -test_num_client 1 8 64 -client_batch_size 1
  bert-serving-benchmark -texts corpus.txt -open_loop 50 100 200     single sentences at random times
  bert-serving-benchmark -test_client_batch_size 16 256 4096 -test_num_worker 1 2 4
  bert-serving-benchmark -engine zeros -test_num_tokenizer 0 1 2 -test_num_worker 1 2
  bert-serving-benchmark -engine zeros                               everything except the model
"""


def layers(text: str) -> tuple[int, ...]:
    """Parses ``-1`` as one layer, ``-1,-2`` as two layers that are concatenated."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is neither a layer, such as -2, nor a list of layers, such as -1,-2") from None


def rate(text: str) -> float:
    value = number(text)
    if not 0 < value < math.inf:
        raise ValueError(f"rate {text} must be above 0 sentences per second")
    return value


# fmt: off
GROUPS: dict[str, list[Option]] = {
    "Tests (only the named ones run; by default all except -test_num_tokenizer and -open_loop)": [
        Option("test_max_seq_len", (32, 64, 128, 256), "values of -max_seq_len, also the length of the sentences",
               parse=sequence_length, many=True, metavar="N", v1=True),
        Option("test_client_batch_size", (1, 16, 256, 4096), "sentences per request", parse=at_least(1), many=True,
               metavar="N", v1=True),
        Option("test_num_client", (1, 4, 16, 64), "concurrent clients", parse=at_least(1), many=True, metavar="N",
               v1=True),
        Option("test_max_batch_size", (8, 32, 128, 512), "values of -max_batch_size", parse=at_least(1), many=True,
               metavar="N", v1=True),
        Option("test_pooling_layer", (), "values of -pooling_layer; commas join several layers of one value; "
               "default: each layer of the model", parse=layers, many=True, metavar="L[,L]", v1=True),
        Option("test_num_tokenizer", (), "values of -num_tokenizer", parse=at_least(0), many=True, metavar="N"),
        Option("open_loop", (), "mean number of single-sentence requests per second, at random times; "
               "a request does not wait for earlier responses", parse=rate, many=True, metavar="RATE"),
    ],
    "Load": [
        Option("client_batch_size", 256, "sentences per request in the other tests", parse=at_least(1),
               metavar="N", v1=True),
        Option("num_client", 1, "concurrent clients in the other tests", parse=at_least(1), metavar="N",
               v1=True),
        Option("test_num_worker", (), "values of -num_worker; every test runs with each value, and its table has "
               "one column of sentences/s per value", parse=at_least(1), many=True, metavar="N"),
        Option("num_repeat", 10, "requests of each client; the first two warm up", parse=at_least(1),
               metavar="N", v1=True),
        Option("min_seconds", 2.0, "minimum seconds of a load, even after -num_repeat requests", parse=seconds,
               metavar="S"),
        Option("max_seconds", 20.0, "maximum seconds of a load, even before -num_repeat requests; also the "
               "duration of each -open_loop rate", parse=seconds, metavar="S"),
        Option("texts", None, "text file with one sentence per line, instead of random words",
               metavar="FILE"),
        Option("client_vocab_file", None, "text file with the words of the random sentences; default: common "
               "English words", metavar="FILE", v1=True),
        Option("seed", 0, "seed of the random words and arrivals", parse=integer, metavar="N"),
        Option("wait_till_ready", 300.0, "maximum seconds until a server is ready", parse=seconds, metavar="S",
               v1=True),
        Option("out", "bert-serving-benchmark", "folder for result.md, result.json, the plots and the server log",
               metavar="DIR"),
    ],
}
# fmt: on

TESTS = tuple(option.name for group in list(GROUPS.values())[:1] for option in group)


def get_benchmark_parser() -> argparse.ArgumentParser:
    """Returns the parser; tests that the command line does not name are None."""
    parser = get_args_parser("bert-serving-benchmark")
    parser.description = (
        "Measure the throughput and latency of a server. For each setting, a server starts on free ports of this\n"
        "machine (-host, -port, -port_out and -http_port have no effect) and clients send requests. The clients run\n"
        "in separate processes and wait for each response; with -open_loop they run in this process."
    )
    parser.epilog = _EPILOG
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option in options:
            option.add_to(group)
    parser.set_defaults(max_seq_len=40, **dict.fromkeys(TESTS))
    return parser


def read_args(argv: Sequence[str]) -> argparse.Namespace:
    """Parses a command line; selected tests have their default values, the others an empty list."""
    # argparse would read "-1,-2" as a flag; a leading space prevents it.
    arguments = [f" {argument}" if re.fullmatch(r"-\d+(,-?\d+)+", argument) else argument for argument in argv]
    args = command_args(get_benchmark_parser(), arguments)
    choose_log_level(args)
    options = {option.name: option for group in GROUPS.values() for option in group}
    any_named = any(getattr(args, name) is not None for name in TESTS)
    for name in TESTS:
        if getattr(args, name) is None:
            run_it = not any_named and name != "open_loop"  # the default of -test_num_tokenizer is empty
            setattr(args, name, list(options[name].default) if run_it else [])
    args.all_layers = not any_named
    return args
