"""Keeps the folder of the internal sockets: touches it, and repairs it after another program removed it or its files.

Programs that clean ``/tmp`` remove old files. Connections survive this, but a process that
starts later finds no socket.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable

import zmq

from ..ipc import commands
from ..ipc.endpoints import Addresses
from .child import Child

#: Seconds between two checks, and the age in seconds at which a file is touched.
_CHECK_SECONDS, _TOUCH_SECONDS = 1.0, 3600.0


class SocketFolder:
    """The folder and the socket files in it.

    Args:
        control: the supervisor's own socket.
    """

    def __init__(self, addresses: Addresses, control: zmq.Socket[bytes], log: logging.Logger) -> None:
        self._addresses, self._control, self._log = addresses, control, log
        self._next_check = 0.0
        self._problem = ""

    def check(self, children: dict[str, Child], now: float, tell: Callable[..., None]) -> None:
        """Creates a missing folder again and has the owners of missing sockets bind them again.

        Args:
            tell: sends a command to the process with a name.
        """
        if not self._addresses.folder or now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        try:
            self._require_folder()
            if self._is_missing(self._addresses.control):
                self._control.bind(self._addresses.control)
        except (OSError, zmq.ZMQError) as error:
            problem = (
                f"the folder of the internal sockets {self._addresses.folder} was removed and cannot be created again "
                f"({error}): a process that ends cannot be replaced until the cause is removed"
            )
            if problem != self._problem:
                self._log.error(problem)
            self._problem = problem
            return
        self._problem = ""
        sockets = {
            "ventilator": [self._addresses.dispatch],
            "sink": [self._addresses.results, self._addresses.channel],
        }
        for name, owned in sockets.items():
            if name in children and children[name].is_ready and any(map(self._is_missing, owned)):
                tell(name, commands.BIND_AGAIN)
        self._touch()

    def _require_folder(self) -> None:
        folder = self._addresses.folder
        try:
            found = os.lstat(folder)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            os.mkdir(folder, mode=0o700)
            self._log.warning("the folder of the internal sockets %s was removed; it is created again", folder)
            return
        is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077
        if not is_private:
            raise PermissionError("another user owns it or may enter it")

    @staticmethod
    def _path(address: str) -> str:
        return address.removeprefix("ipc://")

    def _is_missing(self, address: str) -> bool:
        return not os.path.lexists(self._path(address))

    def _touch(self) -> None:
        """Sets the times of old files, so that programs that remove old files spare them."""
        addresses = self._addresses
        for path in (addresses.folder, *map(self._path, addresses.sockets())):
            try:
                if time.time() - os.lstat(path).st_mtime > _TOUCH_SECONDS:
                    os.utime(path)
            except OSError:
                continue  # not bound yet
