"""Names the options of a machine that joins a server, and tells in its messages which ones are those of the front."""

from __future__ import annotations

import logging
import re

from .options import OPTIONS

#: Options of ``bert-serving-join``.
OWN_OPTIONS = (
    "model_dir", "tuned_model_dir", "base", "graph_tmp_dir", "num_worker", "device_map", "cpu", "engine", "threads",
    "gpu_memory_fraction", "worker_timeout", "heartbeat_timeout", "start_timeout", "drain_timeout", "verbose",
    "log_level", "log_format",
)  # fmt: skip

_FLAG = re.compile(r"(?<![\w/.-])-[a-z]\w*")
#: Flags of the front that a machine does not have. It has ``-join_keys`` with a meaning of its own.
_OF_FRONT = {
    flag
    for name, option in OPTIONS.items()
    if name not in {*OWN_OPTIONS, "model", "join_keys"}
    for flag in option.flags
    if not flag.startswith("--")
}


def name_front_options(message: str) -> str:
    """Returns a message with the remark which of its flags are options of the front, unless it names the front."""
    flags = [flag for flag in dict.fromkeys(_FLAG.findall(message)) if flag in _OF_FRONT]
    if not flags or "the front" in message:
        return message
    are = "is an option" if len(flags) == 1 else "are options"
    return f"{message} ({', '.join(flags)} {are} of the front)"


class NamingFrontOptions(logging.Filter):
    """Adds the remark to the log lines of a machine: code that servers and machines share names flags of servers."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        named = name_front_options(message)
        if named != message:
            record.msg, record.args = named, ()
        return True
