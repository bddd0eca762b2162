"""Groups the routines that a supervisor runs while the server is ready."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

from ..ipc import commands
from ..ipc.start_steps import StartSteps
from .child import Child
from .early_start import EarlyProcesses
from .idle_unload import IdleUnload
from .rolling_restart import RollingRestart
from .share_options import reload_shares
from .tokenizers import TokenizerScale


class Routines:
    """The rolling restart of the workers, unloaded ones, the file of keys, and the number of tokenizer processes.

    Attributes:
        steps: durations of the steps of the start, before these routines.
        early: processes that wait for the prepared model.
    """

    def __init__(self, log: logging.Logger, steps: StartSteps | None = None) -> None:
        self.steps = StartSteps(time.monotonic()) if steps is None else steps
        self.rolling_restart, self.tokenizer_scale = RollingRestart(log), TokenizerScale(log)
        self.idle_unload, self.early = IdleUnload(log), EarlyProcesses()
        self._log, self._reloads = log, 0

    def reload(self) -> None:
        """Requests a restart of all workers, and reads the file of keys again. Safe in a signal handler."""
        self._reloads += 1
        self.rolling_restart.request()

    def on_message(
        self, sender: Child, kind: bytes, frames: list[bytes], children: dict[str, Child], tell: Callable[..., None]
    ) -> None:
        """Takes part in a message of a child process, after the supervisor.

        Args:
            frames: the message; the third one has its content.
            tell: sends a command to the process with a name.
        """
        self.early.step(children)
        if kind == commands.READY:
            self.idle_unload.on_ready(sender, tell)
        elif kind == commands.MODELS_UNLOADED:
            unloaded = {int(number): names for number, names in json.loads(frames[2]).items()}
            self.idle_unload.apply(unloaded, children, tell)
        elif kind == commands.WORKER_DRAINED:
            worker = next((each for each in children.values() if each.identity == frames[2] and each.is_draining), None)
            if worker is not None:
                tell(worker.name, commands.STOP)

    def is_up(self, child: Child) -> bool:
        """Returns whether a process is ready, or is not running because its model is unloaded."""
        return child.is_up(time.monotonic()) or self.idle_unload.excuses(child.name)

    def step(
        self,
        children: dict[str, Child],
        is_whole: bool,
        now: float,
        tell: Callable[..., None],
        start: Callable[[Child, float], None],
    ) -> None:
        """Continues the routines; the arguments are those of `RollingRestart.step` and `TokenizerScale.step`."""
        # A process that is starting might read the command too late, or not at all.
        if self._reloads and all(
            children[name].is_ready for name in ("ventilator", "http", "jobs") if name in children
        ):
            self._reloads = 0
            reload_shares(children, tell, self._log)
        self.rolling_restart.step(children, is_whole, now, tell, self.idle_unload.excuses)
        self.tokenizer_scale.step(children, now, start)
