"""Processes and servers are killed while batch jobs run: each line of an input has one result in the end."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

import openai
import pytest

from servers import Server, free_ports, serving, wait_until

pytestmark = [pytest.mark.minutes]

ENDED = ("completed", "failed", "expired", "cancelled")
NUM_LINES = 20_000


def content() -> bytes:
    """Returns an input in which each tenth line is invalid."""
    lines = []
    for index in range(NUM_LINES):
        text = "" if index % 10 == 7 else f"text {index} " + "word " * (index % 9)
        values = {"custom_id": f"row-{index}", "method": "POST", "url": "/v1/embeddings", "body": {"input": text}}
        lines.append(json.dumps(values))
    return "\n".join(lines).encode()


def connect(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=20, timeout=60)


def require_each_line_once(client: openai.OpenAI, batch: Any) -> None:
    assert batch.status == "completed", batch
    found: dict[str, list[str]] = {"output": [], "errors": []}
    for name, file_id in (("output", batch.output_file_id), ("errors", batch.error_file_id)):
        found[name] = [json.loads(line)["custom_id"] for line in client.files.content(file_id).text.splitlines()]
    bad = [f"row-{index}" for index in range(NUM_LINES) if index % 10 == 7]
    assert found["errors"] == bad
    assert sorted(found["output"]) == sorted({f"row-{index}" for index in range(NUM_LINES)} - set(bad))
    assert batch.request_counts.completed == NUM_LINES - len(bad)


@pytest.mark.parametrize("seed", [1, 2])
def test_each_line_has_one_result_whatever_is_killed(tmp_path: Path, seed: int) -> None:
    chosen = random.Random(seed)
    (port,) = free_ports(1)
    options = ("-http_port", str(port), "-http_jobs", tmp_path / "jobs", "-max_batch_size", "64")
    server: Server | None = None
    try:
        server = Server(*options).wait_ready()
        client = connect(port)
        file = client.files.create(file=("in.jsonl", content()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        for round_ in range(8):
            time.sleep(chosen.uniform(0.2, 2.0))
            if round_ % 4 == 3:
                server.kill()
                server = Server(*options).wait_ready()
                continue
            name = chosen.choice(["jobs", "jobs", "http", "worker-0", "ventilator", "sink"])
            with contextlib.suppress(AssertionError):  # it is about to be started again
                server.child(name).kill()
        wait_until(lambda: client.batches.retrieve(batch.id).status in ENDED, 120, "the end of the batch")
        require_each_line_once(client, client.batches.retrieve(batch.id))
        assert "starts over" not in server.log
        assert "unexpected error" not in server.log
        server.stop()
    finally:
        if server is not None:
            server.kill()


def test_a_server_stops_quickly_while_a_job_runs_and_goes_on_later(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    options = ("-http_port", str(port), "-http_jobs", tmp_path / "jobs")
    with serving(*options) as server, connect(port) as client:
        file = client.files.create(file=("in.jsonl", content()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
        wait_until(lambda: client.batches.retrieve(batch.id).request_counts.completed, what="the first vectors")
        assert server.stop(30) == 0, server.log
    with serving(*options), connect(port) as client:
        wait_until(lambda: client.batches.retrieve(batch.id).status in ENDED, 120, "the end of the batch")
        require_each_line_once(client, client.batches.retrieve(batch.id))


def test_a_folder_is_used_by_one_server(tmp_path: Path) -> None:
    def options() -> tuple[str | Path, ...]:
        return ("-http_port", str(free_ports(1)[0]), "-http_jobs", tmp_path / "jobs", "-engine", "zeros")

    with serving(*options()):
        other = Server(*options())
        assert other.process.wait(60) == 3
        assert f"-http_jobs {tmp_path / 'jobs'} is in use by another server: stop that server" in other.log
    with serving(*options()):
        pass


def test_a_folder_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    server = Server("-http_port", str(free_ports(1)[0]), "-http_jobs", tmp_path / "file", "-engine", "zeros")
    assert server.process.wait(60) == 3
    assert f"-http_jobs {tmp_path / 'file'} cannot be used" in server.log
