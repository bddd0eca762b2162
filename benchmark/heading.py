"""What stands above a printed table: the command that repeats it, when and where it ran, and what was measured."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from bert_serving.server.benchmark.machine import machine, versions


def print_heading(what: str) -> None:
    """Of the script that runs. ``what``: a line or two on the model and the texts."""
    facts = machine()
    features = " ".join(facts.get("features", []))
    print("    " + shlex.join(["python", f"benchmark/{Path(sys.argv[0]).name}", *sys.argv[1:]]))
    print(
        f"\n{time.strftime('%Y-%m-%d')}; {facts['processor']}, {facts['cores']} cores, {facts.get('memory_gib')} GiB "
        f"({features}); {', '.join(f'{name} {version}' for name, version in versions().items())}\n\n{what}\n",
        flush=True,
    )
