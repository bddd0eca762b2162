"""``bert-serving-encode -ray_address``: a corpus is encoded on the nodes of a cluster, as it is without one."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray_cluster
from ray_cluster import RayCluster

from bert_serving.client._cli.encode import main
from corpus_helpers import at, command, front, num_records, require_vectors, write_inputs
from fault_helpers import faulty
from servers import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.minutes, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster.ray_cluster(2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with faulty(engine="sound") as server:
        yield server


def arguments(
    tmp_path: Path, cluster: RayCluster | None, output_format: str = "parquet", batch_size: int = 50
) -> list[str]:
    args = [str(tmp_path / "in"), "-o", f"{tmp_path / 'out'}/", "-part_rows", "500", "-batch_size", str(batch_size)]
    args += ["-format", output_format, "-blank", "null"]
    return args if cluster is None else [*args, "-ray_address", cluster.address]


def actors() -> list[psutil.Process]:
    """Returns the processes of all actors that encode parts."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any("PartActor" in word for word in process.cmdline()):
                found.append(process)
    return found


def manifest(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "_manifest.json").read_text())
    return found


def run(*args: str) -> subprocess.CompletedProcess[str]:
    done = command(*args, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out, err = done.communicate(timeout=200)
    return subprocess.CompletedProcess(args, done.returncode, out, err)


@pytest.mark.parametrize("output_format", ["parquet", "npy"])
def test_a_folder_is_the_same_with_and_without_a_cluster(
    cluster: RayCluster, served: Server, tmp_path: Path, output_format: str
) -> None:
    texts = write_inputs(tmp_path / "in", 1200)
    out, plain = tmp_path / "out", tmp_path / "plain"
    args = arguments(tmp_path, cluster, output_format)
    done = run(*args, *front(served))
    assert done.returncode == 0, done.stderr
    assert "3,600 rows in 9 parts in" in done.stderr
    require_vectors(out, texts, served)
    without = arguments(tmp_path, None, output_format)
    assert main([*without[:2], f"{plain}/", *without[3:], *front(served)]) == 0
    assert manifest(out) == manifest(plain)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in plain.iterdir())
    # Either way of a run completes what the other one has begun.
    kept = (out / f"part-000000.{output_format}").stat().st_mtime_ns
    (out / f"part-000001.{output_format}").unlink()
    (out / f"part-000008.{output_format}").write_bytes(b"damaged")
    assert main([*without, *front(served), "-resume"]) == 0
    require_vectors(out, texts, served)
    (out / f"part-000004.{output_format}").unlink()
    done = run(*args, *front(served), "-resume")
    assert done.returncode == 0, done.stderr
    assert f"part-000004.{output_format} is missing" in done.stderr
    require_vectors(out, texts, served)
    assert (out / f"part-000000.{output_format}").stat().st_mtime_ns == kept


def test_killed_actors_and_a_killed_node_cost_their_parts_only(
    cluster: RayCluster, served: Server, tmp_path: Path
) -> None:
    texts = write_inputs(tmp_path / "in", 6000)
    out, log = tmp_path / "out", tmp_path / "log"
    with open(log, "wb") as file:
        running = command(*arguments(tmp_path, cluster, batch_size=2), *front(served), stderr=file)
    wait_until(lambda: num_records(out) >= 2, 120, "parts")
    actors()[0].kill()
    wait_until(lambda: b"was lost; another one encodes it" in log.read_bytes(), what="the loss")
    done = num_records(out)
    wait_until(lambda: num_records(out) > done, what="parts")
    assert running.poll() is None, log.read_text()
    cluster.kill_node(cluster.nodes[-1])
    cluster.nodes.append(cluster.add_node())
    assert running.wait(200) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    require_vectors(out, texts, served)
    numbers = [json.loads(line)["number"] for line in (out / "_parts.jsonl").read_text().splitlines()]
    assert sorted(numbers) == list(range(36))
    assert not list(out.glob(".*"))
    wait_until(lambda: not actors(), what="the end of the actors")


def test_a_killed_command_is_resumed(cluster: RayCluster, served: Server, tmp_path: Path) -> None:
    texts = write_inputs(tmp_path / "in", 3000)
    out = tmp_path / "out"
    args = [*arguments(tmp_path, cluster, batch_size=2), *front(served)]
    running = command(*args, stderr=subprocess.DEVNULL)
    wait_until(lambda: num_records(out) >= 3, 120, "parts")
    running.kill()
    running.wait(60)
    wait_until(lambda: not actors(), what="the end of the actors")
    before = (out / "_parts.jsonl").read_bytes()
    done = run(*args, "-resume")
    assert done.returncode == 0, done.stderr
    assert (out / "_parts.jsonl").read_bytes().startswith(before)
    require_vectors(out, texts, served)
    assert not list(out.glob(".*"))


def test_reasons_are_shown_without_a_traceback(cluster: RayCluster, served: Server, tmp_path: Path) -> None:
    write_inputs(tmp_path / "in", 60)
    args = arguments(tmp_path, cluster)
    refused = run(*args, "-blank", "error", *at(served)[:4])
    assert refused.returncode == 1
    assert "c.txt, line 4 is blank" in refused.stderr
    nowhere = run(*args[:-1], "127.0.0.1:1", *at(served)[:4])
    assert nowhere.returncode == 1
    assert "no Ray cluster at -ray_address 127.0.0.1:1: " in nowhere.stderr
    for done in (refused, nowhere):
        assert "Traceback" not in done.stderr
    assert run(*arguments(tmp_path, cluster), "-overwrite", *at(served)[:4]).returncode == 0
