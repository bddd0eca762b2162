"""The command line of ``bert-serving-start``: its parser, generated from the table of options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

from bert_serving.client.command_parser import CommandParser
from bert_serving.client.completion import add_completion, suggest
from bert_serving.client.flag_sources import ParsedCommand, add_sources, choose_log_level, parse_command, with_sources

from ..errors import ConfigError
from ..version import __version__
from .options import OPTIONS, option_groups
from .server_config import ServerConfig

_EPILOG = """\
examples:
  bert-serving-start                                       serves the default model on ports 5555 and 5556
  bert-serving-start -model_dir /models/uncased_L-12_H-768_A-12 -num_worker 4
  bert-serving-start -model_dir M -tuned_model_dir /tmp/mrpc_output -ckpt_name model.ckpt-343
  bert-serving-start -model_dir M -pooling_strategy NONE -max_seq_len NONE       one vector per token
  bert-serving-start -model_dir M -pooling_layer -4 -3 -2 -1                     four layers, concatenated
  bert-serving-start -model_dir M -num_worker 0 -join_port 5557                  bert-serving-join adds machines

then, on any machine with bert-serving-client:
  from bert_serving.client import BertClient
  BertClient().encode(['First do it', 'then do it right'])
"""

#: What concerns all options of a group.
_DESCRIPTIONS = {
    "BERT Parameters": "A folder of sentence-transformers, such as that of the default model, decides about\n"
    "pooling, length, normalization and prompt, unless a flag is given."
}
_V1_NAMES = {name for name, each in OPTIONS.items() if each.v1}


class _HelpFormatter(argparse.HelpFormatter):
    """Formats the flags of an option on one line: the short spelling, then the GNU spelling."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = [flag for flag in action.option_strings if not ("_" in flag and flag.startswith("--"))]
        value = "" if action.nargs == 0 else f" {self._format_args(action, str(action.metavar))}"
        return ", ".join(flags) + str(value)


class RawFormatter(_HelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(CommandParser):
    """Resolves abbreviated flags as 1.10.0 did: ``-max_batch`` means ``-max_batch_size``, not ``-max_batch_tokens``."""

    def _get_option_tuples(self, option_string: str) -> list[Any]:
        found = super()._get_option_tuples(option_string)
        old = [match for match in found if match[0].dest in _V1_NAMES]
        return old[:1] if len({match[0].dest for match in old}) == 1 else found


def get_args_parser(prog: str = "bert-serving-start") -> argparse.ArgumentParser:
    """Creates the parser of ``bert-serving-start``. It accepts every flag of 1.10.0, and GNU spellings."""
    parser = _Parser(
        prog=prog,
        description="Start a server that encodes sentences as BERT vectors.",
        epilog=_EPILOG,
        formatter_class=lambda prog: RawFormatter(prog, max_help_position=34, width=110),
    )
    for title, options in option_groups().items():
        group = parser.add_argument_group(title, _DESCRIPTIONS.get(title))
        for each in options:
            suggest(each.add_to(group), each.completions)
        if title == "Other":
            version = f"bert-serving-server {__version__} (compatible with 1.10.0)"
            group.add_argument(
                "-check", "--check", action="store_true", help="print what would be served, read no weights, and exit"
            )
            add_sources(group)
            group.add_argument("-version", "--version", action="version", version=version, help="print it and exit")
            add_completion(group)
    return parser


class StartCommand(NamedTuple):
    """A command line of ``bert-serving-start``.

    Attributes:
        config: the options.
        parsed: all arguments with their sources; ``-check`` and ``-print_config`` are among them.
        parser: the parser of the command.
    """

    config: ServerConfig
    parsed: ParsedCommand
    parser: argparse.ArgumentParser


def parse(argv: Sequence[str] | None = None) -> StartCommand:
    """Reads the command line, the environment and the file. Exits with code 2 if one of them is not valid."""
    parser = get_args_parser()
    parsed = parse_command(parser, argv, is_service=True)
    choose_log_level(parsed.args)
    try:
        return StartCommand(ServerConfig.from_args(parsed.args), parsed, parser)
    except ConfigError as error:
        parser.error(with_sources(str(error), parsed.sources))
