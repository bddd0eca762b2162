"""Imports TensorFlow late and quietly: it takes seconds, and its start-up lines help nobody who serves a model."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType

from .errors import ReaderMissing

#: Errors only; also the sign that it was this module that set the level.
_OURS = "3"


def import_tensorflow(purpose: str) -> ModuleType:
    """The ``tensorflow`` module. Set ``TF_CPP_MIN_LOG_LEVEL=0`` to see what it logs.

    Args:
        purpose: what needs it, for the message.

    Raises:
        ReaderMissing: it is not installed.
    """
    try:
        with quiet_stderr():
            import tensorflow
    except ImportError as error:
        raise ReaderMissing(
            f"{purpose} needs TensorFlow, which cannot be imported ({error}); pip install tensorflow-cpu, "
            "or tensorflow for a GPU"
        ) from error
    module: ModuleType = tensorflow
    return module


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keeps what native code writes to stderr to itself, unless the block fails or the user wants to see it.

    TensorFlow writes some lines before its own log level counts, so they can only be caught at the file descriptor.
    Where ``TF_CPP_MIN_LOG_LEVEL`` is set by the user nothing is kept back.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", _OURS) != _OURS:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = _OURS
    sys.stderr.flush()
    with tempfile.TemporaryFile() as kept:
        real = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(real, kept.read())
            raise
        finally:
            os.dup2(real, 2)
            os.close(real)
