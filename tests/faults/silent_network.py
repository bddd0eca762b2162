"""A network that swallows packets without a sign, made of network namespaces; on Linux, as root only."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator


class SilentNetwork:
    """A path from this process through a router to another namespace.

    Attributes:
        near: address of this process for the other namespace.
        address: address of the other namespace.
        prefix: start of a command line that runs a program there.
    """

    def __init__(self) -> None:
        number = os.getpid() % 2**14
        net = f"198.{18 + number // 8192}.{number // 32 % 256}"  # of 198.18.0.0/15, which is reserved for tests
        first = number % 32 * 8
        self.near, self._router_near = f"{net}.{first + 1}", f"{net}.{first + 2}"
        self._router_far, self.address = f"{net}.{first + 5}", f"{net}.{first + 6}"
        self._name = f"bs{number}"
        self._router, self._far = f"{self._name}-router", f"{self._name}-far"
        self.prefix = ["ip", "netns", "exec", self._far]

    def open(self) -> None:
        """
        Raises:
            OSError: this process may not create it.
        """
        if shutil.which("ip") is None:
            raise OSError("the program ip is not installed")
        _ip("netns", "add", self._router)
        _ip("netns", "add", self._far)
        _ip("link", "add", self._name, "type", "veth", "peer", "name", "near0", "netns", self._router)
        _ip("link", "add", "far0", "netns", self._router, "type", "veth", "peer", "name", "eth0", "netns", self._far)
        for namespace, device, address in (
            ("", self._name, self.near),
            (self._router, "near0", self._router_near),
            (self._router, "far0", self._router_far),
            (self._far, "eth0", self.address),
        ):
            where = ["-n", namespace] if namespace else []
            _ip(*where, "addr", "add", f"{address}/30", "dev", device)
            _ip(*where, "link", "set", "dev", device, "up")
        _ip("-n", self._far, "link", "set", "dev", "lo", "up")
        _ip("route", "add", f"{self.address}/32", "via", self._router_near)
        _ip("-n", self._far, "route", "add", "default", "via", self._router_far)
        self.carry()

    def carry(self) -> None:
        """Forwards packets."""
        self._forward(True)

    def swallow(self) -> None:
        """Drops all packets of both directions."""
        self._forward(False)

    def _forward(self, is_on: bool) -> None:
        command = f"echo {int(is_on)} > /proc/sys/net/ipv4/ip_forward"
        _run("ip", "netns", "exec", self._router, "sh", "-c", command)

    def close(self) -> None:
        for namespace in (self._router, self._far):
            with contextlib.suppress(OSError):
                _ip("netns", "del", namespace)  # its devices and their routes end with it


def _ip(*args: str) -> None:
    _run("ip", *args)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@contextlib.contextmanager
def silent_network() -> Iterator[SilentNetwork]:
    """
    Raises:
        OSError: this process may not create it.
    """
    network = SilentNetwork()
    try:
        network.open()
        yield network
    finally:
        if shutil.which("ip") is not None:
            network.close()
