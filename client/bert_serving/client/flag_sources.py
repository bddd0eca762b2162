"""Values of the flags of a command from environment variables and from a TOML file. The server imports it too.

The command line wins over the environment, the environment over the file. The variable of ``-max_seq_len`` is
``BERT_SERVING_MAX_SEQ_LEN``, its key in the file is ``max_seq_len``. Arguments without a flag have no other source.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .command_parser import did_you_mean, print_output

PREFIX = "BERT_SERVING_"
#: Attribute of parsed arguments with the source of each flag that is set, by the name of the flag.
SOURCES = "_sources"

#: Flags that no variable and no file can set: they print something and exit, name the file, or choose a model of a
#: server (the variable BERT_SERVING_MODEL is that of the server, and has its folders).
_COMMAND_LINE_ONLY = ("help", "version", "completion", "check", "print_config", "config_file", "chosen_model")
_SWITCH = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)
#: What Kubernetes sets as ``BERT_SERVING_PORT`` for a Service with the name bert-serving.
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
_MISSING = object()
#: Largest size of a file in bytes, so that a device such as /dev/zero fills no memory.
_MAX_FILE_BYTES = 2**20


class InvalidSource(Exception):
    """A variable or a file has no usable value; the message is one line with source, value and remedy."""


class ParsedCommand(NamedTuple):
    """The arguments of a command.

    Attributes:
        args: values of all arguments.
        sources: where the value of a flag comes from, by name; flags at their default are absent.
        warnings: messages about variables that are ignored.
    """

    args: argparse.Namespace
    sources: dict[str, str]
    warnings: list[str]


class _Found(NamedTuple):
    """A value of a flag. ``place`` is for errors, ``source`` for ``-print_config``."""

    value: Any
    place: str
    source: str
    remedy: str


def add_sources(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds ``-config_file`` and ``-print_config`` to a command."""
    parser.add_argument(
        "-config_file",
        "--config-file",
        metavar="FILE",
        help="TOML file with values of flags, a line name = value for each; the command line and variables such as "
        f"{PREFIX}NAME win over it",
    )
    parser.add_argument(
        "-print_config",
        "--print-config",
        action="store_true",
        help="print value and source of each flag, and exit",
    )


def command_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Returns the arguments of a command. Prints warnings to stderr; with ``-print_config``, prints and exits."""
    parsed = parse_command(parser, argv)
    for warning in parsed.warnings:
        print(f"{parser.prog}: warning: {warning}", file=sys.stderr)
    if parsed.args.print_config:
        print_output(describe_flags(parser, parsed))
        parser.exit()
    return parsed.args


def parse_command(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None = None, is_service: bool = False
) -> ParsedCommand:
    """Returns the arguments of a command from all sources. Exits with code 2 if one is not valid.

    Args:
        is_service: ``BERT_SERVING_CONFIG_FILE`` names the file too. Other commands may run beside a service, in its
            environment, and their flags differ.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    flags = flags_of(parser)
    required = [action for action in parser._actions if action.option_strings and action.required]
    for action in required:
        action.required = False
    first = parser.parse_args(arguments, _unset(parser))
    warnings: list[str] = []
    try:
        found = _from_file(parser, flags, _file_name(first, is_service))
        found |= _from_environment(flags, warnings)
        for name, action in flags.items():
            if _is_set(first, action):
                found.pop(name, None)
        namespace = argparse.Namespace()
        for name, each in found.items():
            _apply(parser, flags[name], each, namespace)
    except InvalidSource as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    for action in required:
        action.required = action.dest not in vars(namespace)
    args = parser.parse_args(arguments, namespace)
    sources = {name: "command line" for name, action in flags.items() if _is_set(first, action)}
    sources |= {name: each.source for name, each in found.items()}
    setattr(args, SOURCES, sources)
    return ParsedCommand(args, sources, warnings)


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Returns the flags that variables and a file can set, by name."""
    return {_names(action)[0]: action for action in parser._actions if _names(action)}


def describe_flags(
    parser: argparse.ArgumentParser, parsed: ParsedCommand, others: Mapping[str, tuple[Any, str]] | None = None
) -> str:
    """Returns a line for each flag: name, value and source.

    Args:
        others: value and source, by the attribute of the arguments, of flags that something else has set.
    """
    lines = []
    for name, action in flags_of(parser).items():
        value, source = getattr(parsed.args, action.dest), parsed.sources.get(name, "default")
        if others and action.dest in others:
            value, source = others[action.dest]
        if action.nargs == 0:
            value = value == action.const
        if action.dest == "secret_key" and value is not None and not os.path.exists(value):
            value = "(hidden)"
        lines.append(f"{name:<24} {_shown(value):<30} {source}")
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if value is None or value in ([], ()):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def one_line(text: str) -> str:
    """Returns a text, quoted if it has line breaks or other characters that are not printable."""
    return text if text.isprintable() else repr(text)


def _names(action: argparse.Action) -> list[str]:
    """Returns the names of a flag, without dashes and single letters; none if only the command line can set it."""
    if action.dest in _COMMAND_LINE_ONLY:
        return []
    spelled = [text.lstrip("-").replace("-", "_") for text in action.option_strings]
    return [name for name in dict.fromkeys(spelled) if len(name) > 1]


def _unset(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Returns a namespace that shows afterwards which arguments were on the command line."""
    unset = {action.dest: _MISSING for action in parser._actions if action.dest != argparse.SUPPRESS}
    lists = {action.dest: None for action in parser._actions if isinstance(action, argparse._AppendAction)}
    only = {name: None for name in ("config_file",) if name in unset}
    return argparse.Namespace(**unset | lists | only)


