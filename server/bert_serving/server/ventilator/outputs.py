"""Applies the option ``outputs`` of a request to the model that is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bert_serving.client.protocol import OUTPUTS

from ..config.server_config import ServerConfig
from ..errors import InvalidRequest
from ..model.token_heads import MULTI_BIT, NO_DENSE_BIT, QUERY_BIT, SPARSE_BIT, TextFrame


class OutputsResolver:
    """Checks which kinds of vectors a request may ask for.

    Args:
        of_models: kinds of vectors of each model of the server by its name; empty for the only model.

    Attributes:
        served: the kinds that the server has.
        has_dense: whether requests without the option get dense vectors, or scores.
    """

    def __init__(self, config: ServerConfig, of_models: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.served, self._of_models = config.outputs, of_models or {}
        self._spaces, self._is_deterministic = config.output_spaces, config.deterministic
        multi = None if config.pipeline is None else config.pipeline.multi
        self._has_queries = multi is not None and "dense" not in config.outputs
        self._frames, self._prompt_name = {} if multi is None else multi.frames, config.prompt_name
        self._task, self.has_dense = config.task, "dense" in config.outputs or config.task != "embed"

    def resolve(self, outputs: Sequence[str] | None) -> tuple[str, ...]:
        """Returns the outputs of a request; empty for dense vectors alone.

        Raises:
            InvalidRequest: the server lacks one of them, or the value is not valid.
        """
        if outputs is None:
            if not self.has_dense:
                raise InvalidRequest(
                    f"this server has no dense vectors, because the model folder describes none; it has "
                    f"{', '.join(self.served)}: set outputs to {list(self.served)}{self._other_models('dense')}"
                )
            return ()
        if not outputs or len(set(outputs)) < len(outputs):
            raise InvalidRequest(
                f"outputs is {str(list(outputs))[:100]}: name each kind of vectors once, of {', '.join(self.served)}"
            )
        for name in outputs:
            if name not in OUTPUTS:
                raise InvalidRequest(f"outputs has {name[:100]!r}: set some of {', '.join(OUTPUTS)}")
            if name not in self.served:
                raise InvalidRequest(self._missing(name))
        return () if tuple(outputs) == ("dense",) else tuple(outputs)

    def check(
        self,
        outputs: tuple[str, ...],
        long: str,
        embedding_type: str | None,
        normalize: bool | None,
        dimensions: int | None,
    ) -> None:
        """Checks that the other options of a request fit to its outputs.

        Raises:
            InvalidRequest: they do not.
        """
        others = ", ".join(name for name in outputs if name != "dense")
        if not others:
            return
        if long:
            raise InvalidRequest(
                f"long is {long!r}, which is for dense vectors, but outputs has {others}: set long to cut"
            )
        if self._is_deterministic:
            raise InvalidRequest(
                f"outputs has {others}, which -deterministic does not cover: set outputs to ['dense'], or start the "
                "server without -deterministic"
            )
        of_dense = {"embedding_type": embedding_type, "normalize": normalize, "dimensions": dimensions}
        given = next((name for name, value in of_dense.items() if value is not None), None)
        if given is not None and "dense" not in outputs:
            raise InvalidRequest(f"{given} is for dense vectors, but outputs has {others} only: omit {given}")

    def spaces(self, outputs: tuple[str, ...], dense: list[str]) -> list[str]:
        """Returns the spaces of the vectors of a request, that of the first output first.

        Args:
            dense: spaces of the dense vectors.
        """
        return [space for name in outputs for space in (dense if name == "dense" else [self._spaces[name]])]

    def frame_of(
        self, outputs: tuple[str, ...], prompt_name: str | None, prompt: str | None
    ) -> tuple[int, TextFrame | None]:
        """Returns the bits of a request in the code of its options, and the frame of its texts.

        The name of the prompt, of the request or of the server, tells queries and documents.
        """
        bits = output_bits(outputs)
        if not self._has_queries or not outputs:
            return bits, None
        name = prompt_name if prompt_name is not None or prompt is not None else self._prompt_name
        return bits | (QUERY_BIT if name == "query" else 0), self._frames.get(name or "")

    def _missing(self, name: str) -> str:
        if self._task != "embed":
            return (
                f"outputs is for vectors, but this server gives scores (-task {self._task}): omit outputs"
                f"{self._other_models(name)}"
            )
        remedy = self._other_models(name) or ", or use a server of another model"
        return (
            f"outputs has {name!r}, but the model folder of this server has no such vectors; it has "
            f"{', '.join(self.served)}: set outputs to {list(self.served)}{remedy}"
        )

    def _other_models(self, output: str) -> str:
        """Returns which models of the server have an output, as the end of an error."""
        names = [name for name, outputs in self._of_models.items() if output in outputs]
        return f", or model to {' or '.join(names)}, which has {output} vectors" if names else ""


def output_bits(outputs: Sequence[str]) -> int:
    """Returns the bits of outputs in the code of options."""
    if not outputs:
        return 0
    bits = 0 if "dense" in outputs else NO_DENSE_BIT
    return bits | (SPARSE_BIT if "sparse" in outputs else 0) | (MULTI_BIT if "multi" in outputs else 0)
