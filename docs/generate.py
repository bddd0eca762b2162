"""Writes into the docs, and other files, what the code already holds: ``python docs/generate.py``.

A page marks where a table goes; what stands between the two comments is replaced::

    <!-- generated: options -->
    <!-- end -->
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from bert_serving.client import AsyncBertClient, BertClient, ConcurrentBertClient
from bert_serving.client._cli.encode import get_parser as get_encode_parser
from bert_serving.client.protocol import ERROR_TYPES
from bert_serving.server import engines
from bert_serving.server.benchmark.options import GROUPS as BENCHMARK_GROUPS
from bert_serving.server.cli.calibrate import get_parser as get_calibrate_parser
from bert_serving.server.cli.drift import get_parser as get_drift_parser
from bert_serving.server.cli.join import get_parser as get_join_parser
from bert_serving.server.cli.terminate import get_shutdown_parser
from bert_serving.server.cluster.cli import get_parser as get_ray_parser
from bert_serving.server.config.option import Option
from bert_serving.server.config.options import OPTIONS, option_groups
from bert_serving.server.model.pooling import PoolingStrategy

DOCS = Path(__file__).resolve().parent
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.S)
#: Where files list the paths of the routes that encode texts, and what separates these. The server has them in
#: ``http/route_table.py``.
ROUTE_LISTS = {
    DOCS.parent / "docker" / "grafana" / "bert-serving.json": (re.compile(r'(path=~\\")([^"\\]*)(\\")'), "|", ""),
    DOCS.parent / "server/bert_serving/server/http/static/dashboard/js/history.js": (
        re.compile(r"(ENCODING_PATHS = new Set\(\[)(.*?)(\n\]\))", re.S),
        ",\n  ",
        "'",
    ),
}
UNITS = ((2**30, "GiB"), (2**20, "MiB"))


def options() -> str:
    """Returns a table of flags for each group of ``bert-serving-start``, new ones marked."""
    return _tables(option_groups())


def benchmark_options() -> str:
    """Returns the flags that ``bert-serving-benchmark`` has beside those of the server."""
    return _tables(BENCHMARK_GROUPS)


def _tables(groups: dict[str, list[Option]]) -> str:
    lines = []
    for title, group in groups.items():
        lines += [f"### {title}", "", "| option | default | |", "|---|---|---|"]
        lines += [_row(option) for option in group]
        if title == "Other":
            lines.append("| `-check` *new* | | print what would be served, read no weights, and exit |")
            lines.append(
                "| `-config_file FILE` *new* | none | [TOML file](#variables-and-files) with values of flags |"
            )
            lines.append(
                "| `-print_config` *new* | | print [value and source](#variables-and-files) of each flag and exit |"
            )
            lines.append("| `-version` | | show the version and exit |")
            lines.append("| `-completion SHELL` *new* | | print the [completion](#completion) for a shell and exit |")
        lines.append("")
    return "\n".join(lines)


def terminate_options() -> str:
    """Returns the flags of ``bert-serving-terminate``."""
    return _command(get_shutdown_parser())


def encode_command_options() -> str:
    """Returns the flags of ``bert-serving-encode``."""
    return _command(get_encode_parser())


def _command(parser: argparse.ArgumentParser) -> str:
    lines = ["| option | default | |", "|---|---|---|"]
    for action in parser._actions:
        if action.dest == "help":
            continue
        flags = [flag for flag in action.option_strings if not flag.startswith("--")] or [str(action.metavar)]
        value = f" {action.metavar}" if action.metavar and action.option_strings else ""
        if action.choices is not None and not action.metavar:
            value = f" {'|'.join(action.choices)}"
        default = "off" if action.nargs == 0 else _shown(action.default, "none")
        if action.required:
            default = "required"
        elif action.dest in ("completion", "version"):
            default = ""
        meaning = (action.help or "").split(" (default")[0]
        lines.append(f"| `{_cell(flags[0] + value)}` | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(lines) + "\n"


def drift_options() -> str:
    """Returns the flags of ``bert-serving-drift``."""
    return _command(get_drift_parser())


def calibrate_options() -> str:
    """Returns the flags of ``bert-serving-calibrate``."""
    return _command(get_calibrate_parser())


def join_options() -> str:
    """Returns the arguments of ``bert-serving-join``."""
    return _command(get_join_parser())


def ray_options() -> str:
    """Returns the arguments that ``bert-serving-ray`` has beside those of ``bert-serving-join``."""
    own, shared = get_ray_parser(), {action.dest for action in get_join_parser()._actions}
    own._actions = [action for action in own._actions if action.dest not in shared]
    return _command(own)


def engine_dtypes() -> str:
    """Returns the dtypes of each engine by device, and the extras that install its library."""
    extras = metadata.metadata("bert-serving-server").get_all("Provides-Extra") or []
    lines = ["| engine | CPU | GPU | extra to install |", "|---|---|---|---|"]
    for name in engines.NAMES:
        if name == "zeros":
            continue
        info = engines.load(name).INFO
        cells = [", ".join(info.dtypes.get(kind, ())) for kind in ("cpu", "gpu")]
        cells.append(", ".join(f"`[{extra}]`" for extra in sorted(extras) if extra.split("-")[0] == name))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def error_types() -> str:
    """Returns the values of ``error.type`` in a reply."""
    lines = ["| `type` | meaning |", "|---|---|"]
    lines += [f"| `{kind}` | {meaning} |" for kind, meaning in ERROR_TYPES.items()]
    return "\n".join(lines) + "\n"


#: The flags that most people need, and the members of a client.
MAIN_OPTIONS = [
    "model_dir",
    "max_seq_len",
    "pooling_strategy",
    "pooling_layer",
    "num_worker",
    "device_map",
    "cpu",
    "dtype",
]
MAIN_OPTIONS += ["port", "port_out", "http_port", "auth_keys"]
CLIENT = [
    "encode",
    "encode_async",
    "similarity",
    "classify",
    "rerank",
    "fetch",
    "fetch_all",
    "listen",
    "server_config",
    "server_status",
    "vector_space",
    "status",
    "close",
]


def main_options() -> str:
    """Returns the main flags of ``bert-serving-start``."""
    return (
        "\n".join(["| option | default | |", "|---|---|---|", *(_row(OPTIONS[name]) for name in MAIN_OPTIONS)]) + "\n"
    )


def client_methods() -> str:
    """Returns the methods and properties of a client, each with the first sentence of its docstring."""
    lines = ["| member | | options |", "|---|---|---|"]
    for name in CLIENT:
        member = inspect.getattr_static(BertClient, name)
        shown, options = f"bc.{name}", ""
        if not isinstance(member, property):
            passed = _parameters(member)[1:]
            arguments = [p for p in passed if p.kind is not p.VAR_KEYWORD]
            shown += f"({', '.join(p.name for p in arguments if p.default is p.empty)})"
            options = ", ".join(f"`{p.name}`" for p in arguments if p.default is not p.empty)
            if len(arguments) < len(passed):
                options += ", and the [options of a request](#options-of-a-request)"
        lines.append(f"| `{shown}` | {_summary(member)} | {options} |")
    lines.extend(f"| `{kind.__name__}` | {_summary(kind)} | |" for kind in (AsyncBertClient, ConcurrentBertClient))
    return "\n".join(lines) + "\n"


def client_arguments() -> str:
    """Returns the arguments of ``BertClient``."""
    return _arguments(BertClient)


def questions() -> str:
    """Returns the questions that docs/faq.md answers, by its headings, with links to the answers."""
    lines: list[str] = []
    page = re.sub(r"^```.*?^```", "", (DOCS / "faq.md").read_text(encoding="utf-8"), flags=re.M | re.S)
    for marks, heading in re.findall(r"^(##|###) (.*?) *$", page, re.M):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        lines.append(f"{'- ' if marks == '##' else '  - '}[{heading}](#{anchor})")
    return "\n".join(lines) + "\n"


def encode_arguments() -> str:
    """Returns the arguments of ``BertClient.encode``."""
    return _arguments(BertClient.encode)


def _arguments(function: Callable[..., Any]) -> str:
    """Returns a table of arguments with their descriptions from the docstring; each must have one."""
    words = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(function) or "", re.M | re.S)
    assert words is not None
    meanings = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", words[1], re.M | re.S))
    lines = ["| argument | default | |", "|---|---|---|"]
    for parameter in _parameters(function):
        if parameter.name == "self":
            continue
        value = parameter.default
        default = "" if value is parameter.empty else f'`"{value}"`' if isinstance(value, str) else f"`{value}`"
        lines.append(f"| `{parameter.name}` | {default} | {_markdown(meanings.pop(parameter.name)).rstrip('.')} |")
    assert not meanings, f"{function.__qualname__} has no argument {meanings}"
    return "\n".join(lines) + "\n"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def _summary(documented: object) -> str:
    return _markdown((inspect.getdoc(documented) or "").split("\n\n")[0]).rstrip(".")


def _markdown(text: str) -> str:
    return _cell(" ".join(text.replace("``", "`").split()))


TABLES: dict[str, Callable[[], str]] = {
    "options": options,
    "benchmark_options": benchmark_options,
    "main_options": main_options,
    "terminate_options": terminate_options,
    "client_methods": client_methods,
    "client_arguments": client_arguments,
    "encode_arguments": encode_arguments,
    "encode_command_options": encode_command_options,
    "calibrate_options": calibrate_options,
    "drift_options": drift_options,
    "join_options": join_options,
    "ray_options": ray_options,
    "engine_dtypes": engine_dtypes,
    "error_types": error_types,
    "questions": questions,
}


def render(page: str) -> str:
    """Returns the page with its tables generated from the code."""
    return BLOCK.sub(lambda block: f"{block[1]}{TABLES[block[2]]()}{block[3]}", page)


def _row(option: Option) -> str:
    flag = f"-{option.flag or option.name}"
    value = f" {option.metavar or ('PORT' if 'port' in option.name else option.name.upper())}" if option.parse else ""
    flags = f"`{flag}{value}{' ...' if option.many else ''}`"
    if option.aliases:
        flags += ", " + ", ".join(f"`-{alias}`" for alias in option.aliases)
    default = "off" if option.parse is None else _shown(option.default, "none")
    return f"| {flags}{'' if option.v1 else ' *new*'} | {_cell(default)} | {_cell(option.help)} |"


def _shown(value: object, nothing: str) -> str:
    if value is None or value in ((), []):
        return nothing
    if isinstance(value, PoolingStrategy):
        return f"`{value.name}`"
    if isinstance(value, tuple):
        return f"`{' '.join(map(str, value))}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, int):
        unit = next((f" ({value // size} {name})" for size, name in UNITS if value and value % size == 0), "")
        return f"`{value}`{unit}"
    return f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def render_routes(path: Path) -> str:
    """Returns the content of a file of ``ROUTE_LISTS`` with the paths of the server."""
    from bert_serving.server.http.route_table import ENCODING_ROUTES  # needs the packages of the HTTP server

    pattern, separator, quote = ROUTE_LISTS[path]
    before = separator.lstrip(",") if quote else ""
    listed = before + separator.join(f"{quote}{each}{quote}" for each in ENCODING_ROUTES)
    return pattern.sub(lambda found: f"{found[1]}{listed}{',' if quote else ''}{found[3]}", path.read_text("utf-8"))


def main() -> None:
    for path in ROUTE_LISTS:
        if (content := render_routes(path)) != path.read_text("utf-8"):
            path.write_text(content, "utf-8")
            print(f"{path.name} is updated")
    for path in [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]:
        page = path.read_text(encoding="utf-8")
        rendered = render(page)
        if rendered != page:
            path.write_text(rendered, encoding="utf-8")
            print(f"{path.name} is updated")


if __name__ == "__main__":
    main()
