"""Searches prose for banned phrasings: ``python tools/prose.py [path ...]``.

Without paths it checks those in ``CHECKED``. In Markdown it skips code, comments and generated tables. In Python it
checks comments and strings only, in YAML, TOML, shell, JavaScript, Make and Docker files comments only. The exit code
is 1 if it finds any, 2 if a path is missing.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BANNED = Path(__file__).with_name("prose_banned.txt")

#: Files and folders that are checked by default.
CHECKED = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CODE_OF_CONDUCT.md",
    "Makefile",
    "pyproject.toml",
    ".github",
    "benchmark",
    "client",
    "deploy",
    "docker",
    "docs",
    "example",
    "plugin",
    "server",
    "tests",
    "tools",
]
#: Files that are left out of the folders in ``CHECKED``. The first quotes banned phrasings.
SKIPPED = ["tests/unit/test_prose.py"]
#: Folders of other projects' files and of build outputs.
SKIPPED_FOLDERS = {"build", "node_modules", "py2", "py3", "vendor"}
SUFFIXES = {".md", ".py", ".yml", ".yaml", ".toml", ".sh", ".js", ".mjs"}
NAMES = {"Makefile", "Dockerfile", "Dockerfile.gpu"}

UNCHECKED_MARKDOWN = [
    re.compile(r"^ *```.*?^ *```", re.M | re.S),
    re.compile(r"<!-- generated: \w+ -->.*?<!-- end -->", re.S),
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"`[^`\n]+`"),
    re.compile(r"\]\([^)\s]*\)"),
]
FSTRING_MIDDLE = getattr(tokenize, "FSTRING_MIDDLE", -1)  # Python 3.12 and later


class Phrasing(NamedTuple):
    """A banned phrasing, and its replacement."""

    pattern: re.Pattern[str]
    instead: str


class Finding(NamedTuple):
    """A place where a banned phrasing occurs."""

    path: Path
    line: int
    text: str
    instead: str


def read_phrasings(path: Path = BANNED) -> list[Phrasing]:
    """Returns the phrasings of a list; see its head for the format."""
    phrasings = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            source, _, instead = line.partition(" => ")
            flags = re.I if source == re.sub(r"(?<!\\)[A-Z]", "", source) else 0
            phrasings.append(Phrasing(re.compile(source.replace(" ", r"[\s#]+"), flags), instead.strip()))
    return phrasings


def find(path: Path, phrasings: list[Phrasing]) -> Iterator[Finding]:
    """Yields each banned phrasing in a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        prose = markdown_prose(text)
    elif path.suffix == ".py":
        prose = python_prose(text)
    else:
        prose = comments(text, "//" if path.suffix in {".js", ".mjs"} else "#")
    prose = re.sub("\0[\0 ]*\0| {2,}", _shortest, prose)  # most of the source; lines keep their numbers
    for pattern, instead in phrasings:
        for match in pattern.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            yield Finding(path, line, " ".join(match[0].split()), instead)


def markdown_prose(text: str) -> str:
    """Returns Markdown with blanks in place of code, comments, link targets and generated tables."""
    for pattern in UNCHECKED_MARKDOWN:
        text = pattern.sub(lambda match: _blank(match[0]), text)
    return text


def python_prose(text: str) -> str:
    """Returns Python source with NUL in place of everything except comments, strings and white space."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    kept = list(re.sub(r"\S", "\0", text))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING, FSTRING_MIDDLE):
            start = starts[token.start[0] - 1] + token.start[1]
            end = starts[token.end[0] - 1] + token.end[1]
            kept[start:end] = text[start:end]
    return re.sub(r"`[^`\n]+`", lambda match: _blank(match[0]), "".join(kept))


def comments(text: str, marker: str) -> str:
    """Returns source with NUL in place of everything except comments and white space."""
    kept = list(_blank(text))
    for match in re.finditer(rf"(?<!\S){marker}.*", text):
        kept[match.start() : match.end()] = match[0]
    return "".join(kept)


def _shortest(run: re.Match[str]) -> str:
    return run[0][0]


def _blank(text: str) -> str:
    return re.sub(r"\S", "\0", text)


def files(paths: list[Path]) -> list[Path]:
    """Returns the files with prose at the paths and below them, without those that are skipped."""
    skipped = {ROOT / name for name in SKIPPED}
    found: set[Path] = set()
    for path in paths:
        below = path.rglob("*") if path.is_dir() else [path]
        found.update(file for file in below if file.suffix in SUFFIXES or file.name in NAMES)
    return sorted(file for file in found - skipped if not SKIPPED_FOLDERS & set(file.parts[len(ROOT.parts) :]))


def main(arguments: list[str]) -> int:
    """Prints all findings and returns the exit code."""
    paths = [Path(argument).resolve() for argument in arguments] or [ROOT / name for name in CHECKED]
    missing = [path for path in paths if not path.exists()]
    if missing:
        print(f"no such file or folder: {', '.join(map(str, missing))}", file=sys.stderr)
        return 2
    phrasings = read_phrasings()
    count = 0
    for path in files(paths):
        for finding in sorted(find(path, phrasings)):
            shown = finding.path.relative_to(ROOT) if finding.path.is_relative_to(ROOT) else finding.path
            print(f"{shown}:{finding.line}: {finding.text!r}; write: {finding.instead}")
            count += 1
    if count:
        print(f"{count} banned phrasings; the list is {BANNED.relative_to(ROOT)}", file=sys.stderr)
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