def _is_set(first: argparse.Namespace, action: argparse.Action) -> bool:
    return getattr(first, action.dest) is not (None if isinstance(action, argparse._AppendAction) else _MISSING)


def rank_of(args: argparse.Namespace, *names: str) -> int:
    """Returns the rank of the best source of some flags: 0 is the command line, 3 the default."""
    ranks = {"command line": 0, "variable": 1, "file": 2}
    sources: Mapping[str, str] = getattr(args, SOURCES, {})
    found = [rank for name in names for start, rank in ranks.items() if sources.get(name, "").startswith(start)]
    return min(found, default=3)


def with_sources(message: str, sources: Mapping[str, str]) -> str:
    """Returns an error with the sources of the flags that it names, except the command line."""
    named = [f"-{name}: {source}" for name, source in sources.items() if re.search(rf"-{name}\b", message)]
    found = [text for text in named if not text.endswith(": command line")]
    return f"{message} ({', '.join(found)})" if found else message


def choose_log_level(args: argparse.Namespace) -> None:
    """Keeps -verbose or -log_level, the one from the better source. If both are from the same one, keeps both."""
    by_verbose, by_level = rank_of(args, "verbose"), rank_of(args, "log_level")
    if by_verbose == by_level:
        return
    name, default = ("verbose", False) if by_level < by_verbose else ("log_level", "info")
    if name == "verbose" or args.verbose:
        setattr(args, name, default)
        getattr(args, SOURCES).pop(name, None)


