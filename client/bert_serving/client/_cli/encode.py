"""``bert-serving-encode``: encodes a text file into a file of vectors, or many files into a folder of parts."""

from __future__ import annotations

import argparse
import errno
import os
import stat
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from typing import Any, BinaryIO, TextIO

import numpy as np

from .._encoding import Response
from .._progress import ProgressBar
from .._scores import ServerTask
from ..command_parser import describe_error
from ..errors import BertServingError
from ..flag_sources import command_args
from ..protocol import ROW_MODES, FloatArray
from .command_line import checked_format, fronts_of, get_parser, is_folder
from .corpus import Chunk, Corpus, CorpusError, count_lines
from .encode_folder import run_folder
from .inputs import format_of
from .output_columns import columns_of
from .requests import (
    connect,
    described,
    encode_options,
    encoded,
    mean_of,
    probe_server,
    row_options,
    server_options,
)
from .text_parts import part_rows
from .vector_files import Checkpoint, VectorRows, checkpoint_files, open_vector_file


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Exit code 0: success; 1: failure; 2: invalid command line; 130: interrupted."""
    parser = get_parser()
    args = command_args(parser, argv)
    output_format = checked_format(args, parser)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *_, **__: _print_error(f"warning: {message}")
            if is_folder(args):
                run_folder(args, output_format, _print_error)
            else:
                args.file = args.files[0]
                _run(args, output_format)
        return 0
    except KeyboardInterrupt:
        _print_error("interrupted")
        return 130
    except BrokenPipeError:  # the reader of the pipe closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (BertServingError, CorpusError, OSError) as error:
        _print_error(describe_error(error))
        return 1


def _run(args: argparse.Namespace, output_format: str) -> None:
    started = time.monotonic()
    sidecar = None if args.output == "-" else checkpoint_files(args.output)[0]
    _require_other_file(args)
    _require_text(args.file)
    before, is_complete = _load_checkpoint(args, sidecar)
    if is_complete:
        return
    with _input(args.file) as stream, connect(args, *fronts_of(args)) as client:
        corpus = Corpus(stream, args.file, args.blank)
        options = encode_options(args)
        probe, space, _ = probe_server(client, args.is_tokenized, options, _print_error)
        labels = ServerTask.of(client.server_config).labels
        options["vector_space"] = space
        row = row_options(args, output_format) | server_options(client, space)
        checkpoint = Checkpoint(corpus.position, 0, 0, row, mean_of(probe))
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
            chunks = corpus.chunks(args.batch_size)
            for chunk, response in encoded(client, chunks, args.is_tokenized, options, _print_error):
                if args.long in ROW_MODES:
                    output.append(_parts(chunk, response, probe))
                else:
                    columns = columns_of(None if response is None else response.outputs, args.outputs, chunk.texts)
                    output.append(VectorRows(chunk, *_aligned(chunk, response, probe), columns=columns))
                lines = chunk.end.lines - checkpoint.input.lines
                checkpoint = replace(checkpoint, input=chunk.end, rows=output.rows, output_bytes=output.sync())
                if sidecar:
                    checkpoint.save(sidecar)
                bar.update(lines)
            is_done = True
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                error.filename = error.filename or args.output
            raise
        finally:
            bar.close()
            with suppress(*() if is_done else (OSError,)):  # the rest of a write that failed
                output.close()
            if sidecar and not is_done:
                if checkpoint.rows:
                    _print_error(f"{checkpoint.rows:,} rows are in {args.output}; -resume continues from there")
                else:
                    _print_error(f"{args.output} has no rows; -overwrite starts over")
    if sidecar:
        os.remove(sidecar)
    if not args.quiet:
        new = checkpoint.rows - (before.rows if before else 0)
        rate = new / (time.monotonic() - started)
        where = "" if args.output == "-" else f" in {args.output}, each {described(probe, args.outputs)}"
        named = f", vector space {space}" if space else ""
        kind = f"scores of the labels {', '.join(labels)}" if labels else "vectors"
        _print_error(f"{checkpoint.rows:,} {kind}{where}{named} ({rate:,.0f}/s)")


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


def _parts(chunk: Chunk, response: Response | None, row: FloatArray) -> VectorRows:
    """Returns the lines, vectors, tokens and offsets of all parts of the texts of a chunk."""
    vectors, parts = (None, None) if response is None else (response.embedding, response.parts)
    rows = part_rows(chunk.texts, vectors, parts, row)
    tokens: Any = ""
    if response is not None and response.tokens:
        following = iter(response.tokens)
        tokens = [next(following) if text else [] for text in rows.texts]
    texts = [text or "" for text in rows.texts]
    lines = Chunk(texts, [chunk.numbers[source] for source in rows.sources], chunk.end)
    return VectorRows(lines, rows.vectors, tokens, rows)


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


def _require_text(path: str) -> None:
    """Checks that the input is not a file whose lines are no sentences.

    Raises:
        CorpusError: its name stands for another format.
    """
    file_format, compression = format_of(path)
    if file_format in ("jsonl", "parquet") or compression:
        raise CorpusError(
            f"{path} is not a text file by its ending; encode it into a folder of parts, -o OUT/ (with a slash), or "
            "pass its lines as they are through the standard input, -"
        )


def _identity(file: str | TextIO) -> tuple[int, int] | None:
    """Returns device and inode of a regular file; ``None`` for pipes, terminals, and files that do not exist."""
    try:
        status = os.stat(file if isinstance(file, str) else file.fileno())
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else None


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


def _input(path: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb")


def _count(path: str) -> int | None:
    """Returns the number of lines, ``None`` for an input that can be read only once."""
    if not os.path.isfile(path):
        return None
    with open(path, "rb") as stream:
        return count_lines(stream)


def _print_error(text: str) -> None:
    print(f"bert-serving-encode: {text}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
