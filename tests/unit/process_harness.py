"""Runs one process of the server in a thread; the test replaces the other processes."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import asdict
from typing import Any

import zmq

from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.endpoints import Addresses
from bert_serving.server.ipc.process_context import ProcessContext
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.log import get_logger
from servers import TINY, free_ports

#: Milliseconds until a receive or send fails.
LIMIT = 30_000


def tiny_config(*args: str) -> ServerConfig:
    """Returns the configuration of a server for the tiny model on free ports."""
    port, port_out = free_ports()
    argv = ["-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), *args]
    return ServerConfig.from_args(get_args_parser().parse_args(argv))


class ProcessHarness:
    """Context of a process, and the supervisor's control socket. Call ``start`` before ``close``."""

    def __init__(self, name: str, *args: str) -> None:
        self.name = name
        self.config = tiny_config(*args)
        self.addresses = Addresses.new()
        options = {"drift": None, "access": {"folder": None}, "model": asdict(self.config.read_model())}
        self.process = ProcessContext(name, self.config, self.addresses, options, get_logger(name))
        self.context = zmq.Context()
        self.context.setsockopt(zmq.RCVTIMEO, LIMIT)
        self.context.setsockopt(zmq.SNDTIMEO, LIMIT)
        self.control = make_socket(self.context, zmq.ROUTER)
        self.control.bind(self.addresses.control)

    def start(self, role: Any) -> None:
        self.thread = threading.Thread(target=role.run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        # A ROUTER socket cannot send to a peer before the peer has sent a message.
        name = self.name.encode()
        is_here, deadline = False, time.monotonic() + LIMIT / 1000
        while not is_here and self.thread.is_alive() and time.monotonic() < deadline:
            is_here = bool(self.control.poll(100)) and self.control.recv_multipart()[0] == name
        if is_here:
            self.control.send_multipart([name, commands.STOP])
        self.thread.join(LIMIT / 1000)
        assert not self.thread.is_alive(), f"the {self.name} does not stop"  # and sockets in use must not be closed
        self.context.destroy(linger=0)
        self.process.context.destroy(linger=0)
        shutil.rmtree(self.addresses.folder)
