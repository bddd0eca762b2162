"""The command line of ``bert-serving-encode``."""

from __future__ import annotations

import argparse
import os

from .._fronts import Front, parse_front
from .._request_options import validate_model
from .._version import __version__
from ..command_parser import CommandParser
from ..completion import add_completion
from ..errors import OptionError
from ..flag_sources import add_sources, choose_address
from ..protocol import EMBEDDING_TYPES, OUTPUTS, OUTPUTS_BATCH_SIZE, PART_MODES, ROW_MODES
from ..ray_cluster import check_address
from .corpus import BLANK
from .part_files import FOLDER_FORMATS
from .vector_files import FORMATS

#: Rows of a part: a few seconds of work for a GPU, a minute for a CPU.
PART_ROWS = 50_000

_EPILOG = """\
one text file into one file of vectors:
  bert-serving-encode corpus.txt -o vectors.npy             then numpy.load("vectors.npy")
  bert-serving-encode corpus.txt -o vectors.npy -resume     continues an interrupted run
  cut -f2 table.tsv | bert-serving-encode - -o vectors.npy
  bert-serving-encode corpus.txt -ip 10.0.0.7 | jq -c .vector

any number of files into a folder of parts (the slash makes it a folder):
  bert-serving-encode corpus/ -o vectors/                   then pandas.read_parquet("vectors/")
  bert-serving-encode a.jsonl.gz b.parquet -column body -o vectors/
  bert-serving-encode corpus/ -o vectors/ -resume           continues, or checks a complete folder
  bert-serving-encode corpus/ -o vectors/ -front gpu1 -front gpu2:5555
  bert-serving-encode /nfs/corpus/ -o /nfs/vectors/ -front 10.0.0.1 -ray_address auto
"""


