"""Encodes a corpus of any number of files into a folder of parts, and resumes an interrupted run."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

from .._progress import ProgressBar
from ..protocol import ROW_MODES
from .corpus import CorpusError
from .inputs import InputFile, find_inputs, require_pyarrow, shortened
from .json_columns import merged, merged_columns
from .manifest import Manifest, OutputFolder
from .part_encoder import PartRun
from .part_files import Layout
from .part_pipeline import Job
from .parts import Part, PartQueue, plan
from .ray_run import RayReading, RayRun, absolute, ray_cluster
from .readers import Reading, state_of
from .requests import described, encode_options, mean_of, row_options
from .rows import ReadOptions, vector_column_error
from .server_models import connect_all, reconnect
from .vector_files import require_options

Report = Callable[[str], None]


class _Corpus(NamedTuple):
    """The inputs, and the parts that are done."""

    inputs: list[InputFile]
    parts: list[Part]
    done: set[int]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def rows_done(self) -> int:
        return sum(part.rows for part in self.parts if part.number in self.done)


def run_folder(args: argparse.Namespace, output_format: str, report: Report) -> None:
    """Encodes all inputs into the folder.

    Raises:
        CorpusError: an input is not valid, or the folder cannot be written or resumed.
        BertServingError: the servers cannot be reached.
    """
    started = time.monotonic()
    if output_format == "parquet":
        require_pyarrow("-format parquet")
    paths = find_inputs(args.files, report)
    _require_outside([*args.files, *paths], args.output)
    states = [state_of(path) for path in paths]
    read_options = ReadOptions(
        args.column,
        args.vector_column,
        args.blank,
        args.batch_size,
        args.part_rows,
        output_format == "parquet",
        args.long in ROW_MODES,
        args.outputs,
    )
    options = row_options(args, output_format) | {
        "-column": args.column,
        "-vector_column": args.vector_column,
        "-part_rows": args.part_rows,
    }
    with OutputFolder(args.output, args.resume, args.overwrite) as folder, ExitStack() as stack:
        ray = stack.enter_context(ray_cluster(args.ray_address)) if args.ray_address else None
        reading = Reading() if ray is None else RayReading(ray)
        corpus: _Corpus | None = None
        before = folder.manifest
        if before is not None:
            corpus = _verified(args, folder, before, options, paths, report, reading)
            if len(corpus.done) == len(corpus.parts):
                report(f"{args.output} is complete: {_counts(corpus)}, each as it was written")
                return
        request_options = encode_options(args)
        clients, server = connect_all(args, stack, request_options, report)
        options |= server.options
        if before is not None:
            server.require_resumable(before)
        if output_format == "parquet" and server.probe.ndim != 1:
            raise CorpusError(
                f"Parquet holds one vector for each text, and the server returns {list(server.probe.shape)}; "
                "start it with a -pooling_strategy other than NONE, or write -format npy"
            )
        if corpus is None:
            inputs = _with_bar(
                args, "read", "bytes", _size(paths), lambda show: reading.survey(paths, read_options, show)
            )
            corpus = _Corpus(inputs, plan([one.rows for one in inputs], args.part_rows), set())
            if empty := [one.path for one in inputs if not one.rows]:
                report(f"inputs without rows: {shortened(empty)}")
        columns = _columns(corpus.inputs, args, read_options)
        if before is None:
            folder.clear()
        Manifest(options, before.probe if before else mean_of(server.probe), corpus.inputs).save(folder.path)
        request_options["vector_space"] = server.space
        names = args.column, args.vector_column
        about_outputs = args.outputs, server.multi_type
        has_parts = read_options.has_parts
        layout = Layout(output_format, server.probe, *names, columns, server.space, has_parts, *about_outputs)
        place, seen = (folder.path, paths) if ray is None else absolute(folder.path, paths)
        job = Job(place, seen, corpus.inputs, states, read_options, layout, args.is_tokenized, request_options)
        bar = ProgressBar(corpus.rows, _is_shown(args), done=corpus.rows_done)
        run: PartRun | RayRun
        if ray is None:
            queue = PartQueue(corpus.parts, corpus.done)
            run = PartRun(job, queue, folder, bar, lambda front: reconnect(args, front, server, report), report)
        else:
            left = [part for part in corpus.parts if part.number not in corpus.done]
            run = RayRun(ray, args, job, server, left, folder, bar, report)
        try:
            run.run(clients)
        except BaseException:
            written = corpus.rows_done + run.rows_written
            bar.close()
            report(f"{written:,} of {corpus.rows:,} rows are in {args.output}; -resume continues it")
            raise
        bar.close()
    if not args.quiet:
        rate = run.rows_written / (time.monotonic() - started)
        named = f", vector space {server.space}" if server.space else ""
        kind = f"scores of the labels {', '.join(server.labels)}, " if server.labels else ""
        shape = f"{kind}each {described(server.probe, args.outputs)}"
        report(f"{_counts(corpus)} in {args.output}, {shape}{named} ({rate:,.0f}/s)")


def _verified(
    args: argparse.Namespace,
    folder: OutputFolder,
    before: Manifest,
    options: dict[str, Any],
    paths: list[str],
    report: Report,
    reading: Reading,
) -> _Corpus:
    """Returns the corpus of an interrupted run, after a check of its inputs and outputs.

    Raises:
        CorpusError: an input or an option has changed.
    """
    # With -blank error no part that is written has a blank text, so another value may follow.
    kept = [name for name in options if name != "-blank" or before.options.get(name) != "error"]
    require_options({name: before.options.get(name) for name in kept}, options)
    _with_bar(
        args,
        "read",
        "bytes",
        _size(paths),
        lambda show: before.require_inputs(paths, lambda each: reading.digests(each, show)),
    )
    parts = plan([one.rows for one in before.inputs], args.part_rows)
    total = sum(part.rows for part in parts)
    done = _with_bar(
        args, "check", "rows", total, lambda show: folder.verified(parts, options["-format"], report, show)
    )
    return _Corpus(before.inputs, parts, done)


def _columns(inputs: list[InputFile], args: argparse.Namespace, options: ReadOptions) -> dict[str, str]:
    """Returns the columns of all JSON lines."""
    if not options.has_columns:
        return {}
    if args.column in options.added_columns:
        raise vector_column_error("the output", args.column)
    columns = merged_columns(one.columns for one in inputs)
    columns[args.column] = merged(columns.get(args.column, "null"), "string")
    return columns


def _require_outside(paths: list[str], output: str) -> None:
    """Checks that no input is in the output, and that the output is in no folder of inputs.

    Raises:
        CorpusError: one is.
    """
    folder = os.path.join(os.path.realpath(output), "")
    for path in paths:
        real = os.path.realpath(path)
        if os.path.join(real, "").startswith(folder) or folder.startswith(os.path.join(real, "")):
            raise CorpusError(f"the input {path} and the output {output} overlap; name another folder with -o")


def _counts(corpus: _Corpus) -> str:
    return f"{corpus.rows:,} rows in {len(corpus.parts):,} parts"


def _size(paths: list[str]) -> int:
    return sum(os.stat(path).st_size for path in paths)


def _is_shown(args: argparse.Namespace) -> bool:
    return not args.quiet and sys.stderr.isatty()


def _with_bar(
    args: argparse.Namespace, label: str, unit: str, total: int, work: Callable[[Callable[[int], None]], Any]
) -> Any:
    """Runs a function with a progress bar, which it updates."""
    bar = ProgressBar(total, _is_shown(args), label=label, unit=unit)
    try:
        return work(bar.update)
    finally:
        bar.close()
