"""Takes the screenshots of the start log: a real start on the default ports, in a light and a dark terminal.

    make screenshots

The colours of the log are those of a terminal. The folder of the model is shown as in an environment at ``~/bert``.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from browser import Browser
from servers import CACHE, READY_LINE

COMMAND = "bert-serving-start -http_port 8125"
#: Characters of a line; longer lines wrap.
COLUMNS = 150
START_SECONDS = 120.0
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} ")
TIME_LENGTH = len("2026-11-21 12:00:00.123")
#: Black, red, green, yellow, blue, magenta, cyan, white; then their bright variants.
_LIGHT = [(36, 41, 47), (207, 34, 46), (17, 99, 41), (125, 78, 0), (9, 105, 218), (130, 80, 223), (27, 124, 131)]
_DARK = [(72, 79, 88), (255, 123, 114), (63, 185, 80), (210, 153, 34), (88, 166, 255), (188, 140, 255), (57, 197, 207)]
THEMES = {
    "start-log": TerminalTheme((255, 255, 255), (31, 35, 40), [*_LIGHT, (110, 119, 129)]),
    "start-log-dark": TerminalTheme((13, 17, 23), (230, 237, 243), [*_DARK, (177, 186, 196)]),
}
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 16px; background: {background}; color: {foreground}; }}
pre {{ margin: 0; font: 13px/1.35 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; }}
</style><pre>{code}</pre>"""


def read_log() -> str:
    """Starts a server as a reader does. Returns its log until it is ready, with ANSI colours, in the order of time.

    Each process writes its lines without waiting for others, so lines may arrive after the line that it is ready.
    """
    program = Path(sys.executable).parent / "bert-serving-start"
    environment = {**os.environ, "FORCE_COLOR": "1", "BERT_SERVING_CACHE": CACHE}
    with subprocess.Popen(
        [program, *COMMAND.split()[1:]], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, encoding="utf-8",
    ) as process:  # fmt: skip
        timer = threading.Timer(START_SECONDS, process.kill)
        timer.start()
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line)
            if READY_LINE in line:
                timer.cancel()
                threading.Timer(1.0, process.terminate).start()
    first = next(number for number, line in enumerate(lines) if TIME.match(line))
    head, timed = lines[:first], sorted(lines[first:], key=lambda line: line[:TIME_LENGTH])
    ready = [number for number, line in enumerate(timed) if READY_LINE in line]
    assert ready, "".join(lines)
    return "".join([*head, *timed[: ready[0] + 1]])


def as_in_an_environment(log: str) -> str:
    """Replaces the folder of the environment."""
    return re.sub(r"[^\s=']*(/lib/python3\.\d+/site-packages/)", r"~/bert\1", log)


def render(log: str, theme: TerminalTheme) -> str:
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(f"$ {COMMAND}\n{log.rstrip()}"))
    return console.export_html(theme=theme, code_format=PAGE, inline_styles=True)


def take(browser: Browser, folder: Path) -> list[Path]:
    """Returns the paths of the screenshots."""
    log = as_in_an_environment(read_log())
    shots = []
    for name, theme in THEMES.items():
        page = folder / f"{name}.html"
        page.write_text(render(log, theme), encoding="utf-8")
        browser.emulate(width=1220, height=100)
        browser.open(page.as_uri())
        shots.append(browser.shot(name, folder))
    return shots
