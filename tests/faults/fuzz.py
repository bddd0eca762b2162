"""Sends random and mutated messages to both ports while a control client checks its replies.

    python tests/faults/fuzz.py 1000000

A message that says TERMINATION, from this machine, is a request to stop and not hostile, so none is ever made.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import time
from pathlib import Path

import zmq

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from bert_serving.client import BertClient  # noqa: E402
from fault_helpers import assert_true, connect, faulty, memory, open_files, texts, wait_for_descriptors  # noqa: E402
from servers import Server, wait_until  # noqa: E402

#: Memory growth of a process that is accepted. Python's allocator and the system's keep some of what they once had,
#: results that no client reads are kept for a while, and the sink keeps its latest results for equal texts.
GROWTH = 1.05
SLACK = 64 * 2**20
RESULT_MEMORY = 16 * 2**20
#: Messages arrive faster than the engine computes. The queue is bounded, so that memory growth shows a leak.
QUEUE_TOKENS = 1_000_000
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(16) + b"\0" + bytes(31)
_READY = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x04PUSH\x08Identity\0\0\0\0"


class Fuzzer:
    """Makes up messages; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def message(self) -> list[bytes]:
        """Frames for the port of requests."""
        make = self.random.choice([self._noise, self._mutated, self._mutated, self._odd_json, self._command])
        frames = make()
        return [frame.replace(b"TERMINATION", b"TERMINATE") for frame in frames]

    def _noise(self) -> list[bytes]:
        return [self.bytes(self.random.choice([0, 1, 5, 40, 300])) for _ in range(self.random.randint(1, 8))]

    def _valid(self) -> list[bytes]:
        sentences = texts(self.random.choice([1, 1, 2, 2, 10, 10, 300]), self.random.randrange(1000))
        message = json.dumps(sentences if self.random.random() < 0.7 else [s.split() for s in sentences])
        identity = self.random.choice([b"a", b"ab", b"abc", self.bytes(16), b"x" * 255])
        return [identity, message.encode(), b"%d" % self.random.randrange(10**6), b"%d" % len(sentences)]

    def _mutated(self) -> list[bytes]:
        frames = self._valid()
        for _ in range(self.random.randint(1, 3)):
            at = self.random.randrange(len(frames))
            frame = bytearray(frames[at])
            action = self.random.randrange(6)
            if action == 0 and frame:
                for _ in range(self.random.randint(1, 8)):
                    frame[self.random.randrange(len(frame))] = self.random.randrange(256)
            elif action == 1:
                del frame[self.random.randrange(len(frame) + 1) :]
            elif action == 2:
                where = self.random.randrange(len(frame) + 1)
                frame[where:where] = self.bytes(self.random.randrange(20))
            elif action == 3:
                frame *= self.random.choice([0, 2, 5])
            elif action == 4:
                frames.insert(at, b"")
            elif len(frames) > 1:
                del frames[at]
                continue
            frames[at] = bytes(frame)
        return frames

    def _odd_json(self) -> list[bytes]:
        message = self.random.choice(
            [
                b"[" * self._size(30_000),
                b'{"a":' * self._size(5000),
                b"[" + b"9" * self._size(10_000) + b"]",
                b'["' + b"\\ud800" * self._size(500) + b'"]',
                b'["' + b"\\u0000" * 50 + b'", "\xff\xfe"]',
                b"[[]" + b",[]" * self._size(5000) + b"]",
                b'[""' + b',""' * self._size(5000) + b"]",
                b'["' + b"x" * self._size(20_000) + b'"]',
                b'["a", NaN, Infinity, 1e999, null, true, {"b": []}]',
                b'["\\u202e ||| ||| |||", "||||||"]',
                ('["a' + "\u0301\u0323" * self._size(30_000) + '"]').encode(),
                b'[["a"]' + b',["[CLS]", 1]' * self._size(5000) + b"]",
                b"[" + b"{}," * self._size(5000) + b'"a"]',
                json.dumps([chr(self.random.randrange(0xD7FF)) * 20 for _ in range(20)]).encode(),
            ]
        )
        return [self.bytes(8), message, b"1", self.random.choice([b"1", b"0", b"-1", b"9" * 30, b""])]

    def _size(self, most: int) -> int:
        """Mostly small, now and then as large as ``most``."""
        return most if self.random.random() < 0.03 else self.random.randint(1, 10)

    def _command(self) -> list[bytes]:
        word = self.random.choice([b"SHOW_CONFIG", b"SHOW_STATUS", b"REGISTER", b"TOKENS", b"EMBEDDINGS", b"HELLO"])
        return [self.bytes(8), word, self.random.choice([b"1", b"", b"x", b"9" * 21]), b"0"]

    def subscription(self) -> list[bytes]:
        """Frames for the port of results."""
        first = self.random.choice([b"\0", b"\1", b"\1", b"\2", b""])
        topic = self.random.choice([b"", b"a", b"ab", self.bytes(5), self.bytes(400), b"x" * 20_000])
        return [first + topic, *([self.bytes(3)] * self.random.choice([0, 0, 0, 2]))]

    def stream(self) -> bytes:
        """Bytes for a bare TCP connection."""
        body = self.bytes(self.random.choice([1, 64, 500]))
        head = self.random.choice([b"", b"GET / HTTP/1.1\r\n\r\n", GREETING[:10], GREETING, GREETING + _READY])
        tail = self.random.choice([b"", b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", b"\x01\x05hello" * 4])
        return head + tail + body

    def bytes(self, size: int) -> bytes:
        return self.random.randbytes(size)


def fuzz(server: Server, count: int, seed: int = 0) -> dict[str, tuple[int, int]]:
    """Sends ``count`` messages, after a third as many to warm up; returns the memory of each process before and after.

    Raises:
        AssertionError: a process died, a reply was wrong, or the memory of a process grew.
    """
    fuzzer = Fuzzer(seed)
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    started = time.monotonic()
    before: dict[str, int] = {}
    with connect(server) as control_client:
        control_client.encode(texts(300))
        restarts = control_client.server_status["num_restarts"]
        files = open_files(server)
        push = _socket(context, zmq.PUSH, server.port)
        xsub = _socket(context, zmq.XSUB, server.port_out)
        for number in range(-(count // 3), count):
            push.send_multipart(fuzzer.message())
            if number % 20 == 0:
                xsub.send_multipart(fuzzer.subscription())
                while xsub.poll(0):
                    xsub.recv_multipart()
            if number % 200 == 0:
                _bare(fuzzer, server)
            if number % 1000 == 999:
                mine = texts(3, number)
                assert_true(control_client.encode(mine), mine)
                assert control_client.server_status["num_restarts"] == restarts, _last_words(server)
                xsub.close()
                xsub = _socket(context, zmq.XSUB, server.port_out)
            if number == 0:
                before = memory(server)
        _settle(control_client)
        after = memory(server)
        assert control_client.server_status["num_restarts"] == restarts, _last_words(server)
        push.close()
        xsub.close()
        context.term()
        _settle(control_client)
        wait_for_descriptors(server, files, 8)
    for name, size in after.items():
        assert size < before[name] * GROWTH + SLACK, f"{name} grew from {before[name]} to {size} bytes"
    assert "Traceback" not in server.log, server.log[server.log.index("Traceback") :][:3000]
    rate = count / (time.monotonic() - started)
    print(f"{count} messages, {rate:.0f} a second, log {server.log_path.stat().st_size / 1e6:.1f} MB")
    return {name: (before[name], size) for name, size in after.items()}


def _last_words(server: Server) -> str:
    """The log without the warnings of which there are so many."""
    return "\n".join(line for line in server.log.splitlines() if " W:" not in line)[-3000:]


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, port: int) -> zmq.Socket[bytes]:
    sock = context.socket(kind)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, 100)
    sock.setsockopt(zmq.RCVHWM, 10)
    sock.connect(f"tcp://127.0.0.1:{port}")
    return sock


def _bare(fuzzer: Fuzzer, server: Server) -> None:
    for port in (server.port, server.port_out):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.sendall(fuzzer.stream())


def _settle(control_client: BertClient) -> None:
    """Returns when everything that was sent has been dealt with."""
    wait_until(lambda: control_client.server_status["queue"]["requests"] == 0, 300, "what was sent to be dealt with")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"{count} messages, seed {seed}")
    limits = ("-absent_ttl", "10", "-result_memory", str(RESULT_MEMORY), "-max_queue_tokens", str(QUEUE_TOKENS))
    with faulty(*limits, engine="sound") as server:
        for name, (before, after) in fuzz(server, count, seed).items():
            print(f"{name:>12}: {before / 2**20:7.1f} MiB when warm, {after / 2**20:7.1f} MiB at the end")


if __name__ == "__main__":
    main()
