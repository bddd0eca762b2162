"""The attacks of ``siege.py``: each is a function that attacks a server on this machine for some seconds.

    python tests/faults/siege_attacks.py NAME PORT PORT_OUT HTTP_PORT SECONDS

Each attack runs in a process of its own, so that it takes no time of the clients that measure. A connection that the
server refuses or closes is what the attack is for, so it ends no attack.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import zmq

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fuzz import Fuzzer  # noqa: E402
from handshake import handshake, subscription  # noqa: E402
from http_fuzz import HttpFuzzer  # noqa: E402
from silent_network import silent_network  # noqa: E402

from bert_serving.client import BertClient  # noqa: E402
from fault_helpers import Raw, texts  # noqa: E402

MIB = 2**20


class Target(NamedTuple):
    port: int
    port_out: int
    http_port: int


def until(seconds: float) -> Callable[[], bool]:
    """Returns a function that is true for this many seconds."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def leave_together(target: Target, seconds: float) -> None:
    """1,500 idle clients connect, and leave at the same time."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4000)
    for number in range(1500):
        for kind, port in ((zmq.SUB, target.port_out), (zmq.PUSH, target.port)):
            sock = context.socket(kind)
            sock.setsockopt(zmq.LINGER, 0)
            if kind == zmq.SUB:
                sock.setsockopt(zmq.SUBSCRIBE, b"idle %d" % number)
            sock.connect(f"tcp://127.0.0.1:{port}")
    time.sleep(seconds / 2)
    os._exit(0)  # the kernel closes all connections together


def subscriptions(target: Target, seconds: float) -> None:
    """One connection subscribes to 45,000 identities while ten connections a second open and close."""
    going = until(seconds)
    flood = b"".join(subscription(b"identity %d" % number) for number in range(45_000))
    while going():
        with contextlib.suppress(OSError), handshake(target.port_out, b"SUB") as sock:
            sock.sendall(flood)
            while going():
                handshake(target.port_out, b"SUB").close()
                time.sleep(0.1)
                sock.sendall(subscription(b"alive"))
        time.sleep(0.1)


def frames(target: Target, seconds: float) -> None:
    """Messages of a million empty frames."""
    going = until(seconds)
    while going():
        with contextlib.suppress(OSError), handshake(target.port, b"PUSH") as sock:
            for _ in range(100):
                sock.sendall(b"\x01\x00" * 10_000)
            sock.sendall(b"\x00\x00")
            time.sleep(5)


def large_requests(target: Target, seconds: float) -> None:
    """Valid and invalid messages of up to 100 MB, one after the other."""
    going = until(seconds)
    bodies = [
        b"[" + b",".join([b'"' + b"hello world " * 50 + b'"'] * 20_000) + b"]",
        b"[" * 100_000_000,
        b"[" + b"1," * 30_000_000 + b"1]",
        b'["' + b"x" * 100_000_000,
        b"[" + b'"",' * 300_000 + b'""]',
    ]
    with Raw(target, b"large requests") as raw:
        for number, body in enumerate(bodies):
            if not going():
                break
            raw.push.send_multipart([raw.identity, body, b"%d" % number, b"1"], copy=False)
            if raw.sub.poll(int(1000 * seconds)):
                raw.sub.recv_multipart()


def blank_texts(target: Target, seconds: float) -> None:
    """Requests of blank texts, of which each costs more memory than its tokens suggest, without reading a reply."""
    going = until(seconds)
    with Raw(target, b"blank texts") as raw:
        raw.push.setsockopt(zmq.SNDTIMEO, 200)
        while going():
            with contextlib.suppress(zmq.Again):
                raw.send([""] * 2000)
            time.sleep(0.02)


def never_read(target: Target, seconds: float) -> None:
    """Forty clients that send requests and never read."""
    going = until(seconds)
    clients = [Raw(target, b"never reads %d" % number, receive_buffer=4096) for number in range(40)]
    while going():
        for client in clients:
            client.push.setsockopt(zmq.SNDTIMEO, 50)
            with contextlib.suppress(zmq.Again):
                client.send(texts(100))
        time.sleep(0.5)


def http_idle(target: Target, seconds: float) -> None:
    """Two thousand HTTP connections: half of them silent, half sending a byte of a header each ten seconds."""
    going = until(seconds)
    socks = []
    for _ in range(2000):
        with contextlib.suppress(OSError):
            socks.append(socket.create_connection(("127.0.0.1", target.http_port), 5))
    for sock in socks[::2]:
        with contextlib.suppress(OSError):
            sock.sendall(b"POST /encode HTTP/1.1\r\nX: ")
    while going():
        time.sleep(min(10.0, seconds / 3))
        for sock in socks[::2]:
            with contextlib.suppress(OSError):
                sock.sendall(b"y")


def http_unread(target: Target, seconds: float) -> None:
    """Callers of HTTP that never read their responses."""
    going = until(seconds)
    body = json.dumps({"texts": texts(2000)}).encode()
    request = b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    socks: list[socket.socket] = []
    while going():
        with contextlib.suppress(OSError):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", target.http_port))
            sock.sendall(request % (len(body), body))
            socks.append(sock)
        time.sleep(0.5)


def http_json(target: Target, seconds: float) -> None:
    """JSON bodies of many keys, numbers or brackets."""
    going = until(seconds)
    bodies = [
        b"{" + b",".join(b'"%d":1' % number for number in range(500_000)) + b"}",
        b'{"texts":[' + b"1," * 2_000_000 + b"1]}",
        b'{"texts":' + b"[" * 1_000_000,
    ]
    head = b"POST /encode HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    while going():
        for body in bodies:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target.http_port), 5) as sock:
                sock.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
                sock.recv(4096)
            time.sleep(0.5)


def http_random(target: Target, seconds: float) -> None:
    """Random and mutated HTTP requests."""
    going, fuzzer = until(seconds), HttpFuzzer(random.randrange(10**6))
    while going():
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", target.http_port), 5) as sock:
            request, is_whole = fuzzer.request()
            sock.settimeout(5 if is_whole else 0.05)
            sock.sendall(request)
            sock.recv(65536)


def messages(target: Target, seconds: float) -> None:
    """Random and mutated messages at both ports, some as bytes on bare connections, and a browser's request."""
    going, fuzzer = until(seconds), Fuzzer(random.randrange(10**6))
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, context.socket(zmq.XSUB) as xsub:
        for sock, port in ((push, target.port), (xsub, target.port_out)):
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.SNDTIMEO, 100)
            sock.connect(f"tcp://127.0.0.1:{port}")
        while going():
            with contextlib.suppress(zmq.Again):
                push.send_multipart(fuzzer.message())
                xsub.send_multipart(fuzzer.subscription())
            while xsub.poll(0):
                xsub.recv_multipart()
            if random.random() < 0.05:
                for port in (target.port, target.port_out):
                    stream = random.choice([fuzzer.stream(), b"POST / HTTP/1.1\r\nHost: x\r\n\r\n[]"])
                    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as bare:
                        bare.sendall(stream)
            time.sleep(0.001)


