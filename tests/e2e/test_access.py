"""CURVE keys: allowed clients connect encrypted, other clients receive an error."""

from __future__ import annotations

import contextlib
import shutil
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from bert_serving.client import BertClient, ServerUnreachableError
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.security.curve import AllowedKeys, is_loopback
from bert_serving.server.supervisor.termination import ServerNotFound, terminate
from servers import Server, free_ports, serving, wait_until


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "KEYS"
    assert keygen([str(folder), "alice", "bob"]) == 0
    return folder


@pytest.fixture(scope="module")
def guarded(keys: Path) -> Iterator[Server]:
    with serving("-auth_keys", str(keys)) as server:
        yield server


def connect(server: Server, keys: Path, name: str, **kwargs: object) -> BertClient:
    options = {"timeout": 60_000, "connect_timeout": 60_000, **kwargs}
    return BertClient(
        port=server.port,
        port_out=server.port_out,
        server_key=str(keys / "server.key"),
        secret_key=str(keys / f"{name}.key_secret"),
        **options,  # type: ignore[arg-type]
    )


def test_keygen_writes_private_files_and_leaves_old_keys_alone(keys: Path) -> None:
    assert {p.name for p in keys.iterdir()} == {
        "server.key", "server.key_secret", "clients", "alice.key_secret", "bob.key_secret",
    }  # fmt: skip
    assert {p.name for p in (keys / "clients").iterdir()} == {"alice.key", "bob.key"}
    for path in keys.glob("*.key_secret"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = (keys / "server.key_secret").read_bytes()
    assert keygen([str(keys)]) == 0
    assert (keys / "server.key_secret").read_bytes() == before
    with pytest.raises(SystemExit):
        keygen([str(keys), "../../etc/passwd"])


def test_a_known_client_gets_vectors(guarded: Server, keys: Path) -> None:
    with connect(guarded, keys, "alice") as client:
        assert client.encode(["hello world"]).shape == (1, 32)
        assert client.server_config["server_version"] == "1.10.0"


def test_keys_may_be_given_as_text(guarded: Server, keys: Path) -> None:
    server_key, _ = zmq.auth.load_certificate(keys / "server.key")
    _, secret = zmq.auth.load_certificate(keys / "bob.key_secret")
    assert secret
    with BertClient(
        port=guarded.port, port_out=guarded.port_out, server_key=server_key.decode(), secret_key=secret.decode(),
        timeout=60_000,
    ) as client:  # fmt: skip
        assert client.encode(["hello world"]).shape == (1, 32)


def test_a_client_without_a_key_is_rejected(guarded: Server, keys: Path) -> None:
    for options in ({}, {"server_key": str(keys / "server.key")}):  # no encryption; encrypted, but unknown
        with pytest.raises(ServerUnreachableError):
            BertClient(port=guarded.port, port_out=guarded.port_out, connect_timeout=1500, **options)  # type: ignore[arg-type]


def test_results_are_not_published_to_unknown_clients(guarded: Server, keys: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.SUB) as spy:
        spy.setsockopt(zmq.LINGER, 0)
        spy.setsockopt(zmq.SUBSCRIBE, b"")
        spy.connect(f"tcp://127.0.0.1:{guarded.port_out}")
        with connect(guarded, keys, "alice", identity="alice") as client:
            client.encode(["a secret"])
        assert not spy.poll(300)


def test_traffic_is_encrypted(guarded: Server, keys: Path) -> None:
    """A relay between client and server sees neither text nor identity."""
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        import threading

        def relay() -> None:
            inner, _ = listener.accept()
            outer = socket.create_connection(("127.0.0.1", guarded.port))

            def pump(source: socket.socket, target: socket.socket) -> None:
                with source, contextlib.suppress(OSError):
                    while data := source.recv(65536):
                        seen.extend(data)
                        target.sendall(data)
                    target.shutdown(socket.SHUT_RDWR)

            threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
            threading.Thread(target=pump, args=(outer, inner), daemon=True).start()

        threading.Thread(target=relay, daemon=True).start()
        with BertClient(
            port=listener.getsockname()[1], port_out=guarded.port_out, server_key=str(keys / "server.key"),
            secret_key=str(keys / "alice.key_secret"), identity="the-identity", timeout=60_000,
        ) as client:  # fmt: skip
            client.encode(["an unmistakable sentence"])
    assert len(seen) > 200
    assert b"unmistakable" not in seen
    assert b"the-identity" not in seen


def test_a_key_is_allowed_as_soon_as_its_file_exists(guarded: Server, keys: Path, tmp_path: Path) -> None:
    assert keygen([str(tmp_path / "other"), "carol"]) == 0
    secret = str(tmp_path / "other" / "carol.key_secret")
    options = {"port": guarded.port, "port_out": guarded.port_out, "server_key": str(keys / "server.key")}
    with pytest.raises(ServerUnreachableError):
        BertClient(secret_key=secret, connect_timeout=1500, **options)  # type: ignore[arg-type]
    shutil.copy(tmp_path / "other" / "clients" / "carol.key", keys / "clients" / "carol.key")
    with BertClient(secret_key=secret, timeout=60_000, connect_timeout=60_000, **options) as client:  # type: ignore[arg-type]
        assert client.encode(["hello world"]).shape == (1, 32)
    (keys / "clients" / "carol.key").unlink()
    with pytest.raises(ServerUnreachableError):
        BertClient(secret_key=secret, connect_timeout=1500, **options)  # type: ignore[arg-type]


def test_a_broken_key_file_allows_no_client(tmp_path: Path) -> None:
    assert keygen([str(tmp_path / "k"), "alice"]) == 0
    (tmp_path / "k" / "clients" / "broken.key").write_text("no certificate")
    ring = AllowedKeys(str(tmp_path / "k"))
    assert len(ring.read()) == 1
    assert not ring.callback("*", b"x" * 40)


def test_terminate_needs_a_key(keys: Path) -> None:
    with serving("-auth_keys", str(keys)) as server:
        with pytest.raises(ServerNotFound):
            terminate("127.0.0.1", server.port, 1000)
        terminate("127.0.0.1", server.port, 60_000, str(keys))
        assert server.process.wait(60) == 0


def test_the_http_server_works_with_keys(keys: Path) -> None:
    import json
    import urllib.request

    from servers import free_ports

    (port,) = free_ports(1)
    with serving("-auth_keys", str(keys), "-http_port", str(port), "-host", "127.0.0.1"):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/encode",
            json.dumps({"texts": ["hello world"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert np.array(json.load(answer)["result"]).shape == (1, 32)


def test_http_without_a_token_is_refused_with_keys(keys: Path) -> None:
    server = Server("-auth_keys", str(keys), "-http_port", str(free_ports(1)[0]))
    assert server.process.wait(60) == 3
    assert "-http_token_file" in server.log


def test_changing_key_files_do_not_stop_the_authenticator(keys: Path) -> None:
    """pyzmq's authenticator thread ends at the first exception."""
    ring, stop = AllowedKeys(str(keys)), threading.Event()
    alice = zmq.auth.load_certificate(keys / "clients" / "alice.key")[0]

    def come_and_go() -> None:
        while not stop.is_set():
            path = keys / "clients" / "brief.key"
            path.write_text("no key")
            path.unlink()

    thread = threading.Thread(target=come_and_go, daemon=True)
    thread.start()
    try:
        assert all(ring.callback("", alice) for _ in range(3000))
    finally:
        stop.set()
        thread.join(30)
    assert not AllowedKeys(str(keys / "nowhere")).callback("", alice)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("[::1]", True), ("::ffff:127.0.0.1", True),
     ("localhost", True), ("*", False), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False),
     ("127.evil.org", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback_addresses(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


@pytest.mark.parametrize("problem", ["missing", "open"])
def test_unusable_keys_fail_the_start(tmp_path: Path, problem: str) -> None:
    folder = tmp_path / "keys"
    if problem == "open":
        assert keygen([str(folder)]) == 0
        (folder / "server.key_secret").chmod(0o644)
    server = Server("-auth_keys", str(folder))
    assert server.process.wait(60) == 3
    assert ("bert-serving-keygen" if problem == "missing" else "chmod 600") in server.log


def test_an_open_server_logs_a_warning(server: Server) -> None:
    assert "-auth_keys" in next(line for line in server.log.splitlines() if " W:" in line and "-host" in line)
    with serving("-host", "127.0.0.1", "-engine", "zeros") as local:
        assert "any client that reaches" not in local.log


def test_keygen_is_a_command() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "bert-serving-keygen"), "--help"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    assert "-auth_keys" in done.stdout


def test_restarted_processes_require_keys(keys: Path) -> None:
    with serving("-auth_keys", str(keys)) as server, connect(server, keys, "alice") as client:
        client.encode(["hello world"])
        for name in ("ventilator", "sink"):
            server.child(name).kill()
            assert client.encode(["hello world"]).shape == (1, 32)
        with pytest.raises(ServerUnreachableError):
            BertClient(port=server.port, port_out=server.port_out, connect_timeout=1500)
        wait_until(lambda: client.server_status["state"] == "ready")
