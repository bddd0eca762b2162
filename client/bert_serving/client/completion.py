"""The option ``-completion SHELL`` of the commands of client and server: shell completion of flags and values."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .command_parser import print_output

#: Shells that shtab supports.
SHELLS = ("bash", "zsh", "fish", "tcsh")

#: What stands for the value of a flag that is a folder, or a file.
FOLDERS, FILES = ("DIR", "KEYS"), ("FILE", "OUT", "KEY")


def add_completion(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds the option ``-completion SHELL`` to a command."""
    parser.add_argument(
        "-completion",
        "--completion",
        action=_PrintCompletion,
        choices=SHELLS,
        metavar="SHELL",
        help="print the completion script for a shell (bash, zsh, fish, tcsh) and exit; needs pip install shtab",
    )


def suggest(action: argparse.Action, words: Sequence[str]) -> None:
    """Lets shells complete the value of an option to one of ``words``; other values stay valid."""
    action.suggested = words  # type: ignore[attr-defined]


class _PrintCompletion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, flag: str | None = None) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            parser.exit(1, f"{parser.prog}: {flag} needs the package shtab: pip install shtab\n")
        for action in parser._actions:
            # Completion offers two spellings, -model_dir and --model-dir. The parser is not used after this.
            action.option_strings = [f for f in action.option_strings if not (f.startswith("--") and "_" in f)]
            if words := getattr(action, "suggested", None):
                action.choices = words
            elif action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
            elif action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        print_output(shtab.complete(parser, shell))
        parser.exit()
