"""What can be wrong with a model's folder, files or weights; every message says what to do about it."""

from __future__ import annotations


class ModelError(ValueError):
    """The model cannot be served."""


class ModelNotFound(ModelError, FileNotFoundError):
    """A folder or a file of the model is not there."""

    def __str__(self) -> str:  # OSError would format (errno, text); there is only text here
        return str(self.args[0]) if self.args else ""


class ModelUnsupported(ModelError):
    """The model is intact, but of a kind that this server does not compute."""


class ModelConfigError(ModelError):
    """The configuration or the vocabulary is broken, or the two do not fit each other."""


class WeightError(ModelError):
    """A weight is missing, has the wrong shape, or cannot be read."""


class ReaderMissing(ModelError, ImportError):
    """The library that reads this format of weights is not installed."""
