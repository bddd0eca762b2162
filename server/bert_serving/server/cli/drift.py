"""The command ``bert-serving-drift``: saves the statistics of a sample of texts as a drift reference."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from bert_serving.client.completion import add_completion
from bert_serving.client.flag_sources import add_sources, choose_address, command_args
from bert_serving.client.rate_limits import within_limits

from ..config.model_folder import apply_model_folder
from ..config.server_config import ServerConfig
from ..monitoring.drift import RELEVANT_OPTIONS, Reference, Sample
from ..tokenization.factory import make_tokenizer
from .text_sample import add_server, connect, limit_report, measured, sample_parser, text_chunks

#: Number of texts below which the drift of a healthy server is large by chance.
RECOMMENDED_TEXTS = 1000
#: Options of the server that determine the tokens of a text.
_TOKEN_OPTIONS = (
    "model_dir", "tuned_model_dir", "base", "ckpt_name", "config_name", "max_seq_len", "do_lower_case", "prompt_name",
    "mask_cls_sep", "no_special_token",
)  # fmt: skip

_EPILOG = """\
examples:
  bert-serving-drift sample.txt -o reference.json
  bert-serving-start ... -drift_reference reference.json
"""


def get_parser() -> argparse.ArgumentParser:
    """Builds the parser of ``bert-serving-drift``."""
    parser = sample_parser(
        "bert-serving-drift",
        "Encode a sample of texts and save its statistics, for -drift_reference.",
        _EPILOG,
        "sample in UTF-8, one text per line; blank lines are skipped",
    )
    add_server(parser)
    add_sources(parser)
    add_completion(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns the exit code: 0 on success, 1 on failure; argparse exits with 2 on wrong usage."""
    parser = get_parser()
    args = command_args(parser, argv)
    choose_address(parser, args)
    reference = measured("bert-serving-drift", args, _measure, Reference.to_json)
    if reference is None:
        return 1
    print(f"{args.output}: {reference.num_texts:,} texts, {100 * reference.unknown_share:.2f}% of their tokens unknown")
    if reference.num_texts < RECOMMENDED_TEXTS:
        print(
            f"bert-serving-drift: warning: the reference is noisy with fewer than {RECOMMENDED_TEXTS:,} texts",
            file=sys.stderr,
        )
    return 0


def _measure(args: argparse.Namespace) -> Reference:
    sample = Sample()
    with (
        open(args.file, encoding="utf-8") as lines,
        connect(args) as client,
    ):
        options = client.server_config
        silent = logging.Logger("drift")
        silent.addHandler(logging.NullHandler())  # the server logs the same about its options
        tokenizer = make_tokenizer(*apply_model_folder(_token_options(options), silent))
        limits = limit_report("bert-serving-drift")
        for texts, vectors in within_limits(client.encode, text_chunks(lines), limits):
            if vectors.ndim != 2:
                raise ValueError(
                    "the server returns a vector per token (-pooling_strategy NONE); drift needs one vector per text"
                )
            tokenized = tokenizer.encode(texts)
            sample.add(vectors, tokenized.lengths, tokenized.num_unknown)
    return sample.reference(options)


def _token_options(options: dict[str, Any]) -> ServerConfig:
    """Returns the options of the server that determine the tokens of a text.

    Raises:
        ValueError: the server has another version, or its model is not on this machine.
    """
    missing = [name for name in (*_TOKEN_OPTIONS, *RELEVANT_OPTIONS) if name not in options]
    if missing:
        raise ValueError(f"the status of the server lacks {', '.join(missing)}: update the server to this version")
    if not os.path.isdir(options["model_dir"]):
        raise ValueError(
            f"the model folder of the server, {options['model_dir']}, does not exist on this machine, but its "
            "vocabulary is needed to count tokens: run this command on the machine of the server"
        )
    return ServerConfig.from_dict({name: options[name] for name in _TOKEN_OPTIONS})


if __name__ == "__main__":
    sys.exit(main())
