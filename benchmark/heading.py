"""Prints the heading of a table: the command, the date, the machine, and what was measured."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from bert_serving.server.benchmark.machine import machine, versions


def print_heading(what: str) -> None:
    """Prints the heading for the running script; ``what`` describes the model and the texts."""
    facts = machine()
    features = " ".join(facts.get("features", []))
    print("    " + shlex.join(["python", f"benchmark/{Path(sys.argv[0]).name}", *sys.argv[1:]]))
    print(
        f"\n{time.strftime('%Y-%m-%d')}; {facts['processor']}, {facts['cores']} cores, {facts.get('memory_gib')} GiB "
        f"({features}); {', '.join(f'{name} {version}' for name, version in versions().items())}\n\n{what}\n",
        flush=True,
    )
