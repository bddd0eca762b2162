"""Examples of the docs that need a server of their own, for the test that runs them."""

from __future__ import annotations

import re
from pathlib import Path

from servers import Server

DOCS = Path(__file__).resolve().parents[1] / "docs"


def examples_of(test: str) -> list[str]:
    """Returns the code of the Python blocks below a comment that names the test, in the order of pages and lines."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    found = re.findall(rf"^<!-- not run: {test} runs it -->\n```python\n(.*?)^```", text, re.M | re.S)
    assert found, f"no example names {test}"
    return found


def with_ports(code: str, server: Server) -> str:
    """Returns code whose clients use a server, and not the default ports."""
    assert "BertClient(" in code
    return re.sub(r"BertClient\((?=(.?))", lambda match: _call(match, server), code)


def _call(match: re.Match[str], server: Server) -> str:
    separator = "" if match[1] == ")" else ", "
    return f"BertClient(port={server.port}, port_out={server.port_out}{separator}"
