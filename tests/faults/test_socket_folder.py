"""The folder of the internal sockets is removed while the server runs: processes that end are still replaced."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fault_helpers import connect
from servers import Server, free_ports, serving, wait_replaced, wait_until

SOCKETS = {"dispatch", "results", "channel", "control"}


@pytest.fixture
def root_folder() -> Iterator[Path]:
    """A temporary folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="sockets-") as folder:
        yield Path(folder)


def socket_folder(root: Path) -> Path:
    (folder,) = root.glob("bert-serving-*")
    return folder


def is_whole(root: Path) -> bool:
    return any(set(os.listdir(folder)) == SOCKETS for folder in root.glob("bert-serving-*"))


def check_that_each_process_is_replaced(server: Server) -> None:
    with connect(server) as client:
        for count, name in enumerate(("worker-0", "sink", "ventilator", "http"), 1):
            server.child(name).kill()
            wait_until(lambda: f"{name} ended" in server.log, what=f"the end of {name}")  # noqa: B023
            assert client.encode(["hello world"]).shape == (1, 32)
            wait_replaced(client, count)


@pytest.mark.parametrize("what", ["folder", "files", "root"])
def test_a_removed_socket_folder_is_repaired(what: str, root_folder: Path) -> None:
    root = root_folder / "sockets"
    root.mkdir()
    (http_port,) = map(str, free_ports(1))
    with serving("-engine", "zeros", "-http_port", http_port, env={"ZEROMQ_SOCK_TMP_DIR": str(root)}) as server:
        folder = socket_folder(root)
        if what == "files":
            for name in SOCKETS:
                (folder / name).unlink()
        else:
            shutil.rmtree(folder if what == "folder" else root)
        wait_until(lambda: is_whole(root), what="the sockets to be there again")
        assert socket_folder(root) == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        check_that_each_process_is_replaced(server)
    assert not list(root.glob("bert-serving-*"))


def test_a_process_that_ends_together_with_the_folder_is_replaced(root_folder: Path) -> None:
    with (
        serving("-engine", "zeros", env={"ZEROMQ_SOCK_TMP_DIR": str(root_folder)}) as server,
        connect(server) as client,
    ):
        shutil.rmtree(socket_folder(root_folder))
        for name in ("ventilator", "sink", "worker-0"):
            server.child(name).kill()
        assert client.encode(["hello world"]).shape == (1, 32)
        wait_until(lambda: is_whole(root_folder), what="the sockets to be there again")


def test_a_folder_that_cannot_be_created_again_is_reported(root_folder: Path) -> None:
    with (
        serving("-engine", "zeros", env={"ZEROMQ_SOCK_TMP_DIR": str(root_folder)}) as server,
        connect(server) as client,
    ):
        folder = socket_folder(root_folder)
        shutil.rmtree(folder)
        folder.write_text("a file in its place")
        wait_until(lambda: "cannot be created again" in server.log, what="the report")
        assert client.encode(["hello world"]).shape == (1, 32)
        folder.unlink()
        wait_until(lambda: is_whole(root_folder), what="the sockets to be there again")
        server.child("worker-0").kill()
        assert client.encode(["hello world"]).shape == (1, 32)


def test_old_files_are_touched(root_folder: Path) -> None:
    with serving("-engine", "zeros", env={"ZEROMQ_SOCK_TMP_DIR": str(root_folder)}):
        folder = socket_folder(root_folder)
        paths = [*(folder / name for name in SOCKETS), folder]
        for path in paths:
            os.utime(path, (1, 1))
        wait_until(lambda: all(path.stat().st_mtime > 1 for path in paths), what="new times")
