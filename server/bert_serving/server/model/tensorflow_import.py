"""Imports TensorFlow on demand, because it takes seconds, and without its startup messages."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import IO

from .errors import ReaderMissing

#: Log level "errors only"; also marks that this module set the level.
_OURS = "3"


def import_tensorflow(purpose: str) -> ModuleType:
    """Imports ``tensorflow``. Set ``TF_CPP_MIN_LOG_LEVEL=0`` to see its messages.

    Args:
        purpose: operation that needs TensorFlow, for the error message.

    Raises:
        ReaderMissing: TensorFlow is not installed.
    """
    try:
        with quiet_stderr(), _without_keras():
            import tensorflow
    except ImportError as error:
        raise ReaderMissing(
            f"{purpose} needs TensorFlow, but its import failed ({error}); pip install tensorflow-cpu, "
            "or tensorflow for a GPU"
        ) from error
    module: ModuleType = tensorflow
    return module


class _KerasHidden:
    """Hides the modules of Keras from the imports of one thread; see ``importlib.abc.MetaPathFinder``."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith(("keras.", "tf_keras.")) and threading.get_ident() == self._thread:
            raise ModuleNotFoundError(f"{name} is imported at its first use", name=name)


@contextlib.contextmanager
def _without_keras() -> Iterator[None]:
    """Leaves out Keras and all that it imports, half of the time that the import of TensorFlow takes.

    TensorFlow passes over a missing Keras, and imports it at the first use of ``tensorflow.keras``.
    """
    finder = _KerasHidden()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _open_temporary() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # no folder for temporary files is writable: the output of a failed block is lost
        return open(os.devnull, "w+b")


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Discards output of native code to stderr, unless the block fails or the user set ``TF_CPP_MIN_LOG_LEVEL``.

    TensorFlow writes some lines before its log level applies, so the redirection is at the file descriptor.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", _OURS) != _OURS:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = _OURS
    sys.stderr.flush()
    with _open_temporary() as kept:
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
