"""``bert-serving-encode``: encodes a text file into a file of vectors, and resumes an interrupted run."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import numpy as np

from .._client import BertClient
from .._encoding import Response
from .._progress import ProgressBar
from .._scores import ServerTask
from .._version import __version__
from ..completion import add_completion
from ..errors import BertServingError, ServerError
from ..protocol import FloatArray
from .corpus import BLANK, Chunk, Corpus, CorpusError, count_lines
from .vector_files import FORMATS, Checkpoint, checkpoint_files, open_vector_file

if TYPE_CHECKING:
    from .._request_options import EncodeOptions

#: Encoded at the start, for the shape of the vectors and to compare them with those of an interrupted run.
PROBE = "the quick brown fox jumps over the lazy dog"

_EPILOG = """\
examples:
  bert-serving-encode corpus.txt -o vectors.npy             then numpy.load("vectors.npy")
  bert-serving-encode corpus.txt -o vectors.npy -resume     continues an interrupted run
  cut -f2 table.tsv | bert-serving-encode - -o vectors.npy
  bert-serving-encode corpus.txt -ip 10.0.0.7 | jq -c .vector
"""


def get_parser() -> argparse.ArgumentParser:
    """Returns the parser of ``bert-serving-encode``."""
    parser = argparse.ArgumentParser(
        prog="bert-serving-encode",
        description="Encode a text file, one sentence per line, into one vector per line; into the scores of all "
        "labels from a server with -task classify.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="text in UTF-8, one sentence per line; - is the standard input")
    add(
        "-o", "--output", default="-", metavar="OUT", help=".npy or .jsonl file; - is JSON lines to stdout (default: -)"
    )
    add("-format", "--format", choices=FORMATS, help="format of the output; by default from its file name")
    add(
        "-resume",
        "--resume",
        action="store_true",
        help="continue an interrupted OUT; start it if it does not exist",
    )
    add(
        "-overwrite",
        "--overwrite",
        action="store_true",
        help="replace an existing OUT, which is an error otherwise",
    )
    add(
        "-blank",
        "--blank",
        choices=BLANK,
        default="error",
        help="what to do with a blank line: report an error, skip it, or write a row of zeros, which keeps rows and "
        "lines aligned (default: %(default)s)",
    )
    add("-is_tokenized", "--is-tokenized", action="store_true", help="lines are tokens, separated by spaces")
    add(
        "-batch_size",
        "--batch-size",
        type=_positive,
        default=1024,
        metavar="N",
        help="sentences per request (default: %(default)s)",
    )
    add("-normalize", "--normalize", choices=("on", "off"), help="unit vectors; by default as the server does it")
    add("-prompt_name", "--prompt-name", metavar="NAME", help="prompt of the model to put before each sentence")
    add("-prompt", "--prompt", metavar="TEXT", help="text to put before each sentence")
    add("-dimensions", "--dimensions", type=_positive, metavar="N", help="number of leading dimensions to keep")
    add("-no_truncate", "--no-truncate", action="store_true", help="report an error if a sentence is too long")
    add("-vector_space", "--vector-space", metavar="SPACE", help="accept vectors of this space only")
    add("-quiet", "--quiet", action="store_true", help="no progress bar and no summary")
    server = parser.add_argument_group("server")
    add = server.add_argument
    add("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    add("-port", "-port_in", "--port", type=int, default=5555, metavar="PORT", help="its -port (default: %(default)s)")
    add("-port_out", "--port-out", type=int, default=5556, metavar="PORT", help="its -port_out (default: %(default)s)")
    add(
        "-connect_timeout",
        "--connect-timeout",
        type=float,
        default=10_000,
        metavar="MS",
        help="milliseconds to wait while no server is connected; -1 for no limit (default: %(default)s)",
    )
    add("-server_key", "--server-key", metavar="KEY", help="the server's public CURVE key, or its file")
    add("-secret_key", "--secret-key", metavar="KEY", help="the client's secret CURVE key, or its file")
    parser.add_argument("-version", "--version", action="version", version=f"bert-serving-client {__version__}")
    add_completion(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Exit code 0: success; 1: failure; 2: invalid command line; 130: interrupted."""
    parser = get_parser()
    args = parser.parse_args(argv)
    output_format = _format(args, parser)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: _print_error(f"warning: {message}")
            _run(args, output_format)
        return 0
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 130
    except BrokenPipeError:  # the reader of the pipe closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BertServingError, CorpusError, OSError) as error:
        _print_error(str(error))
        return 1


