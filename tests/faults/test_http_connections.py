"""HTTP connections that are idle, slow, too many or malformed do not keep others waiting."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from http_calls import HttpServer, serving_http
from servers import wait_until

MAX_CONNECTIONS, MAX_BODY = 60, 200_000
HEAD = b"POST /encode HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    limits = ("-http_max_connections", str(MAX_CONNECTIONS), "-http_max_body", str(MAX_BODY))
    times = ("-http_keep_alive", "3", "-http_read_timeout", "1")
    with serving_http("-engine", "zeros", *limits, *times) as server:
        yield server


def dial(server: HttpServer, data: bytes = b"") -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.http_port), 30)
    sock.sendall(data)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Reads until the server closes the connection."""
    received = b""
    with sock, contextlib.suppress(ConnectionError):
        while data := sock.recv(65536):
            received += data
    return received


def read_responses(sock: socket.socket, count: int) -> list[tuple[bytes, bytes]]:
    """Returns the heads and bodies of responses on one connection."""
    responses, file = [], sock.makefile("rb")
    for _ in range(count):
        head = b""
        while (line := file.readline()) not in (b"\r\n", b""):
            head += line.lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        responses.append((head, file.read(length)))
    return responses


def post(texts: list[str], id_: int = 0) -> bytes:
    body = json.dumps({"id": id_, "texts": texts}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def seconds_of_health(server: HttpServer) -> float:
    began = time.monotonic()
    assert server.call("/healthz").status == 200
    return time.monotonic() - began


def usual_seconds(server: HttpServer) -> float:
    """Returns the time of a health check without other requests. It is long if the machine has other work."""
    return max(seconds_of_health(server) for _ in range(20))


def is_healthy(server: HttpServer) -> None:
    assert seconds_of_health(server) < 30


def open_connections(process: psutil.Process, port: int) -> int:
    """Returns the number of connections that a process holds on its port."""
    connections = process.net_connections("tcp")
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in connections)


def test_connections_beyond_the_limit_get_503_at_once_and_idle_ones_no_thread(server: HttpServer) -> None:
    process = server.server.child("http")
    assert server.call("/encode", {"texts": ["a"]}).status == 200
    # A closed connection counts until the server has read its end.
    wait_until(lambda: not open_connections(process, server.http_port), what="no connection to be open")
    threads = process.num_threads()
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(dial(server)) for _ in range(MAX_CONNECTIONS)]
        for _ in range(3):
            answer = read_all(dial(server, post(["a"])))
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After: 1\r\n" in answer
            assert b"-http_max_connections" in answer
        open_ones[0].sendall(post(["a"]))
        assert read_responses(open_ones[0], 1)[0][0].startswith(b"http/1.1 200")
        assert process.num_threads() <= threads + 2
    wait_until(lambda: server.call("/healthz").status == 200, what="a connection to be free")


@pytest.mark.parametrize("start", [b"GET /healthz", HEAD + b"X-A: b", HEAD + b"Content-Length: 1000\r\n\r\n{"])
def test_slow_senders_get_408_however_regularly_they_send(server: HttpServer, start: bytes) -> None:
    sock = dial(server, start)
    sock.settimeout(0.1)
    began, received = time.monotonic(), b""
    while not received:
        with contextlib.suppress(TimeoutError):
            received = sock.recv(65536)
            break
        sock.sendall(b"x")
        assert time.monotonic() - began < 60
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"-http_read_timeout" in received + read_all(sock)
    assert time.monotonic() - began >= 1


def test_an_idle_connection_is_closed(server: HttpServer) -> None:
    for data in (b"", post(["a"])):
        began = time.monotonic()
        read_all(dial(server, data))
        assert 2 <= time.monotonic() - began < 60


@pytest.mark.parametrize(
    "hello",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"\x00\x00\r\n\r\n", b"GET / SMTP/1\r\n\r\n"],
)
def test_what_is_not_http_is_refused_at_once(server: HttpServer, hello: bytes) -> None:
    """A TLS client among them: a port without TLS shows in its error. After the time-out, it would be 408."""
    answer = read_all(dial(server, hello))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["type"] == "BadRequest"


def test_a_large_head_is_refused(server: HttpServer) -> None:
    sock = dial(server, HEAD)
    with contextlib.suppress(OSError):
        for _ in range(100):
            sock.sendall(b"X-A: " + b"b" * 20_000 + b"\r\n")
    assert read_all(sock).startswith(b"HTTP/1.1 431 ")
    is_healthy(server)


