"""Pooling strategies, with the names and numbers of bert-as-service 1.10.0.

The graph or encoder of each engine computes the strategies of 1.10.0. ``worker/token_pooling.py`` computes the others.
"""

from __future__ import annotations

from enum import IntEnum

from bert_serving.client.command_parser import did_you_mean


class PoolingStrategy(IntEnum):
    """Converts token vectors to a sentence vector. ``D`` is the hidden size times the number of pooled layers.

    ================  ============================================  ============
    name              vector of a sentence                          dimensions
    ================  ============================================  ============
    NONE              none: one vector per token                    tokens x D
    REDUCE_MEAN       mean over the tokens, [CLS] and [SEP] too     D
    REDUCE_MAX        maximum over the tokens                       D
    REDUCE_MEAN_MAX   mean, then maximum                            2 D
    CLS_TOKEN         first token; FIRST_TOKEN is the same          D
    SEP_TOKEN         last token; LAST_TOKEN is the same            D
    CLS_POOLED        tanh(W h + b) of the last layer's first       hidden size
                      token, the model's own pooler
    WEIGHTED_MEAN     mean over the tokens, weighted by position    D
    MEAN_SQRT_LEN     sum over the tokens by the root of their      D
                      number
    CONCATENATED      several of these, in the order of the         several D
                      model folder; not an option
    SPLADE            none: weights of the tokens of the            none
                      vocabulary; not an option
    COLBERT           none: a vector for each token, of late        none
                      interaction models; not an option
    ================  ============================================  ============
    """

    NONE = 0
    REDUCE_MAX = 1
    REDUCE_MEAN = 2
    REDUCE_MEAN_MAX = 3
    CLS_TOKEN = 4
    FIRST_TOKEN = 4
    SEP_TOKEN = 5
    LAST_TOKEN = 5
    CLS_POOLED = 6
    WEIGHTED_MEAN = 9
    MEAN_SQRT_LEN = 10
    CONCATENATED = 11
    SPLADE = 12
    COLBERT = 13

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def selectable() -> dict[str, PoolingStrategy]:
        """Strategies that an option can name, with their aliases; a model folder alone leads to the others."""
        of_folders = ("CONCATENATED", "SPLADE", "COLBERT")
        return {name: member for name, member in PoolingStrategy.__members__.items() if name not in of_folders}

    @staticmethod
    def from_string(name: str) -> PoolingStrategy:
        """Parses the name or the number of a strategy.

        Raises:
            ValueError: there is no such strategy; the message lists the names.
        """
        key = name.strip().upper()
        known = PoolingStrategy.selectable()
        if key in known:
            return known[key]
        if key.isdigit() and int(key) in set(known.values()):
            return PoolingStrategy(int(key))
        raise ValueError(
            f"unknown pooling strategy {name!r}; choose one of {', '.join(known)}{did_you_mean(name, known)}"
        )


#: Pooling modes of sentence-transformers that the worker computes from token vectors, by strategy.
MODE_OF = {PoolingStrategy.WEIGHTED_MEAN: "weightedmean", PoolingStrategy.MEAN_SQRT_LEN: "mean_sqrt_len_tokens"}


def worker_modes(strategy: PoolingStrategy) -> tuple[str, ...]:
    """Returns the modes of a strategy that the engine does not compute; none if it does."""
    return (MODE_OF[strategy],) if strategy in MODE_OF else ()


def dimensions(strategy: PoolingStrategy, hidden_size: int, num_layers: int) -> int:
    """Returns the dimensions of one vector, of a sentence or of a token."""
    if strategy == PoolingStrategy.CLS_POOLED:
        return hidden_size
    return hidden_size * num_layers * (2 if strategy == PoolingStrategy.REDUCE_MEAN_MAX else 1)