def choose_address(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Keeps -front, or -ip, -port and -port_out: those from the better source. Exits if both are from the same one."""
    names = ("ip", "port", "port_out")
    if args.front and [getattr(args, name) for name in names] != [parser.get_default(name) for name in names]:
        by_front, by_address = rank_of(args, "front"), rank_of(args, *names)
        if by_front == by_address:
            parser.error("-front takes the place of -ip, -port and -port_out; give only -front")
        if by_address < by_front:
            args.front = None


# ---- the environment -------------------------------------------------------------------------------------------------


def _from_environment(flags: Mapping[str, argparse.Action], warnings: list[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for name, action in flags.items():
        for spelled in _names(action):
            variable = PREFIX + spelled.upper()
            text = os.environ.get(variable)
            if text is None:
                continue
            if variable.endswith("PORT") and _SERVICE_LINK.match(text):
                warnings.append(
                    f"{variable}={one_line(text)} is ignored: Kubernetes sets it for a Service with this name; set "
                    "enableServiceLinks: false in the pod"
                )
                continue
            if name in found:
                raise InvalidSource(f"{variable} and {found[name].place.split('=')[0]} set the same flag: unset one")
            if not text:
                raise InvalidSource(f"{variable} is set, but empty: unset it, or set it to a value of -{name}")
            value = text.split() if action.nargs == "+" or isinstance(action, argparse._AppendAction) else text
            remedy = f"set a value of -{name}, or unset the variable"
            found[name] = _Found(value, f"{variable}={one_line(text)}", f"variable {variable}", remedy)
    return found


# ---- the file --------------------------------------------------------------------------------------------------------


def _file_name(first: argparse.Namespace, is_service: bool) -> str | None:
    name = first.config_file
    if name is None and is_service:
        name = os.environ.get(f"{PREFIX}CONFIG_FILE")
        if name == "":
            raise InvalidSource(f"{PREFIX}CONFIG_FILE is set, but empty: unset it, or set it to the path of a file")
    return None if name is None else os.path.expanduser(name)


def _from_file(
    parser: argparse.ArgumentParser, flags: Mapping[str, argparse.Action], path: str | None
) -> dict[str, _Found]:
    if path is None:
        return {}
    text, values = _read(path)
    known = {spelled: name for name, action in flags.items() for spelled in _names(action)}
    found: dict[str, _Found] = {}
    for key, value in values.items():
        place = f"{path}, line {_line_of(key, text)}"
        if isinstance(value, dict):
            raise InvalidSource(f"{place}: the file has a table, {key}; write lines such as num_worker = 2 without it")
        if key not in known:
            raise InvalidSource(
                f"{place}: {key} is not a flag of {parser.prog} that a file can set{did_you_mean(key, known)}"
            )
        name = known[key]
        if name in found:
            raise InvalidSource(f"{place}: {key} and {name} are the same flag: remove one line")
        remedy = f"set a value of -{name}, or remove the line"
        found[name] = _Found(value, f"{place}: {key} = {_toml(value)}", f"file {path}", remedy)
    return found


def _read(path: str) -> tuple[str, dict[str, Any]]:
    """Returns the text and the values of a file."""
    try:
        toml: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:
        raise InvalidSource("-config_file needs the package tomli on Python 3.10: pip install tomli") from None
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise InvalidSource(f"-config_file {path} has more than {_MAX_FILE_BYTES:,} bytes; name a file of flags")
        text = data.decode("utf-8-sig").replace("\r\n", "\n")  # editors on Windows write a byte order mark
        return text, toml.loads(text)
    except OSError as error:
        raise InvalidSource(f"-config_file {path} cannot be read ({error.strerror}); name an existing file") from None
    except UnicodeDecodeError:
        raise InvalidSource(f"-config_file {path} is not UTF-8; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:  # errors of TOML, and of numbers with thousands of digits
        raise InvalidSource(f"-config_file {path} is not TOML: {error}; write lines such as num_worker = 2") from None


def _line_of(key: str, text: str) -> int:
    pattern = re.compile(rf"""[\s\[]*["']?{re.escape(key)}["']?\s*[].=]""")
    return next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), 1)


def _toml(value: Any) -> str:
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        text = "(too long)"
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---- values ----------------------------------------------------------------------------------------------------------


def _apply(
    parser: argparse.ArgumentParser, action: argparse.Action, found: _Found, namespace: argparse.Namespace
) -> None:
    """Sets a flag as the command line does.

    Raises:
        InvalidSource: the flag does not accept the value.
    """
    try:
        if action.nargs == 0:
            is_on = _switch(found.value)
            action(parser, namespace, [], action.option_strings[0])
            if not is_on:
                setattr(namespace, action.dest, not action.const)
        elif action.nargs == "+" or isinstance(action, argparse._AppendAction):
            items = found.value if isinstance(found.value, list) else [found.value]
            if not items:
                raise ValueError("there is no value")
            values = [_parse(parser, action, item) for item in items]
            for each in [values] if action.nargs == "+" else values:
                action(parser, namespace, each, action.option_strings[0])
        else:
            action(parser, namespace, _parse(parser, action, found.value), action.option_strings[0])
    except (argparse.ArgumentError, ValueError) as error:
        reason = error.message if isinstance(error, argparse.ArgumentError) else error
        raise InvalidSource(f"{found.place}: {reason}; {found.remedy}") from None


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.strip().lower() not in _SWITCH:
        raise ValueError("a switch is true or false")
    return _SWITCH[value.strip().lower()]


def _parse(parser: argparse.ArgumentParser, action: argparse.Action, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"a value of this flag is no {type(value).__name__}")
    if not isinstance(value, str) and action.type in (None, str):
        raise ValueError("a text must have quotes")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("a number has at most 64 bits")
    parsed = parser._get_value(action, str(value))
    parser._check_value(action, parsed)
    return parsed
