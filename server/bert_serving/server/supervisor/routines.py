"""Groups the routines that a supervisor runs while the server is ready."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..ipc.start_steps import StartSteps
from .child import Child
from .rolling_restart import RollingRestart
from .share_options import reload_shares
from .tokenizers import TokenizerScale


class Routines:
    """The rolling restart of the workers, the file of keys, and the number of tokenizer processes.

    Attributes:
        steps: durations of the steps of the start, before these routines.
    """

    def __init__(self, log: logging.Logger, steps: StartSteps | None = None) -> None:
        self.steps = StartSteps(time.monotonic()) if steps is None else steps
        self.rolling_restart, self.tokenizer_scale = RollingRestart(log), TokenizerScale(log)
        self._log, self._reloads = log, 0

    def reload(self) -> None:
        """Requests a restart of all workers, and reads the file of keys again. Safe in a signal handler."""
        self._reloads += 1
        self.rolling_restart.request()

    def step(
        self,
        children: dict[str, Child],
        is_whole: bool,
        now: float,
        tell: Callable[..., None],
        start: Callable[[Child, float], None],
    ) -> None:
        """Continues the routines; the arguments are those of `RollingRestart.step` and `TokenizerScale.step`."""
        if self._reloads:
            self._reloads = 0
            reload_shares(children, tell, self._log)
        self.rolling_restart.step(children, is_whole, now, tell)
        self.tokenizer_scale.step(children, now, start)
