"""Tests the size of files, the state of classes, paths in the Makefile, and names of test files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

FOLDERS = ("benchmark", "client", "docs", "example", "plugin", "server")
MAX_LINES = 400
MAX_ATTRIBUTES = 20

#: Files and classes that exceed a limit, with the highest value that each may have. Entries are only removed or
#: lowered: a test fails if an entry is no longer needed.
EXCEPTIONS: dict[str, int] = {}


def python_files() -> Iterator[Path]:
    yield ROOT / "setup.py"
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not {"build", "node_modules"} & set(path.parts[len(ROOT.parts) :]):
                yield path


def is_frozen(node: ast.ClassDef) -> bool:
    return any(
        isinstance(decorator, ast.Call)
        and any(
            keyword.arg == "frozen" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
            for keyword in decorator.keywords
        )
        for decorator in node.decorator_list
    )


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def mutable_attributes(node: ast.ClassDef) -> set[str]:
    """Returns the names that methods of a class assign on ``self``, and the fields of a dataclass."""
    if is_frozen(node):
        return set()
    names = {
        inner.attr
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute)
        and isinstance(inner.ctx, ast.Store)
        and isinstance(inner.value, ast.Name)
        and inner.value.id == "self"
    }
    if is_dataclass(node):
        names |= {
            field.target.id
            for field in node.body
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and "ClassVar" not in ast.unparse(field.annotation)
        }
    return names


def measured() -> dict[str, int]:
    """Returns the files and classes that exceed a limit, with their number of lines or attributes."""
    found: dict[str, int] = {}
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > MAX_LINES:
            found[name] = lines
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                attributes = len(mutable_attributes(node))
                if attributes > MAX_ATTRIBUTES:
                    found[f"{name}::{node.name}"] = attributes
    return found


def test_no_file_and_no_class_exceeds_its_limit() -> None:
    too_large = {name: size for name, size in measured().items() if size > EXCEPTIONS.get(name, 0)}
    assert not too_large, f"limits: {MAX_LINES} lines a file, {MAX_ATTRIBUTES} mutable attributes a class"


def test_every_exception_is_needed() -> None:
    assert not set(EXCEPTIONS) - set(measured()), "remove these entries from EXCEPTIONS"


def test_attributes_are_counted_once_and_frozen_dataclasses_not_at_all() -> None:
    module = ast.parse(
        "class Plain:\n"
        "    def __init__(self): self.a = self.b = 0; self.c, self.d = 1, 2\n"
        "    def step(self): self.a += 1; self.e: int = 0; self.a.f = 1\n"
        "@dataclass\n"
        "class Fields:\n"
        "    a: int\n"
        "    b: ClassVar[int]\n"
        "@dataclass(frozen=True)\n"
        "class Frozen:\n"
        "    a: int\n"
    )
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    assert [mutable_attributes(node) for node in classes] == [{"a", "b", "c", "d", "e"}, {"a"}, set()]


def test_makefile_names_existing_tests() -> None:
    patterns = re.findall(r"tests/[\w/*]+\.py", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert patterns
    assert [pattern for pattern in patterns if not list(ROOT.glob(pattern))] == []


def test_names_of_test_files_are_unique() -> None:
    names = [path.name for path in (ROOT / "tests").glob("*/test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == [], "pytest imports one of them only"