def get_parser() -> argparse.ArgumentParser:
    """Returns the parser of ``bert-serving-encode``."""
    parser = CommandParser(
        prog="bert-serving-encode",
        description="Encode a text file, one sentence per line, into one vector per line; or files of text, JSON\n"
        "lines and Parquet into a folder of parts, with all their columns and one vector per row. From a server\n"
        "with -task classify, the vectors are the scores of all labels.",
        epilog=_EPILOG,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=100),
    )
    add = parser.add_argument
    add(
        "files",
        metavar="FILE",
        nargs="+",
        help="text in UTF-8, one sentence per line; - is the standard input. With a folder OUT also several files and "
        "folders, and .jsonl, .parquet, .gz, .bz2, .xz and .zst",
    )
    add(
        "-o",
        "-output",
        "--output",
        default="-",
        metavar="OUT",
        help=".npy or .jsonl file; OUT/ with a slash is a folder of parts; - is JSON lines to stdout (default: -)",
    )
    add(
        "-format",
        "--format",
        choices=(*FORMATS, "parquet"),
        help="format of the output; by default from its file name, and parquet in a folder, which may be npy too",
    )
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
        help="what to do with a blank text: report an error, skip it, or write a row of zeros, which keeps rows and "
        "lines aligned. A folder has a row for each text, so there null takes the place of skip (default: %(default)s)",
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
    add(
        "-normalize",
        "--normalize",
        choices=("auto", "on", "off"),
        help="unit vectors; auto, the default, as the server",
    )
    add("-prompt_name", "--prompt-name", metavar="NAME", help="prompt of the model to put before each sentence")
    add("-prompt", "--prompt", metavar="TEXT", help="text to put before each sentence")
    add("-dimensions", "--dimensions", type=_positive, metavar="N", help="number of leading dimensions to keep")
    add("-no_truncate", "--no-truncate", action="store_true", help="report an error if a sentence is too long")
    add(
        "-long",
        "--long",
        choices=("cut", "error", *PART_MODES),
        help="what to do with a text that is too long: cut it, the default, report an error, average the vectors of "
        "its parts (mean), or write a row for each part with its offsets (chunks, or late for parts in their context; "
        "Parquet and JSON lines only)",
    )
    add(
        "-embedding_type",
        "--embedding-type",
        choices=EMBEDDING_TYPES,
        help="type of the numbers; binary and ubinary have the signs of eight numbers; by default as the server",
    )
    add(
        "-pooling",
        "--pooling",
        metavar="STRATEGY",
        help="pooling strategy, such as CLS_TOKEN, of those that the server has for requests; by default as the server",
    )
    add(
        "-pooling_layer",
        "--pooling-layer",
        type=int,
        nargs="+",
        metavar="LAYER",
        help="layers whose vectors are joined, of those that the server keeps; by default all of them",
    )
    add(
        "-outputs",
        "--outputs",
        choices=OUTPUTS,
        nargs="+",
        default=(),
        metavar="KIND",
        help="kinds of vectors: some of dense, sparse and multi that the model has; by default dense. JSON lines and "
        "Parquet have a field of their own for each",
    )
    add(
        "-model",
        "--model",
        dest="chosen_model",
        type=_model,
        metavar="NAME",
        help="model of a server with several, which encodes all texts; by default its first one",
    )
    add("-vector_space", "--vector-space", metavar="SPACE", help="accept vectors of this space only")
    add("-quiet", "--quiet", action="store_true", help="no progress bar and no summary")
    folder = parser.add_argument_group("folder of parts")
    add = folder.add_argument
    add(
        "-column",
        "--column",
        default="text",
        metavar="NAME",
        help="column of JSON lines and Parquet that has the texts (default: %(default)s)",
    )
    add(
        "-vector_column",
        "--vector-column",
        default="vector",
        metavar="NAME",
        help="column of the output that has the vectors (default: %(default)s)",
    )
    add(
        "-part_rows",
        "--part-rows",
        type=_positive,
        default=PART_ROWS,
        metavar="N",
        help="rows of a part; a run that is killed loses the parts under way (default: %(default)s)",
    )
    cluster = parser.add_argument_group("folder of parts, on a Ray cluster")
    add = cluster.add_argument
    add(
        "-ray_address",
        "--ray-address",
        metavar="ADDRESS",
        help="read the inputs and write the parts on the nodes of this cluster, HOST:PORT of its head or auto. All "
        "nodes see inputs and OUT under the same paths",
    )
    add(
        "-ray_actors",
        "--ray-actors",
        type=_positive,
        metavar="N",
        help="parts that are encoded at once, each on one CPU; by default two for each server",
    )
    server = parser.add_argument_group("server")
    add = server.add_argument
    add("-ip", "--ip", default="localhost", help="address of the server (default: %(default)s)")
    add("-port", "-port_in", "--port", type=int, default=5555, metavar="PORT", help="its -port (default: %(default)s)")
    add("-port_out", "--port-out", type=int, default=5556, metavar="PORT", help="its -port_out (default: %(default)s)")
    add(
        "-front",
        "--front",
        action="append",
        type=_front,
        metavar="HOST",
        help="a server HOST[:PORT[:PORT_OUT]] in place of the three above; PORT is 5555 and PORT_OUT is PORT + 1 if "
        "omitted. If repeated, servers of one model share the requests, or the parts of a folder",
    )
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
    add_sources(parser)
    add_completion(parser)
    return parser


def is_folder(args: argparse.Namespace) -> bool:
    """Returns whether the output is a folder of parts."""
    return str(args.output).endswith((os.sep, "/")) or os.path.isdir(args.output)


