"""CURVE keys: allowed clients connect encrypted, other clients receive an error."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq
import zmq.auth

from bert_serving.client import BertClient, ServerUnreachableError
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.config.folders import PATH_KEYS
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.http.bearer_token import read_token
from bert_serving.server.security.curve import AllowedKeys, is_loopback, read_server_keys
from bert_serving.server.supervisor.termination import ServerNotFound, terminate
from doc_examples import examples_of, with_ports
from servers import TINY, TINY_TUNED, Server, free_ports, serving, wait_until


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


#: What is in the place of a key, and what the log says of it.
BAD_FILES = {
    "endless": "not a regular file",
    "pipe": "not a regular file",
    "folder": "not a regular file",
    "huge": "more than 65536",
    "empty": "it is empty",
    "loop": "symbolic link",
    "nowhere": "No such file",
    "text": "No public key",
    "short": "40 characters",
}


@pytest.fixture
def bad_files(keys: Path) -> Iterator[list[Path]]:
    """Files in the folder of the clients' keys from which no key can be read."""
    clients = keys / "clients"
    paths = [clients / f"{name}.key" for name in BAD_FILES]
    endless, pipe, folder, huge, empty, loop, nowhere, text, short = paths
    endless.symlink_to("/dev/zero")
    os.mkfifo(pipe)
    folder.mkdir()
    with huge.open("wb") as file:
        file.truncate(2**40)
    empty.touch()
    loop.symlink_to(loop)
    nowhere.symlink_to(clients / "no such file")
    text.write_text("no certificate")
    short.write_text('curve\n    public-key = "abc"\n')
    try:
        yield paths
    finally:
        folder.rmdir()
        for path in paths:
            path.unlink(missing_ok=True)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_a_bad_file_among_the_keys_is_named_and_locks_nobody_out(
    guarded: Server, keys: Path, bad_files: list[Path]
) -> None:
    with connect(guarded, keys, "alice") as client:
        assert client.encode(["hello world"]).shape == (1, 32)
    for path, reason in zip(bad_files, BAD_FILES.values(), strict=True):
        lines = [line for line in guarded.log.splitlines() if f"{path} allows no client" in line]
        assert lines, path
        assert all(reason in line for line in lines)
        assert len(lines) <= 2  # of the ventilator and the sink
    with connect(guarded, keys, "bob") as client:
        assert client.encode(["hello world"]).shape == (1, 32)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no /dev/zero")
def test_an_endless_key_or_token_ends_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    assert keygen([str(folder)]) == 0
    (folder / "server.key_secret").unlink()
    os.mkfifo(folder / "server.key_secret", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_server_keys(str(folder))
    config = ServerConfig(model_dir=str(TINY), http_token_file="/dev/zero")
    with pytest.raises(ConfigError, match="not a regular file"):
        read_token(config)


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


def own_address() -> str:
    """Returns an address of this machine that is no loopback address, so it counts as another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells by which address one would
        except OSError:
            pytest.skip("this machine has a loopback address only")
        return str(probe.getsockname()[0])


def test_another_machine_sees_no_folders(tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("secret")
    (http_port,) = free_ports(1)
    address = own_address()
    options = ("-graph_tmp_dir", str(tmp_path), "-http_token_file", str(token), "-http_port", str(http_port))
    with serving("-tuned_model_dir", str(TINY_TUNED), "-ckpt_name", "model.ckpt-343", *options) as server:

        def over_http(host: str) -> dict[str, object]:
            url = f"http://{host}:{http_port}/status/server"
            request = urllib.request.Request(url, headers={"Authorization": "Bearer secret"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)  # type: ignore[no-any-return]

        seen: dict[str, list[dict[str, object]]] = {}
        for host in ("127.0.0.1", address):
            with BertClient(host, server.port, server.port_out, timeout=60_000) as client:
                seen[host] = [client.server_config, client.server_status, over_http(host)]
        for near, far in zip(seen["127.0.0.1"], seen[address], strict=True):
            assert near["model_dir"] == str(TINY)
            assert str(near["worker -> sink"]).startswith("ipc:///")
            assert near.keys() == far.keys()
            assert not any("/" in str(far[key]).replace("ipc://", "") for key in PATH_KEYS)
            assert far["model_dir"] == TINY.name
            assert far["http_token_file"] == "token"
            assert far["worker -> sink"] == "ipc://results"
            assert far["ventilator -> worker"] == ["ipc://dispatch"]
            assert str(tmp_path) not in json.dumps(far)
            assert str(TINY.parent) not in json.dumps(far)


def test_a_holder_of_a_key_sees_folders(guarded: Server, keys: Path) -> None:
    with BertClient(
        own_address(), guarded.port, guarded.port_out, server_key=str(keys / "server.key"),
        secret_key=str(keys / "alice.key_secret"), timeout=60_000,
    ) as client:  # fmt: skip
        assert client.server_config["model_dir"] == str(TINY)


@pytest.mark.parametrize("name", ["server", "guarded"])
@pytest.mark.parametrize(
    "hello",
    [
        b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90\r\n\r\n" + 90 * b"\x01",
        b"\x01\x00" + b"\x02\x01x\x03\x01[]\x02\x011\x02\x001" * 20,  # ZMTP 1.0
        b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x01\x08\x00\x00" + b"\x01\x01x\x00\x01y" * 20,  # ZMTP 2.0
    ],
    ids=["browser", "ZMTP 1.0", "ZMTP 2.0"],
)
def test_a_peer_of_another_protocol_sends_no_request(name: str, hello: bytes, request: pytest.FixtureRequest) -> None:
    target: Server = request.getfixturevalue(name)
    before = target.log
    for port in (target.port, target.port_out):
        with socket.create_connection(("127.0.0.1", port), 20) as peer:
            peer.sendall(hello)
            with contextlib.suppress(ConnectionError):
                while peer.recv(1024):
                    pass
    assert target.log == before


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


def test_the_example_of_keys(guarded: Server, keys: Path) -> None:
    (code,) = examples_of("test_the_example_of_keys")
    names: dict[str, object] = {}
    exec(with_ports(code, guarded).replace("/etc/bert-keys", str(keys)), names)
    bc = names["bc"]
    assert isinstance(bc, BertClient)
    with bc:
        assert bc.encode(["hello world"]).shape == (1, 32)
