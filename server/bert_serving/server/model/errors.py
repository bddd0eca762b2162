"""Errors in the folder, the files or the weights of a model. Every message names a remedy."""

from __future__ import annotations


class ModelError(ValueError):
    """The model cannot be served."""


class ModelNotFound(ModelError, FileNotFoundError):
    """A folder or a file of the model does not exist."""

    def __str__(self) -> str:  # OSError formats (errno, text); this error has only text
        return str(self.args[0]) if self.args else ""


class ModelUnsupported(ModelError):
    """The server does not support this type of model."""


class ModelConfigError(ModelError):
    """The configuration or the vocabulary is invalid, or they contradict each other."""


class WeightError(ModelError):
    """A weight is missing, has the wrong shape, or is unreadable."""


class ReaderMissing(ModelError, ImportError):
    """The library that reads this format of weights is not installed."""