def checked_format(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """Returns the format of the output, from the option or the file name; exits if the command line is invalid."""
    if args.resume and args.overwrite:
        parser.error("-resume and -overwrite exclude each other; give one of them")
    choose_address(parser, args)
    if len(set(args.front or ())) != len(args.front or ()):
        parser.error("-front names a server twice; name each once")
    if args.ray_actors and not args.ray_address:
        parser.error("-ray_actors needs -ray_address, the cluster")
    _check_long(args, parser)
    _take_outputs(args, parser)
    if is_folder(args):
        return _folder_format(args, parser)
    ending = os.path.splitext(args.output)[1].lstrip(".")
    output_format = str(args.format or ("jsonl" if args.output == "-" else ending))
    if len(args.files) > 1 or os.path.isdir(args.files[0]):
        parser.error("several files and folders are encoded into a folder of parts: name it with a slash, -o OUT/")
    if output_format == "parquet":
        parser.error("Parquet is written into a folder of parts: name it with a slash, -o OUT/")
    if output_format not in FORMATS:
        parser.error(
            f"the format of {args.output!r} is unknown: name it .npy or .jsonl, add -format, or name a folder of "
            f"parts with a slash: {args.output}/"
        )
    if args.output == "-" and (output_format == "npy" or args.resume):
        parser.error("the standard output supports JSON lines only, and no -resume; name a file with -o")
    if args.blank == "null":
        parser.error("-blank null is for a folder of parts, -o OUT/; use -blank skip or -blank zeros")
    for name in ("column", "vector_column", "part_rows", "ray_address"):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"-{name} is for a folder of parts: name it with a slash, -o OUT/")
    _check_parts(args, parser, output_format)
    return output_format


def _check_long(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if args.no_truncate and args.long not in (None, "error"):
        parser.error(f"-no_truncate is -long error, but -long is {args.long}; give one of them")
    if args.is_tokenized and args.long in PART_MODES:
        parser.error(f"-long {args.long} divides texts into parts, but -is_tokenized sends tokens; omit one of them")


def _take_outputs(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Checks the outputs, and chooses smaller requests for them."""
    outputs = tuple(args.outputs)
    if len(set(outputs)) < len(outputs):
        parser.error(f"-outputs names a kind twice: {' '.join(outputs)}; name each once")
    # The order of OUTPUTS: a row names the space of the first, that of its dense vector if it has one.
    args.outputs = () if outputs == ("dense",) else tuple(name for name in OUTPUTS if name in outputs)
    if not args.outputs:
        return
    if args.long in PART_MODES:
        parser.error(f"-long {args.long} is for dense vectors alone; omit -outputs, or -long")
    if args.batch_size == parser.get_default("batch_size"):
        args.batch_size = OUTPUTS_BATCH_SIZE


def _check_parts(args: argparse.Namespace, parser: argparse.ArgumentParser, output_format: str) -> None:
    if args.outputs and output_format == "npy":
        parser.error("-outputs has several kinds of vectors, or lists: use Parquet in a folder, or JSON lines, not npy")
    if args.long in ROW_MODES and output_format == "npy":
        parser.error(f"-long {args.long} writes offsets, which npy cannot hold: use Parquet in a folder, or JSON lines")


def _folder_format(args: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    if args.ray_address is not None:
        try:
            check_address(args.ray_address)
        except ValueError as error:
            parser.error(str(error))
    output_format = str(args.format or "parquet")
    if output_format not in FOLDER_FORMATS:
        parser.error(f"the parts of a folder are {' or '.join(FOLDER_FORMATS)}, not {output_format}")
    if "-" in args.files:
        parser.error("a folder of parts needs files, which can be read again; the standard input cannot")
    if args.blank == "skip":
        parser.error("a folder of parts has a row for each text; use -blank null or -blank zeros in place of skip")
    _check_parts(args, parser, output_format)
    return output_format


def fronts_of(args: argparse.Namespace) -> list[Front]:
    """Returns the addresses of the servers."""
    return args.front or [Front(args.ip, args.port, args.port_out)]


def _front(text: str) -> Front:
    try:
        return parse_front(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _model(text: str) -> str:
    try:
        return validate_model(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, of at most 18 digits, but is {text!r}")
    return int(text)
