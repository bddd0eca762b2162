"""Imports TensorFlow on demand, because it takes seconds, and without its startup messages.

The package ``tensorflow`` imports all of its API, 2,000 modules. A process that needs a few of them imports these
alone, in a fifth of the time.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import IO, Any

from .errors import ReaderMissing

#: Log level "errors only"; also marks that this module set the level.
_OURS = "3"
_redirection = threading.RLock()


def import_tensorflow(purpose: str) -> ModuleType:
    """Imports ``tensorflow``. Set ``TF_CPP_MIN_LOG_LEVEL=0`` to see its messages.

    Args:
        purpose: operation that needs TensorFlow, for the error message.

    Raises:
        ReaderMissing: TensorFlow is not installed.
    """
    try:
        with quiet_stderr(), _without_keras():
            module = importlib.import_module("tensorflow")
            if isinstance(module, _PartialPackage):
                module.complete()
            return module
    except ImportError as error:
        raise _missing(purpose, error) from error


def import_modules(purpose: str, *names: str) -> list[ModuleType]:
    """Imports modules of ``tensorflow.python`` by name, without the API of the package.

    They are not public: the caller catches ``ReaderMissing`` and ``AttributeError`` where it can do without them.

    Raises:
        ReaderMissing: TensorFlow is not installed, or has no such module.
    """
    try:
        with quiet_stderr(), _without_keras():
            if "tensorflow" not in sys.modules and (spec := find_spec("tensorflow")) is not None:
                module = module_from_spec(spec)
                module.__class__ = _PartialPackage
                sys.modules["tensorflow"] = module
                importlib.import_module("tensorflow.python.tf2").enable()  # as the package does first
            return [importlib.import_module(f"tensorflow.python.{name}") for name in names]
    except ImportError as error:
        raise _missing(purpose, error) from error


def _missing(purpose: str, error: ImportError) -> ReaderMissing:
    return ReaderMissing(
        f"{purpose} needs TensorFlow, but its import failed ({error}); pip install tensorflow-cpu, "
        "or tensorflow for a GPU"
    )


class _PartialPackage(ModuleType):
    """The package ``tensorflow`` before its own code runs. The first use of a name of its API runs it."""

    def complete(self) -> None:
        """Imports the API.

        Raises:
            ImportError: a module cannot be imported.
        """
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__spec__.loader.exec_module(self)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python asks for what a module may have
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return getattr(import_tensorflow(f"tensorflow.{name}"), name)


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

    TensorFlow writes some lines before its log level applies, so the redirection is at the file descriptor. Threads
    run such blocks one after the other: each restores what it found.
    """
    with _redirection, _discarded_stderr():
        yield


@contextlib.contextmanager
def _discarded_stderr() -> Iterator[None]:
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