def test_a_large_body_is_refused_with_cors_headers_and_the_connection_goes_on(server: HttpServer) -> None:
    big = b"x" * (3 * MAX_BODY)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
    for rest in (b"Content-Length: %d\r\n\r\n%b" % (len(big), big), chunked):
        with dial(server, HEAD + b"Origin: http://a.example\r\n" + rest + post(["a"])) as sock:
            (head, body), (after, _) = read_responses(sock, 2)
            assert head.startswith(b"http/1.1 413")
            assert b"access-control-allow-origin: *" in head
            assert f"{MAX_BODY} bytes (-http_max_body)" in json.loads(body)["description"]
            assert after.startswith(b"http/1.1 200")
    answer = read_all(dial(server, HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(big)))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_pipelined_and_chunked_requests_are_answered_in_order(server: HttpServer) -> None:
    body = json.dumps({"id": 7, "texts": ["a"]}).encode()
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(body[i : i + 9]), body[i : i + 9]) for i in range(0, len(body), 9))
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
    with dial(server, b"".join(post(["a"] * 40, number) for number in range(5)) + chunked) as sock:
        answers = read_responses(sock, 6)
    assert [json.loads(answer)["id"] for _, answer in answers] == [0, 1, 2, 3, 4, 7]


def test_what_is_not_http_behind_a_request_ends_the_connection_without_an_error_in_the_log(server: HttpServer) -> None:
    for request in (post(["a"]), b"GET /healthz HTTP/1.1\r\n\r\n", post(["a"] * 1000)):
        assert read_all(dial(server, request + b"\0\1\2\r\n\r\n")).startswith(b"HTTP/1.1 ")
    is_healthy(server)
    assert "Traceback" not in server.server.log


def test_endless_pipelined_requests_take_bounded_memory(server: HttpServer) -> None:
    """A client that sends further requests and reads no response is read only as far as a limit."""
    process = server.server.child("http")
    before = process.memory_info().rss
    with dial(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            for number in range(20_000):
                sock.sendall(post(["a"] * 100, number))
        assert process.memory_info().rss - before < 64 * 2**20
    is_healthy(server)


def test_http_1_0_gets_the_length_and_the_connection_closes(server: HttpServer) -> None:
    body = b'{"texts": ["a"]}'
    head = b"POST /encode HTTP/1.0\r\nAccept-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = read_all(dial(server, head + body))
    length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert len(json.loads(answer.split(b"\r\n\r\n", 1)[1])["results"]) == 1
    assert len(answer.split(b"\r\n\r\n", 1)[1]) == length


def test_clients_that_do_not_read_are_cut_and_their_memory_is_free() -> None:
    """Each response has 20 MB. Without a limit, the process would hold all of them until the clients leave."""
    limits = ("-http_max_body", str(4 * 2**20), "-http_read_timeout", "2", "-http_keep_alive", "2")
    with serving_http("-engine", "zeros", *limits) as server, contextlib.ExitStack() as stack:
        request = post(["a"] * 30_000)
        assert server.call("/encode", {"texts": ["a"] * 30_000}).status == 200
        process = server.server.child("http")
        before = process.memory_info().rss
        for _ in range(60):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.http_port))
            sock.sendall(request)
        most, ends = 0, time.monotonic() + 6
        while time.monotonic() < ends:
            most = max(most, process.memory_info().rss)
            assert server.call("/encode", {"texts": ["a"]}).status == 200
            time.sleep(0.05)
        assert most - before < 400 * 2**20
        wait_until(lambda: not established(process, server.http_port), what="the connections to be closed")
        assert server.call("/encode", {"texts": ["a"] * 30_000}).status == 200


def established(process: psutil.Process, port: int) -> int:
    return sum(each.laddr.port == port and each.status == "ESTABLISHED" for each in process.net_connections("tcp"))


@pytest.mark.parametrize(
    ("key", "first", "rest"),
    [("texts", b"1", b",1"), ("texts", b'"a"', b',""'), ("id", b"[]", b",[]"), ("id", b"1", b',{"a":1}')],
    ids=["numbers", "strings", "lists", "objects"],
)
def test_millions_of_values_do_not_stop_others(big_server: HttpServer, key: str, first: bytes, rest: bytes) -> None:
    body = b'{"%b": [%b]}' % (key.encode(), first + rest * 5_000_000)
    replies: list[int] = []
    usual = usual_seconds(big_server)
    threads = [threading.Thread(target=lambda: replies.append(big_server.call("/encode", body).status)) for _ in "12"]
    for thread in threads:
        thread.start()
    times = []
    while any(thread.is_alive() for thread in threads):
        times.append(seconds_of_health(big_server))
        time.sleep(0.02)
    assert set(replies) <= {413, 503}
    assert max(times) < 2 + 10 * usual
    assert statistics.median(times) < 0.5 + 10 * usual


