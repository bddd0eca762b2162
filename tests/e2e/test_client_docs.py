"""The examples of docs/client.md run as they stand."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from bert_serving.client._base import BaseClient

PAGE = Path(__file__).resolve().parents[2] / "docs" / "client.md"


def test_examples(server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # The page speaks of the default ports; here they are those of the server under test.
    defaults = dict(
        zip(inspect.getfullargspec(BaseClient.__init__).args[1:], BaseClient.__init__.__defaults__ or (), strict=True)
    )
    defaults.update(port=server.port, port_out=server.port_out)
    monkeypatch.setattr(BaseClient.__init__, "__defaults__", tuple(defaults.values()))
    names: dict[str, Any] = {}
    page = PAGE.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", page, re.M | re.S):
        above = page[: match.start()]
        if "<!-- not run: " in above.splitlines()[-1]:
            continue
        line = above.count("\n") + 1
        exec(compile("\n" * line + match[1], str(PAGE), "exec"), names)
    for client in (names["bc"], names["clone"]):
        client.close()
    printed = capsys.readouterr().out
    assert "['[CLS]', 'hello', 'world', '[SEP]']" in printed
    assert printed.count("received 2 x ") == 10
    assert "port 1: connection refused" in printed


def test_every_argument_is_in_the_table() -> None:
    page = PAGE.read_text()
    for name in inspect.signature(BaseClient).parameters:
        assert f"`{name}`" in page
