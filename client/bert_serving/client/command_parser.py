"""The parser of all commands, and the texts of their errors. The server imports it too."""

from __future__ import annotations

import argparse
import difflib
import errno
import itertools
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

#: ``argument -port/-port_in/--port: ...``, of which the first spelling is shown.
_SPELLINGS = re.compile(r"argument (-[^\s/:]+)(?:/-[^\s/:]+)*: ")
#: Largest number of flags that a usage names. The list of flags follows it.
_MAX_FLAGS_IN_USAGE = 20
#: Remedies for errors of files, by error number.
_FILE_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "name a file",
    errno.EACCES: "check the permissions",
    errno.EPERM: "check the permissions",
    errno.ENAMETOOLONG: "shorten the path",
    errno.ELOOP: "check the links of the path",
    errno.ENOSPC: "free space on its disk",
    errno.EROFS: "choose a folder that is writable",
}


class CommandParser(argparse.ArgumentParser):
    """Parses the arguments of a command. An error is two lines, the reason and how to get help, and exit code 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, add_help=False)
        # Flags of these commands have one dash, so -help is a flag too.
        self.add_argument("-h", "-help", "--help", action="help", help="show this help message and exit")

    def error(self, message: str) -> NoReturn:
        """Prints the reason without the usage, and exits."""
        reason = _SPELLINGS.sub(r"\1: ", message)
        self.exit(2, f"{self.prog}: {reason}\n{self.prog} --help describes all flags\n")

    def format_help(self) -> str:
        """Returns the help. The usage of a command with many flags is one line."""
        flags = [action for action in self._actions if action.option_strings]
        if self.usage is None and len(flags) > _MAX_FLAGS_IN_USAGE:
            arguments = self._get_formatter()
            arguments.add_usage(None, self._get_positional_actions(), [], prefix="")
            self.usage = arguments.format_help().strip().replace(self.prog, "%(prog)s [flag ...]", 1)
        return super().format_help()

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parses arguments. An unknown flag is an error that names similar ones."""
        arguments = sys.argv[1:] if args is None else list(args)
        for argument in itertools.takewhile(lambda text: text != "--", arguments):
            if self._is_unknown(argument):  # argparse would first name a required argument that is missing
                self._refuse([argument])
        parsed, unknown = self.parse_known_args(arguments, namespace)
        if unknown:
            self._refuse(unknown)
        return parsed

    def _is_unknown(self, argument: str) -> bool:
        """Whether an argument looks like a flag, but neither is one nor abbreviates one.

        argparse reads ``-hots`` as ``-h``, and ``-otput`` as ``-o`` with the value ``tput``. ``-oout.npy`` is no word.
        """
        flag = argument.split("=")[0]
        if not re.match("-[A-Za-z-]", flag) or " " in argument:
            return False
        if any(name.startswith(flag) for name in self._option_string_actions):
            return False
        short = self._option_string_actions.get(flag[:2])
        return short is None or short.nargs == 0 or re.fullmatch("-[a-z]{2}[a-z0-9_-]*", flag) is not None

    def _refuse(self, unknown: list[str]) -> NoReturn:
        flag = next((text for text in unknown if text.startswith("-")), None)
        hint = "" if flag is None else did_you_mean(flag.split("=")[0], self._option_string_actions)
        short = None if flag is None else self._option_string_actions.get(flag[:2])
        if flag is not None and short is not None and short.nargs != 0:
            hint += f"; the value {flag[2:]} of {flag[:2]} follows a space: {flag[:2]} {flag[2:]}"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        try:
            return super()._get_values(action, arg_strings)
        except argparse.ArgumentError as error:  # a list also takes the arguments that follow it
            positionals = [each.metavar or each.dest for each in self._get_positional_actions()]
            is_listed = action.option_strings and len(arg_strings) > 1 and "did you mean" not in str(error)
            if positionals and is_listed:
                error.message += f"; {positionals[0]} goes before {action.option_strings[0]}"
            raise

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            reason = f"{value!r} is not one of {', '.join(choices)}{did_you_mean(str(value), choices)}"
            raise argparse.ArgumentError(action, reason)


def describe_error(error: Exception) -> str:
    """Returns the text of an error. That of a file begins with its path, and ends with a remedy if one is known."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str) or error.strerror is None:
        return str(error)
    remedy = _FILE_REMEDIES.get(error.errno or 0)
    return f"{error.filename}: {error.strerror}{f'; {remedy}' if remedy else ''}"


def print_output(text: str) -> None:
    """Prints a text to stdout. Escapes characters that its encoding lacks.

    Raises:
        SystemExit: stdout does not take the text; the code is 1. A closed pipe, such as that of ``head``, is no error
            message.
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes the rest when it ends
        if not isinstance(error, BrokenPipeError):
            print(f"stdout does not take the output ({error.strerror}); free space, or redirect it", file=sys.stderr)
        raise SystemExit(1) from None


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """Returns ``; did you mean A or B?`` with up to two names similar to ``text``, or an empty string."""
    found = similar(text, names)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def similar(text: str, names: Iterable[str]) -> list[str]:
    """Returns up to two names that are spelled like ``text``, or have it as one of their parts, in any case."""
    known: dict[str, str] = {}
    for name in names:
        known.setdefault(_plain(name), name)
    word = _plain(text)
    if word in known:
        return [known[word]]
    parts = [name for plain, name in known.items() if word in plain.split("_")]
    close = [known[plain] for plain in difflib.get_close_matches(word, known, n=2, cutoff=0.7)]
    return list(dict.fromkeys([*close, *sorted(parts, key=len)]))[:2]


def _plain(name: str) -> str:
    return name.lstrip("-").replace("-", "_").lower()