def _run(args: argparse.Namespace, output_format: str) -> None:
    started = time.monotonic()
    sidecar = None if args.output == "-" else checkpoint_files(args.output)[0]
    _require_other_file(args)
    before, is_complete = _load_checkpoint(args, sidecar)
    if is_complete:
        return
    with _input(args.file) as stream, _connect(args) as client:
        corpus = Corpus(stream, args.file, args.blank)
        options = _encode_options(args)
        probe, space = _probe(client, args.is_tokenized, options)
        labels = ServerTask.of(client.server_config).labels
        options["vector_space"] = space
        checkpoint = Checkpoint(corpus.position, 0, 0, _options(args, output_format, client, space), _mean(probe))
        if before:
            before.require(checkpoint)
            corpus.skip_to(before.input)
            checkpoint = before
        if sidecar:
            checkpoint.save(sidecar)  # before the output: an output without it is complete
        output = open_vector_file(args.output, output_format, probe, before, space)
        bar = ProgressBar(_count(args.file), not args.quiet and sys.stderr.isatty(), done=checkpoint.input.lines)
        is_done = False
        try:
            for chunk, response in _encoded(client, corpus.chunks(args.batch_size), args.is_tokenized, options):
                output.append(chunk, *_aligned(chunk, response, probe))
                lines = chunk.end.lines - checkpoint.input.lines
                checkpoint = replace(checkpoint, input=chunk.end, rows=output.rows, output_bytes=output.sync())
                if sidecar:
                    checkpoint.save(sidecar)
                bar.update(lines)
            is_done = True
        finally:
            bar.close()
            output.close()
            if sidecar and not is_done:
                _print_error(f"{checkpoint.rows:,} rows are in {args.output}; -resume continues from there")
    if sidecar:
        os.remove(sidecar)
    if not args.quiet:
        new = checkpoint.rows - (before.rows if before else 0)
        rate = new / (time.monotonic() - started)
        where = "" if args.output == "-" else f" in {args.output}, each {list(probe.shape)} {probe.dtype}"
        named = f", vector space {space}" if space else ""
        kind = f"scores of the labels {', '.join(labels)}" if labels else "vectors"
        _print_error(f"{checkpoint.rows:,} {kind}{where}{named} ({rate:,.0f}/s)")


def _encoded(
    client: BertClient, chunks: Iterator[Chunk], is_tokenized: bool, options: EncodeOptions
) -> Iterator[tuple[Chunk, Response | None]]:
    """Yields chunks with their results, in order, while later chunks are in flight; ``None`` if a chunk has no text."""
    sent: deque[Chunk] = deque()
    first, early = client.request_id + 1, dict[int, Response]()

    def texts() -> Iterator[list[Any]]:
        for chunk in chunks:
            sent.append(chunk)
            if found := [text.split() if is_tokenized else text for text in chunk.texts if text]:
                yield found

    try:
        for response in client.encode_async(texts(), is_tokenized=is_tokenized, **options):
            early[response.id] = response
            while first in early:
                yield sent.popleft(), early.pop(first)
                first += 1
    except ServerError as error:
        chunk = sent[error.request_id - first]
        lines = f"lines {chunk.numbers[0]:,} to {chunk.numbers[-1]:,}"
        raise CorpusError(f"{lines}: the server replied with {error.type!r}: {error.message}") from error
    for chunk in sent:
        yield chunk, None


def _aligned(chunk: Chunk, response: Response | None, row: FloatArray) -> tuple[FloatArray, Any]:
    """Returns vectors and tokens for all rows of a chunk: zeros and no tokens for blank texts."""
    filled = np.array([bool(text) for text in chunk.texts])
    if response is not None and filled.all():
        return response.embedding, response.tokens
    vectors = np.zeros((len(filled), *(row if response is None else response.embedding[0]).shape), row.dtype)
    if response is None:
        return vectors, ""
    vectors[filled] = response.embedding
    tokens = iter(response.tokens)
    return vectors, [next(tokens) if text else [] for text in chunk.texts] if response.tokens else ""


def _require_other_file(args: argparse.Namespace) -> None:
    """Checks that the run does not write to the file that it reads.

    Raises:
        CorpusError: it does, under whichever name.
    """
    source = _identity(sys.stdin if args.file == "-" else args.file)
    if source is None:
        return
    written: list[str | TextIO] = [sys.stdout] if args.output == "-" else [args.output, *checkpoint_files(args.output)]
    for target in written:
        if _identity(target) == source:
            name = target if isinstance(target, str) else "the standard output"
            shown = "the standard input" if args.file == "-" else args.file
            raise CorpusError(f"{name} is the same file as the input {shown}; name another output with -o")


