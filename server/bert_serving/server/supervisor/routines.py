"""Groups the routines that a supervisor runs while the server is ready."""

from __future__ import annotations

import logging

from .rolling_restart import RollingRestart
from .tokenizers import TokenizerScale


class Routines:
    """The rolling restart of the workers, and the number of tokenizer processes."""

    def __init__(self, log: logging.Logger) -> None:
        self.rolling_restart, self.tokenizer_scale = RollingRestart(log), TokenizerScale(log)
