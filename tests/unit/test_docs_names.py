"""Flags, variables, tests, files and make targets that the docs and messages name exist."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from bert_serving.client._cli.command_line import get_parser as get_encode_parser
from bert_serving.client.flag_sources import PREFIX
from bert_serving.server.benchmark.options import get_benchmark_parser
from bert_serving.server.cli.calibrate import get_parser as get_calibrate_parser
from bert_serving.server.cli.drift import get_parser as get_drift_parser
from bert_serving.server.cli.join import get_parser as get_join_parser
from bert_serving.server.cli.terminate import get_shutdown_parser
from bert_serving.server.cluster.cli import get_parser as get_ray_parser
from bert_serving.server.config.command_line import get_args_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")) if page.name != "CHANGELOG.md"]
PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "bert-serving-benchmark": get_benchmark_parser,
    "bert-serving-calibrate": get_calibrate_parser,
    "bert-serving-drift": get_drift_parser,
    "bert-serving-encode": get_encode_parser,
    "bert-serving-join": get_join_parser,
    "bert-serving-ray": get_ray_parser,
    "bert-serving-start": get_args_parser,
    "bert-serving-terminate": get_shutdown_parser,
}


@cache
def flags() -> dict[str, set[str]]:
    return {name: set(make()._option_string_actions) for name, make in PARSERS.items()}


@cache
def sources() -> dict[Path, str]:
    paths = [path for part in ("client", "server") for path in (ROOT / part / "bert_serving").rglob("*.py")]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def prose(page: Path) -> str:
    """Returns a page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def test_flags_of_commands_in_a_sentence() -> None:
    for page in PAGES:
        for name, arguments in re.findall(r"`(bert-serving-\w+) ([^`\n]+)`", prose(page)):
            for flag in re.findall(r"(?:^| )(--?[a-z][\w-]*)", arguments) if name in PARSERS else ():
                assert any(each.startswith(flag) for each in flags()[name]), f"{page.name}: {name} {arguments}"


def test_flags_in_messages() -> None:
    known = set[str]().union(*flags().values()) | {"-inf"}
    pattern = re.compile(r"(?<![\w`\-./,{\[*=])(-[a-z][a-z_]{2,})\b")
    for path, text in sources().items():
        if set(pattern.findall(text)) <= known:
            continue  # parsing takes long
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for flag in pattern.findall(node.value):
                    assert flag in known, f"{path}:{node.lineno}: {flag}"


def test_variables() -> None:
    known = {flag.lstrip("-").replace("-", "_").upper() for each in flags().values() for flag in each}
    known |= {"NAME"}  # stands for one of them
    code = "".join(sources().values())
    for page in PAGES:
        for name in re.findall(rf"\b{PREFIX}([A-Z][A-Z_]+[A-Z])\b", page.read_text(encoding="utf-8")):
            rest = name.partition("_")[2]  # behind the name of a command
            assert name in known or rest in known or f"{PREFIX}{name}" in code, f"{page.name}: {name}"


def test_tests_files_and_make_targets() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    known = {
        *re.findall(r"^ *(?:async )?def (test_\w+)", tests, re.M),
        *(path.stem for path in ROOT.rglob("test_*.py")),
    }
    known |= {flag.lstrip("-") for flag in flags()["bert-serving-benchmark"]}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"\btest_\w+", text):
            assert name in known, f"{page.name}: {name}"
        for path in re.findall(r"[`\s(]((?:tests|benchmark|tools)/[\w./-]+\.(?:py|txt|sh))", text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for target in re.findall(r"`make ([a-z][\w-]*)", text):
            assert target in targets, f"{page.name}: make {target}"


def test_every_guarantee_names_a_test() -> None:
    """Each row of the tables with tests has one, and so has each section."""
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", page, flags=re.M)[1:]:
        title = section.splitlines()[0]
        assert title == "What is not guaranteed" or re.search(r"`test|tests/|`make ", section), title
        for table in re.findall(r"(?:^\|.*\n)+", section, re.M):
            head, _, *rows = table.splitlines()
            for row in rows if head.endswith("| tests |") else ():
                assert re.search(r"`(test_|tests/)", row.split("|")[-2]), row
