"""Start, stop, crash and restart of the server and its processes: no orphan, no leftover, no lost request."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest

from bert_serving.client import BertClient
from bert_serving.server import BertServer
from bert_serving.server.config.command_line import get_args_parser, parse
from bert_serving.server.supervisor.termination import terminate
from servers import CACHE, TINY, Server, free_ports, is_free, serving, wait_replaced, wait_until


def connect(server: Server, **kwargs: object) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, **{"timeout": 60_000, **kwargs})  # type: ignore[arg-type]


def is_gone(server: Server, children: list[psutil.Process]) -> None:
    """Checks that no child runs, the ports are free and no socket folder is left."""
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive, f"orphans: {alive}"
    for port in (server.port, server.port_out):
        wait_until(lambda port=port: is_free(port), what=f"port {port} to be free")  # type: ignore[misc]


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def socket_folders(folder: str) -> list[str]:
    return glob.glob(os.path.join(folder, "bert-serving-????????"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes(number: int, tmp_path: Path) -> None:
    server = Server(env={"ZEROMQ_SOCK_TMP_DIR": str(tmp_path)}).wait_ready()
    children = server.children()
    assert len(children) == 3
    assert len(socket_folders(str(tmp_path))) == 1
    assert os.stat(socket_folders(str(tmp_path))[0]).st_mode & 0o777 == 0o700
    server.process.send_signal(number)
    assert server.process.wait(60) == 0
    is_gone(server, children)
    assert not socket_folders(str(tmp_path))


def test_onnx_runtime_writes_no_telemetry(tmp_path: Path) -> None:
    """ONNX Runtime stores and sends telemetry unless it is disabled before the import."""
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "ORT_DISABLE_TELEMETRY": "0"}
    with (
        serving("-engine", "onnx", env=home) as server,
        BertClient(port=server.port, port_out=server.port_out) as client,
    ):
        client.encode(["hello world"])
    assert [path for path in tmp_path.rglob("*") if path.name in ("Microsoft", "deviceid")] == []


def test_ctrl_c_in_a_terminal_reaches_all_processes_at_once() -> None:
    server = Server().wait_ready()
    children = server.children()
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.process.wait(60) == 0, server.log
    is_gone(server, children)
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_while_they_start_is_no_failed_start(number: int) -> None:
    """A terminal and a service manager signal the child processes too."""
    server = Server()
    wait_until(lambda: len(server.children()) >= 2, what="the first processes")
    children = server.children()
    os.killpg(server.process.pid, number)
    assert server.process.wait(60) == 0, server.log
    is_gone(server, children)
    assert "Traceback" not in server.log
    assert " E:" not in server.log


def test_a_hangup_while_processes_start_ends_none_of_them() -> None:
    server = Server("-engine", "zeros")
    wait_until(lambda: len(server.children()) >= 2, what="the first processes")
    os.killpg(server.process.pid, signal.SIGHUP)
    server.wait_ready()
    os.killpg(server.process.pid, signal.SIGHUP)
    wait_until(lambda: "worker-0.2 joined" in server.log, what="the end of the rolling restart")
    assert " E:" not in server.log
    assert server.stop() == 0


def test_sigkill_of_the_supervisor_ends_all_processes(tmp_path: Path) -> None:
    server = Server(env={"ZEROMQ_SOCK_TMP_DIR": str(tmp_path)}).wait_ready()
    children = server.children()
    server.child("worker-0").suspend()  # one that cannot see by itself that it is alone
    server.process.kill()
    server.process.wait(60)
    is_gone(server, children)
    assert not socket_folders(str(tmp_path))


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_an_ipv6_address(host: str) -> None:
    with serving("-host", host, "-engine", "zeros") as server:
        for ip in ("::1", "127.0.0.1") if host == "::" else ("::1",):
            with connect(server, ip=ip) as client:
                assert client.encode(["hello"]).shape == (1, 32)
        terminate("::1", server.port, 60_000)
        assert server.process.wait(60) == 0


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("ip", ["::1", "127.0.0.1", "localhost"])
def test_all_addresses_include_those_of_ipv6(server: Server, ip: str) -> None:
    with connect(server, ip=ip) as client:
        assert client.encode(["hello"]).shape == (1, 32)


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
def test_of_two_servers_that_start_at_once_with_the_same_ports_one_serves() -> None:
    first = Server("-engine", "zeros")
    ports = ["-port", str(first.port_out), "-port_out", str(first.port)]  # swapped, the worst case
    second = Server("-engine", "zeros", *ports)
    third = Server("-engine", "zeros", "-port", str(first.port), "-port_out", str(first.port_out))
    servers = [first, second, third]
    wait_until(lambda: sum(each.process.poll() is None for each in servers) == 1, what="two servers to end")
    (winner,) = (each for each in servers if each.process.poll() is None)
    winner.wait_ready()
    assert winner.stop() == 0
    for loser in (each for each in servers if each is not winner):
        assert loser.process.wait(60) == 3
        assert "cannot be used" in loser.log
        assert "Traceback" not in loser.log


def test_flags_may_be_shortened_as_in_the_original() -> None:
    args = get_args_parser().parse_args(["-max_batch", "7", "-num", "3", "-pooling_l", "-3"])
    assert (args.max_batch_size, args.num_worker, args.pooling_layer) == (7, 3, [-3])


def test_terminate_waits_until_the_server_has_ended() -> None:
    server = Server().wait_ready()
    children = server.children()
    command = [sys.executable, "-c", "from bert_serving.server.cli.terminate import stop; raise SystemExit(stop())"]
    command += ["-port", str(server.port), "-timeout"]
    done = subprocess.run([*command, "60000"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert server.process.wait(60) == 0
    is_gone(server, children)
    again = subprocess.run([*command, "500"], capture_output=True, text=True, timeout=120)
    assert again.returncode == 1
    assert "no server answers" in again.stderr


def test_a_stop_drains_accepted_requests() -> None:
    with serving("-max_batch_size", "16") as server, connect(server) as client:
        texts = [f"hello world {i}" for i in range(3000)]
        vectors: list[np.ndarray] = []
        thread = threading.Thread(target=lambda: vectors.append(client.encode(texts)), daemon=True)
        worker = server.child("worker-0")
        worker.suspend()  # so that it is not done before it is looked at
        thread.start()
        with connect(server) as other:
            wait_until(lambda: other.server_status["queue"]["sequences"] > 0, what="the request to be accepted")
        server.process.send_signal(signal.SIGTERM)
        worker.resume()
        assert server.process.wait(60) == 0, server.log
        thread.join(60)
        assert vectors
        assert vectors[0].shape == (3000, 32)


@pytest.mark.parametrize("flag", ["-port", "-port_out"])
def test_a_port_in_use_is_an_error_within_seconds(server: Server, flag: str) -> None:
    other = Server(flag, str(server.port))
    assert other.process.wait(60) == 3
    assert f"{flag} {server.port} cannot be used" in other.log
    assert "Traceback" not in other.log


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-model_dir", "/no/such/folder"], ["/no/such/folder"]),
        (["-ckpt_name", "nothing.ckpt"], ["nothing.ckpt", "bert_model.ckpt"]),
        (["-config_name", "nothing.json"], ["nothing.json"]),
        (["-tuned_model_dir", "/no/tuned"], ["/no/tuned"]),
        (["-max_seq_len", "500"], ["500", "64 positions", "NONE"]),
        (["-pooling_layer", "-5"], ["-5", "4 layers"]),
        (["-host", "no.such.host.invalid"], ["no.such.host.invalid", "127.0.0.1"]),
        (["-host", "192.0.2.1"], ["192.0.2.1 is not an address of this machine", "127.0.0.1"]),
        (["-engine", "tensorflow", "-dtype", "int8"], ["int8", "tensorflow"]),
    ],
)
def test_invalid_options_fail_the_start(args: list[str], words: list[str]) -> None:
    server = Server(*args)
    assert server.process.wait(60) == 3, server.log
    error = next(line for line in server.log.splitlines() if " E:" in line)
    for word in words:
        assert word in error
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-max_seq_len", "3"], "at least 4"),
        (["-port", "70000"], "not a port"),
        (["-port", "6000", "-port_out", "6000"], "both 6000"),
        (["-pooling_strategy", "MEDIAN"], "REDUCE_MEAN"),
        (["-gpu_memory_fraction", "2"], "fraction"),
        (["-num_worker", "-1"], "at least 0"),
        (["-num_worker", "0"], "needs -join_port"),
        (["-no_such_flag"], "unrecognized"),
    ],
)
def test_a_wrong_command_line_is_explained(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["-model_dir", str(TINY), *args])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_missing_weight_fails_the_start(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    weights = {"embeddings.word_embeddings.weight": np.zeros((124, 32), np.float32)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((TINY / "bert_config.json").read_bytes())
    (tmp_path / "vocab.txt").write_bytes((TINY / "vocab.txt").read_bytes())
    server = Server(model_dir=tmp_path)
    assert server.process.wait(60) == 3
    assert "embeddings/" in server.log
    assert "Traceback" not in server.log


def test_no_request_fails_when_a_worker_is_killed() -> None:
    with serving("-num_worker", "2", "-max_batch_size", "8") as server, connect(server) as client:
        texts = [f"hello world {i % 90}" for i in range(90)]
        expected = client.encode(texts)
        results: list[np.ndarray] = []

        def load() -> None:
            with connect(server) as mine:
                results.extend(mine.encode(texts) for _ in range(40))

        threads = [threading.Thread(target=load, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(results) >= 8, what="the load to run")
        for deaths, name in enumerate(("worker-0", "worker-1"), 1):
            server.child(name).kill()
            wait_until(lambda: client.server_status["num_restarts"] == deaths, what="a restart")  # noqa: B023
        for thread in threads:
            thread.join(120)
        assert len(results) == 160
        for vectors in results:
            np.testing.assert_allclose(vectors, expected, atol=1e-5)
        wait_replaced(client, 2)


@pytest.mark.parametrize("name", ["sink", "ventilator"])
def test_a_dead_process_is_restarted_on_the_same_port(name: str) -> None:
    with serving() as server, connect(server) as client:
        before = client.encode(["hello world"])
        server.child(name).kill()
        after = client.encode(["hello world"])
        np.testing.assert_allclose(after, before, atol=1e-6)
        wait_replaced(client, 1)


def test_a_hung_worker_is_replaced() -> None:
    with serving("-heartbeat_timeout", "3") as server, connect(server) as client:
        client.encode(["hello world"])
        worker = server.child("worker-0")
        worker.suspend()
        assert client.encode(["another text"]).shape == (1, 32)  # the same one may still be at hand
        assert "no heartbeat for" in server.log
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.wait(60)


def test_a_server_inside_a_python_program() -> None:
    port, port_out = free_ports()
    args = get_args_parser().parse_args(
        ["-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), "-cpu", "-graph_tmp_dir", CACHE]
    )
    with BertServer(args) as server, BertClient(port=port, port_out=port_out, timeout=60_000) as client:
        assert client.encode(["hello world"]).shape == (1, 32)
        assert server.state == "ready"
    assert server.exit_code == 0
    assert is_free(port)


def test_a_server_inside_a_python_program_can_be_shut_down_by_port() -> None:
    port, port_out = free_ports()
    args = get_args_parser().parse_args(
        ["-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), "-cpu", "-graph_tmp_dir", CACHE]
    )
    server = BertServer(args)
    server.start()
    assert server.is_ready.wait(120)
    assert server.failure is None
    BertServer.shutdown(port=port, timeout=60_000)
    server.join(60)
    assert server.exit_code == 0


def test_a_server_inside_a_python_program_raises_the_reason_of_a_failed_start() -> None:
    from bert_serving.server.errors import StartError

    port, port_out = free_ports()
    args = get_args_parser().parse_args(["-model_dir", "/no/such", "-port", str(port), "-port_out", str(port_out)])
    with pytest.raises(StartError, match="/no/such"), BertServer(args):
        pass


def test_a_file_named_like_a_library_is_not_imported(tmp_path: Path) -> None:
    for name in ("imp.py", "json.py", "tokenizers.py", "queue.py"):
        (tmp_path / name).write_text("raise RuntimeError('this file was imported')")
    port, port_out = free_ports()
    script = Path(sys.executable).parent / "bert-serving-start"
    process = subprocess.Popen(
        [str(script), "-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), "-cpu"],
        cwd=tmp_path,
        env={**os.environ, "BERT_SERVING_CACHE": CACHE},
        stderr=subprocess.DEVNULL,
    )
    try:
        with BertClient(port=port, port_out=port_out, timeout=60_000, connect_timeout=60_000) as client:
            assert client.encode(["hello world"]).shape == (1, 32)
    finally:
        process.terminate()
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