def unsubscriptions(target: Target, seconds: float) -> None:
    """A stranger subscribes to and unsubscribes from the identities of other clients."""
    going = until(seconds)
    while going():
        with contextlib.suppress(OSError), handshake(target.port_out, b"SUB") as sock:
            for identity in (b"witness", b"idle 1", b"never reads 1"):
                sock.sendall(subscription(identity, b"\x00") + subscription(identity) + subscription(identity, b"\x00"))
            time.sleep(0.2)


def interrupted(target: Target, seconds: float) -> None:
    """Clients whose calls time out or that close in the middle of a call."""
    going = until(seconds)
    while going():
        with (
            contextlib.suppress(TimeoutError, RuntimeError, OSError),
            BertClient(port=target.port, port_out=target.port_out, timeout=500) as client,
        ):
            client.encode(texts(5000))
        with (
            contextlib.suppress(TimeoutError, RuntimeError, OSError),
            BertClient(port=target.port, port_out=target.port_out, timeout=5000) as client,
        ):
            for _ in range(20):
                client.encode(texts(200), blocking=False)


def silent_path(target: Target, seconds: float) -> None:
    """Clients behind a path that swallows all packets while they send requests and read; it needs root."""
    with silent_network() as network:
        ports = [str(target.port), str(target.port_out)]
        command = [*network.prefix, sys.executable, __file__, "far_clients", network.near, *ports, str(2 * seconds)]
        with subprocess.Popen(command) as clients:
            time.sleep(seconds / 3)
            network.swallow()
            time.sleep(seconds / 2)
            clients.kill()  # the server does not learn of it


def far_clients(address: str, port: int, port_out: int, seconds: float) -> None:
    """Twenty clients that send requests; every other one reads the results."""
    going, context = until(seconds), zmq.Context()
    clients = []
    for number in range(20):
        push, sub = context.socket(zmq.PUSH), context.socket(zmq.SUB)
        sub.setsockopt(zmq.SUBSCRIBE, b"far %d" % number)
        push.setsockopt(zmq.SNDTIMEO, 20)
        push.connect(f"tcp://{address}:{port}")
        sub.connect(f"tcp://{address}:{port_out}")
        clients.append((push, sub))
    message = json.dumps(texts(50)).encode()
    while going():
        for number, (push, sub) in enumerate(clients):
            with contextlib.suppress(zmq.Again):
                push.send_multipart([b"far %d" % number, message, b"%d" % random.randrange(10**9), b"50"])
            while number % 2 and sub.poll(0):
                sub.recv_multipart()
        time.sleep(0.05)


ATTACKS: dict[str, Callable[[Target, float], None]] = {
    attack.__name__: attack
    for attack in (
        leave_together,
        subscriptions,
        frames,
        large_requests,
        blank_texts,
        never_read,
        http_idle,
        http_unread,
        http_json,
        http_random,
        messages,
        unsubscriptions,
        interrupted,
        silent_path,
    )
}


def main() -> None:
    name, *ports = sys.argv[1:5]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.nice(10)  # an attacker elsewhere takes none of the server's cores
    if name == far_clients.__name__:
        far_clients(ports[0], int(ports[1]), int(ports[2]), float(sys.argv[5]))
    ATTACKS[name](Target(*map(int, ports)), float(sys.argv[5]))
    os._exit(0)


if __name__ == "__main__":
    main()
