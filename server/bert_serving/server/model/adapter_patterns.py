"""Checks the regular expressions in the configuration of an adapter, and the time that they take.

PEFT puts most of them into longer expressions. Python cannot interrupt an expression that takes hours for one name. So
a process of its own matches all names first, and ends itself after a limit.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from .errors import ModelConfigError

#: Expressions around a module that is replaced, the end of a layer's name, and a name in front of a layer's number.
SAVED, END, LAYERS = r"(^|.*\.){}($|\..*)", r"(.*\.)?({})$", r"(?:^|.*?\.){}\.(\d{{1,9}})\."
#: Expression for the number of a layer without such a name.
ANY_LAYER = r".*?\.[^.]*\.(\d{1,9})\."
#: Values that take no more time than a comparison.
_PLAIN = re.compile(r"[\w.-]*")
#: Seconds that all expressions may take for all names.
SECONDS = 20.0
_PROGRAM = """
import faulthandler, json, re, sys
seconds, patterns, names = json.load(sys.stdin)
faulthandler.dump_traceback_later(seconds, exit=True)
for pattern in map(re.compile, patterns):
    for name in names:
        pattern.fullmatch(name)
        pattern.match(name)
"""


def require_patterns(names: Iterable[str], key: str, source: Path, form: str = "{}") -> None:
    """Checks the syntax of expressions.

    Args:
        key: the setting that has them.
        form: the expression around them.

    Raises:
        ModelConfigError: one of them is not valid.
    """
    for name in names:
        try:
            re.compile(form.format(name))
        except (re.error, OverflowError, RecursionError, MemoryError) as error:
            reason = str(error) or type(error).__name__
            raise ModelConfigError(f"{source}: {key} {name[:100]!r} is no regular expression ({reason})") from error


def require_quick(patterns: Iterable[tuple[str, str]], names: Iterable[str], source: Path) -> None:
    """Checks that expressions end in time for all names.

    Args:
        patterns: expressions, and the forms around them.

    Raises:
        ModelConfigError: they take longer.
    """
    slow = sorted({form.format(name) for name, form in patterns if not _PLAIN.fullmatch(name)})
    if slow and not _is_quick(tuple(slow), frozenset(names)):
        shown = ", ".join(repr(each[:100]) for each in slow[:3])
        raise ModelConfigError(
            f"{source}: the regular expressions {shown} take more than {SECONDS:g} s for the names of the layers; list "
            'the names instead, as in "target_modules": ["query", "value"]'
        )


@functools.lru_cache(maxsize=64)
def _is_quick(patterns: tuple[str, ...], names: frozenset[str]) -> bool:
    given = json.dumps([SECONDS, patterns, sorted(names)]).encode()
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    return subprocess.run(command, input=given, capture_output=True, check=False).returncode == 0
