"""``bert-serving-drift``: what a sample of texts is like, saved for a server to compare with."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator, Sequence

from bert_serving.client import BertClient, BertServingError
from bert_serving.client.completion import add_completion

from ..config.server_config import OPTIONS, ServerConfig
from ..errors import ServingError
from ..model.errors import ModelError
from ..monitoring.drift import Reference, Sample
from ..tokenization.factory import make_tokenizer

#: Texts encoded at a time.
CHUNK = 4096
#: With fewer texts, the numbers of a healthy server are already large by chance.
FEW = 1000

_EPILOG = """\
examples:
  bert-serving-drift sample.txt -o reference.json
  bert-serving-start ... -drift_reference reference.json
"""


def get_parser() -> argparse.ArgumentParser:
    """The parser of ``bert-serving-drift``."""
    parser = argparse.ArgumentParser(
        prog="bert-serving-drift",
        description="Encode a sample of texts and save what it is like, for -drift_reference.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="sample in UTF-8, one text per line; blank lines are left out")
    add("-o", "--output", required=True, metavar="OUT", help="JSON file to write")
    add("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    add("-port", "-port_in", "--port", type=int, default=5555, metavar="PORT", help="its -port (default: %(default)s)")
    add("-port_out", "--port-out", type=int, default=5556, metavar="PORT", help="its -port_out (default: %(default)s)")
    add("-server_key", "--server-key", metavar="KEY", help="the server's public CURVE key, or its file")
    add("-secret_key", "--secret-key", metavar="KEY", help="your secret CURVE key, or its file")
    add_completion(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Exit code 0: done; 1: it failed; 2: a wrong command line."""
    args = get_parser().parse_args(argv)
    try:
        reference = _measure(args)
        with open(args.output, "w", encoding="utf-8") as out:
            out.write(reference.to_json() + "\n")
    except UnicodeDecodeError as error:
        return _fail(f"{args.file} is not UTF-8: {error}")
    except (BertServingError, ServingError, ModelError, ValueError, OSError) as error:
        return _fail(str(error))
    print(f"{args.output}: {reference.num_texts:,} texts, {100 * reference.unknown_share:.2f}% of their tokens [UNK]")
    if reference.num_texts < FEW:
        print(f"bert-serving-drift: fewer than {FEW:,} texts make a noisy reference", file=sys.stderr)
    return 0


def _measure(args: argparse.Namespace) -> Reference:
    sample = Sample()
    with (
        open(args.file, encoding="utf-8") as lines,
        BertClient(
            args.ip,
            args.port,
            args.port_out,
            check_length=False,
            server_key=args.server_key,
            secret_key=args.secret_key,
        ) as client,
    ):
        config = _config_of(client)
        tokenizer = make_tokenizer(config, config.read_model())
        for texts in _chunks(lines):
            vectors = client.encode(texts)
            if vectors.ndim != 2:
                raise ValueError(
                    "this server gives a vector per token (-pooling_strategy NONE): drift needs one per text"
                )
            tokenized = tokenizer.encode(texts)
            sample.add(vectors, tokenized.lengths, tokenized.num_unknown)
    return sample.reference(config.public())


def _config_of(client: BertClient) -> ServerConfig:
    """The options of the server, whose tokenizer is needed here too.

    Raises:
        ValueError: the server's model is not on this machine.
    """
    facts = client.server_config
    missing = [name for name in ("model_dir", "do_lower_case", "drift_reference") if name not in facts]
    if missing:
        raise ValueError("this server is of another version, and says too little of itself")
    if not os.path.isdir(facts["model_dir"]):
        raise ValueError(
            f"the server's model, {facts['model_dir']}, is not here: its vocabulary is needed to count tokens. Run "
            "this on the server's machine, or where the model has the same path"
        )
    return ServerConfig.from_dict({name: facts[name] for name in OPTIONS if name in facts})


def _chunks(lines: Iterator[str]) -> Iterator[list[str]]:
    texts = (line.strip() for line in lines)
    full = (text for text in texts if text)
    while chunk := list(itertools.islice(full, CHUNK)):
        yield chunk


def _fail(why: str) -> int:
    print(f"bert-serving-drift: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
