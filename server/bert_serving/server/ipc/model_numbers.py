"""Numbers of batches and jobs that tell the model: their rest by the number of models.

A number has the epoch of the ventilator above 40 bits. With one model the rest is always 0, so numbers are consecutive.
"""

from __future__ import annotations

_BELOW_EPOCH = (1 << 40) - 1


def model_of(number: int, num_models: int) -> int:
    """Returns the index of the model of a batch or job."""
    return (number & _BELOW_EPOCH) % num_models


class BatchNumbers:
    """Numbers the batches of all models. A later batch has a higher number, whatever its model is.

    Args:
        first: lower bound; its low 40 bits are 0 if there are several models.

    Attributes:
        next: lower bound of the next number.
    """

    def __init__(self, first: int, num_models: int = 1) -> None:
        self.next, self.num_models = first, num_models

    def take(self, model: int) -> int:
        """Returns a new number for a batch of a model."""
        number = self.next + model
        self.next += self.num_models
        return number
