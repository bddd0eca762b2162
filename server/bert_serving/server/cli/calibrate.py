"""The command ``bert-serving-calibrate``: saves the ranges of a model's vectors, for ``-quantization_ranges``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from bert_serving.client.completion import add_completion
from bert_serving.client.flag_sources import add_sources, choose_address, command_args
from bert_serving.client.rate_limits import when_allowed, within_limits

from ..config.option import at_least
from ..model.ranges import RangeSample, to_json
from .text_sample import add_server, connect, limit_report, measured, sample_parser, text_chunks

#: Number of texts below which texts that follow often have numbers beyond the ranges.
RECOMMENDED_TEXTS = 1000
#: Smallest number of texts: a range has two ends.
MIN_TEXTS = 2

_EPILOG = """\
examples:
  bert-serving-calibrate texts.txt -o quantization_ranges.json
  bert-serving-calibrate texts.txt -o quantization_ranges.json -dimensions 256 -dimensions 128
  bert-serving-start ... -quantization_ranges quantization_ranges.json
"""


def get_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``bert-serving-calibrate``."""
    parser = sample_parser(
        "bert-serving-calibrate",
        "Encode texts and save the least and the greatest number of each dimension of their vectors. The embedding "
        "types int8 and uint8 need these ranges.",
        _EPILOG,
        "texts in UTF-8, one per line; blank lines are skipped",
    )
    add = parser.add_argument
    add(
        "-dimensions",
        "--dimensions",
        type=at_least(1),
        action="append",
        default=[],
        metavar="N",
        help="also save the ranges of vectors with N dimensions, for requests with that option; may be repeated",
    )
    add("-prompt_name", "--prompt-name", metavar="NAME", help="prompt of the model to put before each text")
    add_server(parser)
    add_sources(parser)
    add_completion(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code: 0 on success, 1 on failure; argparse exits with 2 on wrong usage."""
    parser = get_parser()
    args = command_args(parser, argv)
    choose_address(parser, args)
    found = measured("bert-serving-calibrate", args, _measure, lambda found: to_json(found[1], found[0]))
    if found is None:
        return 1
    num_texts, samples = found
    for space, sample in samples.items():
        print(f"{args.output}: vector space {space}, {len(sample.ranges[0])} dimensions, {num_texts:,} texts")
    if num_texts < RECOMMENDED_TEXTS:
        print(
            f"bert-serving-calibrate: warning: with fewer than {RECOMMENDED_TEXTS:,} texts, other texts often have "
            "numbers beyond the ranges, which become the nearest end; use more texts",
            file=sys.stderr,
        )
    return 0


def _measure(args: argparse.Namespace) -> tuple[int, dict[str, RangeSample]]:
    """Returns the number of texts, and their ranges by vector space: of all dimensions, and of fewer ones.

    Raises:
        ValueError: the server has no vectors of texts, or there are too few texts.
    """
    num_texts = 0
    samples: dict[str, RangeSample] = {}
    spaces: dict[int | None, str | None] = dict.fromkeys([None, *args.dimensions])
    with (
        open(args.file, encoding="utf-8") as lines,
        connect(args) as client,
    ):
        if not client.server_config.get("embedding_types"):
            raise ValueError(
                "the server has no embedding types: it is of an earlier version, gives scores (-task), or returns a "
                "vector per token (-pooling_strategy NONE); use another server"
            )
        limits = limit_report("bert-serving-calibrate")

        def add(dimensions: int | None, texts: list[str]) -> None:
            call = client._encode_in_detail(
                texts,
                False,
                len(texts),
                [],
                dimensions=dimensions,
                prompt_name=args.prompt_name,
                vector_space=spaces[dimensions],  # of the first texts: the server may be restarted with another model
                pairs=False,
            )
            assert call.vector_space is not None
            spaces[dimensions] = call.vector_space
            samples.setdefault(call.vector_space, RangeSample()).add(call.embedding)

        for texts, _ in within_limits(partial(add, None), text_chunks(lines), limits):
            num_texts += len(texts)
            for dimensions in args.dimensions:  # the same texts, so that their number fits the limits
                when_allowed(partial(add, dimensions, texts), limits, f"{dimensions} dimensions of the same texts")
    if num_texts < MIN_TEXTS:
        raise ValueError(f"{args.file} has {num_texts} texts; ranges need at least {MIN_TEXTS}, better some thousand")
    return num_texts, samples


if __name__ == "__main__":
    sys.exit(main())
