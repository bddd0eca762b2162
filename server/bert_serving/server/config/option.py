"""Command-line options: the description of one option, parsers for its value, and its conversion to argparse."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bert_serving.client.command_parser import did_you_mean

#: Attribute of parsed arguments with the names of the options on the command line.
GIVEN = "_given"
#: Largest integer. JSON keeps it exact, and sums of a few have less than 64 bits, as ZeroMQ needs it.
MAX_INTEGER = 2**53
#: Most processes of one kind. More exceed any machine, and starting them would use up its memory.
MAX_PROCESSES = 1024
#: Largest cache in MiB: 16 TiB. The memory of the machine is compared at the start.
MAX_CACHE_MB = 2**24


@dataclass(frozen=True, slots=True)
class Option:
    """Describes one option.

    Attributes:
        parse: converts a command-line value, or raises ``ValueError``; None for a switch.
        many: the option takes one or more values.
        repeated: each of these values follows a flag of its own.
        switch_to: value that a switch sets.
        flag: name of the flag, if it differs from ``name``.
        completions: values that a shell suggests.
        v1: bert-serving-server 1.10.0 has this option; its name, aliases and default are those of 1.10.0.
        group: title of the section of ``--help`` that starts with this option.
    """

    name: str
    default: Any
    help: str
    parse: Callable[[str], Any] | None = str
    aliases: tuple[str, ...] = ()
    many: bool = False
    repeated: bool = False
    switch_to: bool = True
    flag: str = ""
    metavar: str = ""
    completions: tuple[str, ...] = ()
    v1: bool = False
    group: str = ""

    @property
    def flags(self) -> list[str]:
        """Returns ``-model_dir``, its aliases, and the GNU spelling ``--model-dir``."""
        names = [self.flag or self.name, *self.aliases]
        spellings = [f"-{name}" for name in names]
        for name in names:
            spellings += [f"--{name}"] if "_" not in name else [f"--{name.replace('_', '-')}", f"--{name}"]
        return spellings

    def add_to(self, group: argparse._ArgumentGroup) -> argparse.Action:
        """Adds the option to a group of a parser."""
        if self.parse is None:
            action = _StoreTrue if self.switch_to else _StoreFalse
            return group.add_argument(*self.flags, dest=self.name, action=action, default=self.default, help=self.help)
        shown = " ".join(map(str, self.default)) if isinstance(self.default, tuple) else self.default
        text = self.help.replace("%", "%%")
        if shown not in (None, ""):
            text += f" (default: {shown})"
        return group.add_argument(
            *self.flags,
            action=_Append if self.repeated else _Store,
            dest=self.name,
            type=_argparse_type(self.parse),
            nargs="+" if self.many and not self.repeated else None,
            default=list(self.default) if self.many else self.default,
            metavar=self.metavar or ("PORT" if "port" in self.name else self.name.upper()),
            help=text,
        )


class _Recording(argparse.Action):
    """Records in the parsed arguments that the option is on the command line, even with its default value."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        setattr(namespace, GIVEN, [*getattr(namespace, GIVEN, ()), self.dest])


class _Store(_Recording, argparse._StoreAction):
    pass


class _Append(_Recording, argparse._AppendAction):
    pass


class _StoreTrue(_Recording, argparse._StoreTrueAction):
    pass


class _StoreFalse(_Recording, argparse._StoreFalseAction):
    pass


def option(default: Any, help: str, **settings: Any) -> Any:
    """Declares a dataclass field that is an option; the settings are those of :class:`Option`."""
    return field(default=default, metadata={"help": help, **settings})


def _argparse_type(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    if parse is str:  # so that a file must quote a text
        return str

    def convert(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def integer(text: str) -> int:
    """Parses an integer from -MAX_INTEGER to MAX_INTEGER."""
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an integer") from None
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise ValueError(f"{text} is too large: must be between -2**53 and 2**53")
    return value


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Returns a parser for integers of at least ``least`` and at most ``most``."""

    def parse(text: str) -> int:
        value = integer(text)
        if value < least:
            raise ValueError(f"{text} is too small: must be at least {least}")
        if most is not None and value > most:
            raise ValueError(f"{text} is too large: must be at most {most}")
        return value

    return parse


def count_or_auto(least: int) -> Callable[[str], int | str]:
    """Returns a parser for a number of processes of at least ``least``, or auto."""

    def parse(text: str) -> int | str:
        if text.lower() == "auto":
            return "auto"
        try:
            return at_least(least, MAX_PROCESSES)(text)
        except ValueError as error:
            raise ValueError(f"{error}, or auto") from None

    return parse


def port_number(text: str) -> int:
    """Parses a port number."""
    value = at_least(1)(text)
    if value > 65535:
        raise ValueError(f"{text} is not a port: must be between 1 and 65535")
    return value


def number(text: str) -> float:
    """Parses a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None


def fraction(text: str) -> float:
    """Parses a number above 0 and up to 1."""
    value = number(text)
    if not 0 < value <= 1:
        raise ValueError(f"{text} is not a fraction: must be above 0 and at most 1")
    return value


def seconds(text: str) -> float:
    """Parses a duration in seconds."""
    value = number(text)
    if not 0 <= value < math.inf:
        raise ValueError(f"{text} is not a duration: must be a finite number of seconds, at least 0")
    return value


def sequence_length(text: str) -> int | None:
    """Parses a sequence length in tokens, or NONE."""
    if text.upper() in ("NONE", "NULL"):
        return None
    try:
        value = integer(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an integer nor NONE") from None
    if value <= 3:
        raise ValueError(f"{text} is too small: must be at least 4 ([CLS], [SEP] and words), or NONE")
    return value


def one_of(*choices: str) -> Callable[[str], str]:
    """Returns a parser for one of several names, in any case."""

    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"{text!r} is not one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return text.lower()

    return parse


#: Values of ``-task``.
TASKS = ("embed", "classify", "rerank")
#: Values of ``-http_token_ids``.
TOKEN_IDS = ("framed", "any", "off")
#: Values of ``-engine`` and ``-dtype``.
ENGINES = ("auto", "measure", "tensorflow", "torch", "onnx", "zeros")
DTYPES = ("auto", "fp32", "bf16", "fp16", "int8")


def engine_name(text: str) -> str:
    """Parses the name of a built-in engine, or the import path of a custom one."""
    return text if "." in text else one_of(*ENGINES)(text)