def _identity(file: str | TextIO) -> tuple[int, int] | None:
    """Returns device and inode of a regular file; ``None`` for pipes, terminals, and files that do not exist."""
    try:
        status = os.stat(file if isinstance(file, str) else file.fileno())
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


def _probe(client: BertClient, is_tokenized: bool, options: EncodeOptions) -> tuple[FloatArray, str | None]:
    """Returns the vector of ``PROBE`` and its space; ``None`` from a server that does not name it.

    It does not matter whether the server truncates this text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        texts = [PROBE.split()] if is_tokenized else [PROBE]
        options = {**options, "truncate": True}
        if client.vector_space is None:  # a server that does not know the options of the other call
            vectors: FloatArray = client.encode(texts, is_tokenized=is_tokenized, **options)
            return vectors[0], None
        call = client._encode_in_detail(texts, is_tokenized, 1, [], **options)
        return call.embedding[0], call.vector_space


def _encode_options(args: argparse.Namespace) -> EncodeOptions:
    """Returns the options of the requests."""
    return {
        "normalize": None if args.normalize is None else args.normalize == "on",
        "prompt_name": args.prompt_name,
        "prompt": args.prompt,
        "dimensions": args.dimensions,
        "truncate": not args.no_truncate,
        "vector_space": args.vector_space,
    }


def _load_checkpoint(args: argparse.Namespace, sidecar: str | None) -> tuple[Checkpoint | None, bool]:
    """Returns the checkpoint of an interrupted run, and whether the output is complete.

    Raises:
        CorpusError: the output exists, and neither -resume nor -overwrite is given.
    """
    if sidecar is None or args.overwrite or not os.path.exists(args.output):
        return None, False
    is_interrupted = os.path.exists(sidecar)
    if not args.resume:
        state = "is incomplete: -resume continues it" if is_interrupted else "exists already"
        raise CorpusError(f"{args.output} {state}; -overwrite replaces it")
    if not is_interrupted:
        _print_error(f"{args.output} is complete, because {sidecar} does not exist; -overwrite replaces it")
        return None, True
    return Checkpoint.load(sidecar), False


def _options(args: argparse.Namespace, output_format: str, client: BertClient, space: str | None) -> dict[str, Any]:
    """Returns the options that must be the same in all runs that write one output."""
    return {
        "-format": output_format,
        "-blank": args.blank,
        "-is_tokenized": args.is_tokenized,
        "-normalize": args.normalize,
        "-prompt_name": args.prompt_name,
        "-prompt": args.prompt,
        "-dimensions": args.dimensions,
        "the server's -max_seq_len": client.length_limit,
        "the vector space": space,
    }


def _format(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Returns the format of the output, from the option or the file name; exits if the command line is invalid."""
    ending = os.path.splitext(args.output)[1].lstrip(".")
    output_format = str(args.format or ("jsonl" if args.output == "-" else ending))
    if output_format not in FORMATS:
        parser.error(f"the format of {args.output!r} is unknown: name it .npy or .jsonl, or add -format")
    if args.output == "-" and (output_format == "npy" or args.resume):
        parser.error("the standard output supports JSON lines only, and no -resume; name a file with -o")
    if args.resume and args.overwrite:
        parser.error("-resume and -overwrite exclude each other; give one of them")
    return output_format


def _connect(args: argparse.Namespace) -> BertClient:
    return BertClient(
        ip=args.ip,
        port=args.port,
        port_out=args.port_out,
        connect_timeout=args.connect_timeout,
        server_key=args.server_key,
        secret_key=args.secret_key,
    )


def _input(path: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")


def _count(path: str) -> int | None:
    """Returns the number of lines, ``None`` for an input that can be read only once."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as stream:
        return count_lines(stream)


def _mean(probe: FloatArray) -> list[float]:
    """Returns a vector as plain numbers; the mean of token vectors."""
    mean: list[float] = probe.astype(np.float64).reshape(-1, probe.shape[-1]).mean(0).tolist()
    return mean


def _positive(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, but is {text!r}")
    return int(text)


def _print_error(text: str) -> None:
    print(f"bert-serving-encode: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
