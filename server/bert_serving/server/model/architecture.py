"""Describes how an encoder differs from BERT, for every family that a model folder may have."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Feature(enum.Enum):
    """Names what an encoder computes beyond BERT. An engine declares the features that it computes."""

    PROJECTION = "projected embeddings"
    SHARED_LAYERS = "shared layers"
    NO_POSITION_TABLE = "embeddings without a table of positions"
    NO_TYPE_TABLE = "embeddings without types of tokens"
    NO_BIASES = "layers without biases"
    PRE_NORM = "normalization before the layers"
    GATED = "gated units"
    SILU = "the activation silu"
    RELATIVE_BIAS = "relative position bias"
    ALIBI = "attention with linear biases (ALiBi)"
    WINDOWS = "sliding windows"
    ROPE = "rotary embeddings (RoPE)"
    DISENTANGLED = "disentangled attention"
    CONVOLUTION = "a convolution"


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embeddings of a layer: component ``i`` of ``d / 2`` turns by ``theta ** (-2 i / d) / factor`` per token.

    ``d`` is the size of a head. Component ``i`` is rotated with component ``i + d / 2``.
    """

    theta: float
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Disentangled:
    """Disentangled attention of DeBERTa: scores between tokens and relative positions.

    Attributes:
        content_to_position: queries meet the keys of positions.
        position_to_content: keys meet the queries of positions.
        buckets: number of buckets of each direction; 0: each distance has its own.
        max_distance: distance of the last bucket.
        shares_projection: positions are projected as the tokens are, otherwise by ``position_key`` and
            ``position_query`` of the layer.
        has_norm: the table of positions is normalized.
    """

    content_to_position: bool
    position_to_content: bool
    buckets: int
    max_distance: int
    shares_projection: bool
    has_norm: bool

    @property
    def span(self) -> int:
        """Half of the rows of the table of positions."""
        return self.buckets or self.max_distance


@dataclass(frozen=True, slots=True)
class Convolution:
    """Convolution over the tokens of a sequence, with zeros beyond its ends.

    The output of the first layer becomes the layer normalization of its sum with the activated convolution of the
    embeddings.
    """

    width: int
    groups: int
    act: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """Describes how an encoder differs from BERT; the defaults are BERT's. Sizes are in ``ModelConfig``.

    Attributes:
        embedding_size: width of the tables of embeddings; 0: ``hidden_size``, and there is no projection.
        norm_before_projection: the embeddings are normalized before their projection, otherwise after it.
        projection_bias: ``embeddings/projection`` has a bias.
        has_positions: the embeddings have a table of positions.
        has_types: the embeddings have a table of types; without it, engines ignore ``type_ids``.
        layer_weights: number of the weights of each layer, ``encoder/layer_N``; empty: each layer has its own.
        pre_norm: attention and feed-forward get normalized inputs, ``attention/LayerNorm`` and
            ``intermediate/LayerNorm``, and their outputs are added to the inputs; otherwise the sums are normalized.
        first_norm: with ``pre_norm``, layer 0 has ``attention/LayerNorm``.
        final_norm: ``encoder/LayerNorm`` normalizes the output of the last layer.
        norm_bias: layer normalizations have ``beta``.
        attention_bias: ``query``, ``key`` and ``value`` have a bias.
        attention_output_bias: ``attention/output/dense`` has a bias.
        intermediate_bias: ``intermediate/dense`` and ``intermediate/up`` have a bias.
        output_bias: ``output/dense`` has a bias.
        gated: the feed-forward multiplies the activated ``intermediate/dense`` by ``intermediate/up``.
        relative_buckets: rows of ``encoder/relative_attention_bias``, added to the scores of all layers; 0: none.
        relative_max_distance: distance of the last bucket.
        alibi: scores fall with the distance, with a slope for each head.
        windows: greatest distance of tokens that attend to each other, for each layer, 0 for any; empty: any.
        rope: rotary embeddings of each layer; empty: none.
        disentangled: attention of DeBERTa.
        convolution: convolution of DeBERTa.
    """

    embedding_size: int = 0
    norm_before_projection: bool = True
    projection_bias: bool = True
    has_positions: bool = True
    has_types: bool = True
    layer_weights: tuple[int, ...] = ()
    pre_norm: bool = False
    first_norm: bool = True
    final_norm: bool = False
    norm_bias: bool = True
    attention_bias: bool = True
    attention_output_bias: bool = True
    intermediate_bias: bool = True
    output_bias: bool = True
    gated: bool = False
    relative_buckets: int = 0
    relative_max_distance: int = 128
    alibi: bool = False
    windows: tuple[int, ...] = ()
    rope: tuple[Rope, ...] = ()
    disentangled: Disentangled | None = None
    convolution: Convolution | None = None

    @property
    def features(self) -> frozenset[Feature]:
        """Features that an engine needs to compute this architecture; none for BERT's."""
        has_biases = (
            self.norm_bias,
            self.attention_bias,
            self.attention_output_bias,
            self.intermediate_bias,
            self.output_bias,
        )
        needed = {
            Feature.PROJECTION: self.embedding_size > 0,
            Feature.SHARED_LAYERS: bool(self.layer_weights),
            Feature.NO_POSITION_TABLE: not self.has_positions,
            Feature.NO_TYPE_TABLE: not self.has_types,
            Feature.NO_BIASES: not all(has_biases),
            Feature.PRE_NORM: self.pre_norm or self.final_norm,
            Feature.GATED: self.gated,
            Feature.RELATIVE_BIAS: self.relative_buckets > 0,
            Feature.ALIBI: self.alibi,
            Feature.WINDOWS: any(self.windows),
            Feature.ROPE: bool(self.rope),
            Feature.DISENTANGLED: self.disentangled is not None,
            Feature.CONVOLUTION: self.convolution is not None,
        }
        return frozenset(feature for feature, is_needed in needed.items() if is_needed)

    def weights_of(self, layer: int) -> int:
        """Returns the number of the weights of a layer, counted from 0."""
        return self.layer_weights[layer] if self.layer_weights else layer

    def window_of(self, layer: int) -> int:
        """Returns the greatest distance of tokens that attend to each other in a layer; 0 for any."""
        return self.windows[layer] if self.windows else 0

    def rope_of(self, layer: int) -> Rope | None:
        """Returns the rotary embeddings of a layer."""
        return self.rope[layer] if self.rope else None


#: BERT's own architecture.
BERT = Architecture()
