"""Tests that the script that compares HTTP with ZeroMQ runs and reports both."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from servers import CACHE, TINY

SCRIPT = Path(__file__).resolve().parents[2] / "benchmark" / "over_http.py"


def test_both_interfaces_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "http.md"
    sizes = ["-connections", "40", "-bulk_connections", "1", "-bulk_size", "20"]
    server = ["-model_dir", TINY, "-engine", "zeros", "-cpu"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "-rounds", "1", "-seconds", "0.1", *sizes, "-out", out, "--", *server],
        env={**os.environ, "BERT_SERVING_CACHE": CACHE},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=150)
    finally:  # if it takes too long, its server and senders end with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
    assert process.returncode == 0, errors
    rows = [
        line.strip("| ").split(" | ") for line in out.read_text().splitlines() if re.match(r"\| [\w/]+ \| \d", line)
    ]
    small, large = ["ZeroMQ", "/v1/embeddings", "JSON"], ["ZeroMQ", "raw", "base64", "JSON"]
    assert [way for way, *_ in rows] == [*small, *large]
    for way, rate, _, ratio, _, by_time, *times in rows:
        assert float(rate.replace(",", "")) > 0
        assert len(times) == 3
        assert way != "ZeroMQ" or (ratio, by_time) == ("1.00", "1.00")


def test_failed_server_start_is_reported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--", "-model_dir", tmp_path], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert str(tmp_path) in done.stderr