@pytest.fixture(scope="module")
def big_server() -> Iterator[HttpServer]:
    with serving_http("-engine", "zeros") as server:
        yield server


def test_an_address_of_all_interfaces_is_ipv4_and_ipv6(big_server: HttpServer) -> None:
    """With ``-host *`` on a machine that has IPv6."""
    is_healthy(big_server)
    if not has_ipv6_loopback():
        pytest.skip("this machine has no IPv6")
    with socket.create_connection(("::1", big_server.http_port), 30) as sock:
        sock.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 200 ")


def has_ipv6_loopback() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


#: Opens connections in one burst when a line arrives on stdin, and holds them.
BURST = r"""
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
port, count = int(sys.argv[1]), int(sys.argv[2])
sockets = [socket.socket() for _ in range(count)]
for sock in sockets:
    sock.setblocking(False)
print("ready", flush=True)
sys.stdin.readline()
for sock in sockets:
    sock.connect_ex(("127.0.0.1", port))
print("sent", flush=True)
sys.stdin.readline()
"""


def times_of_health_while_connecting(server: HttpServer, count: int) -> list[float]:
    """Returns the seconds of health checks until ``count`` connections of a burst are accepted."""
    process = server.server.child("http")
    before = process.num_fds()
    command = [sys.executable, "-c", BURST, str(server.http_port), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as burst:
        assert burst.stdin is not None
        assert burst.stdout is not None
        assert burst.stdout.readline() == b"ready\n"
        burst.stdin.write(b"\n")
        burst.stdin.flush()
        times, ends = [], time.monotonic() + 60
        # Without those before: connections of earlier requests may close meanwhile.
        while process.num_fds() < count and time.monotonic() < ends:
            times.append(seconds_of_health(server))
        assert process.num_fds() >= count
        assert burst.stdout.readline() == b"sent\n"
        burst.kill()
    wait_until(lambda: process.num_fds() <= before + 8, what="the connections to be closed")
    return times


def test_health_answers_while_thousands_connect_at_once(big_server: HttpServer) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3_500:
        pytest.skip(f"3,500 open files are needed, and the limit (ulimit -Hn) is {hard}")
    usual = usual_seconds(big_server)
    assert max(times_of_health_while_connecting(big_server, 3_000)) < 1 + 10 * usual


#: Opens connections, half of them idle, and sends a byte on each of the others now and then.
CROWD = r"""
import contextlib, socket, sys, time
port, count = int(sys.argv[1]), int(sys.argv[2])
get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: "
post = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
sockets = []
for number in range(count):
    sockets.append(socket.create_connection(("127.0.0.1", port), 60))
    sockets[-1].sendall((b"", get, b"", post)[number % 4])
print("open", flush=True)
while True:
    for number, sock in enumerate(sockets):
        if number % 2:
            with contextlib.suppress(OSError):
                sock.send(b"x")
                time.sleep(0.002)
"""


@pytest.mark.minutes
def test_10_000_idle_and_slow_connections_leave_health_and_requests_alone() -> None:
    count = 10_000 - 100  # the test itself connects too
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 10_200:
        pytest.skip(f"10,200 open files are needed, and the limit (ulimit -Hn) is {hard}")
    with serving_http("-engine", "zeros", "-http_read_timeout", "120") as server, contextlib.ExitStack() as stack:
        process = server.server.child("http")
        assert server.call("/encode", {"texts": ["a"]}).status == 200
        times = sorted(times_of_health_while_connecting(server, count))
        print(f"in a burst: p99 {times[len(times) * 99 // 100]:.4f} s, most {times[-1]:.4f} s")
        assert times[-1] < 1
        threads = process.num_threads()
        for _ in range(2):
            command = [sys.executable, "-c", CROWD, str(server.http_port), str(count // 2)]
            crowd = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
            stack.callback(crowd.kill)
            assert crowd.stdout is not None
            assert crowd.stdout.readline() == b"open\n"
        wait_until(lambda: established(process, server.http_port) >= count, what="all connections to be accepted")
        times = []
        for _ in range(200):
            for path, body in (("/healthz", None), ("/readyz", None), ("/encode", {"texts": ["a"]})):
                began = time.monotonic()
                assert server.call(path, body).status == 200
                times.append(time.monotonic() - began)
        times.sort()
        print(f"p50 {times[len(times) // 2]:.4f} s, p99 {times[len(times) * 99 // 100]:.4f} s, most {times[-1]:.4f} s")
        assert times[len(times) * 99 // 100] < 0.5
        assert process.num_threads() <= threads + 8
        assert process.memory_info().vms < 2**30
        assert established(process, server.http_port) >= count
