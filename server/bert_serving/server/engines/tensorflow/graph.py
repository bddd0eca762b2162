"""Builds the BERT encoder as a TensorFlow graph over packed tokens.

Dense layers compute packed tokens, ``[t, hidden]``. Only attention uses the padded grid ``[n, heads, T, head size]``:
one gather unpacks the tokens and one packs them again. The graph has no layer above the highest pooling layer. If the
pooling strategy needs one token of a sequence, the highest layer computes only that token. The encoder is that of
Devlin et al., https://arxiv.org/abs/1810.04805.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..base import EngineSpec

Tensor = Any
Weight = Callable[[str], Tensor]

#: Inputs of the graph, fields of ``Layout``: name to (dtype, rank).
FEEDS: dict[str, tuple[str, int]] = {
    "input_ids": ("int32", 1),
    "type_ids": ("int32", 1),
    "positions": ("int32", 1),
    "unpack": ("int32", 2),
    "pack": ("int32", 1),
    "bias": ("float32", 2),
    "mask": ("float32", 2),
    "first": ("int32", 1),
    "last": ("int32", 1),
}

#: The input that selects the token of a strategy.
_ONE_TOKEN = {
    "CLS_TOKEN": "first",
    "FIRST_TOKEN": "first",
    "SEP_TOKEN": "last",
    "LAST_TOKEN": "last",
    "CLS_POOLED": "first",
}


@dataclass(frozen=True, slots=True)
class Heads:
    """Indexes that convert packed tokens to attention heads and back, the same for every layer.

    One gather of whole heads replaces the transposes that a reshape needs.

    Attributes:
        unpack: rows of ``[t * 3 * heads, head size]`` for query, key and value, int32 ``[3, n, heads, T]``.
        pack: rows of ``[n * heads * T, head size]`` for the heads of each token, int32 ``[t, heads]``.
        bias: added to the scores, float32 ``[n, 1, 1, T]``.
    """

    unpack: Tensor
    pack: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class GraphBuilder:
    """Adds an encoder and pooling to the current graph.

    Attributes:
        tf: the module ``tensorflow``, or its names of ``graph_api``.
        spec: what to build.
        weight: returns the tensor for a name of ``saved_graph.fuse_weights``.
        feeds: the tensors of ``FEEDS`` by name.
        fused_norm: see ``layer_norm``.
    """

    tf: Any
    spec: EngineSpec
    weight: Weight
    feeds: dict[str, Tensor]
    fused_norm: bool = False

    def build(self) -> tuple[Tensor, Tensor]:
        """Returns vectors, and the vectors of tokens before pooling.

        Vectors are ``[n, d]``, or ``[t, d]`` with pooling NONE; dtype ``spec.output_dtype``. Those of tokens are
        float32 ``[t, d]``. With a strategy of one token they are those that the input ``first`` or ``last`` selects.
        """
        tf = self.tf
        wanted = self.spec.layers
        feed = _ONE_TOKEN.get(self.spec.pooling_strategy)
        select = self.feeds[feed] if feed else None
        hidden, heads = self.embeddings(), self.heads()
        outputs = {}
        for layer in range(max(wanted) + 1):
            is_last = layer == max(wanted)
            hidden = self.encoder_layer(f"encoder/layer_{layer}", hidden, heads, select if is_last else None)
            if layer in wanted:
                outputs[layer] = hidden if select is None or is_last else tf.gather(hidden, select)
        tokens = tf.concat([outputs[layer] for layer in wanted], -1) if len(wanted) > 1 else outputs[wanted[0]]
        return tf.cast(self.pool(tokens), self.spec.output_dtype), tokens

    def embeddings(self) -> Tensor:
        """Returns the sum of word, type and position embeddings, normalized: float32 ``[t, hidden]``."""
        gather = self.tf.gather
        total = gather(self.weight("embeddings/word_embeddings"), self.feeds["input_ids"])
        total += gather(self.weight("embeddings/token_type_embeddings"), self.feeds["type_ids"])
        if self.spec.use_position_embeddings:
            total += gather(self.weight("embeddings/position_embeddings"), self.feeds["positions"])
        return self.layer_norm("embeddings/LayerNorm", total)

    def heads(self) -> Heads:
        """Returns the indexes and the bias of attention for every layer."""
        tf, heads = self.tf, self.spec.model.num_attention_heads
        unpack, pack = self.feeds["unpack"], self.feeds["pack"]
        longest = tf.shape(unpack)[1]
        head = tf.range(heads)
        offset = tf.range(3)[:, None, None, None] * heads + head[None, None, :, None]
        return Heads(
            unpack=unpack[None, :, None, :] * (3 * heads) + offset,
            pack=(pack // longest * (heads * longest) + pack % longest)[:, None] + head[None, :] * longest,
            bias=self.feeds["bias"][:, None, None, :],
        )

    def encoder_layer(self, scope: str, hidden: Tensor, heads: Heads, select: Tensor) -> Tensor:
        """Computes one transformer layer, float32 ``[t, hidden]`` to the same.

        Args:
            select: indexes of the tokens to compute, int32 ``[n]``, or None for all.
        """
        context = self.attention(f"{scope}/attention/self", hidden, heads, select)
        if select is not None:
            hidden = self.tf.gather(hidden, select)
        attended = self.to_float32(self.dense(f"{scope}/attention/output/dense", context))
        hidden = self.layer_norm(f"{scope}/attention/output/LayerNorm", attended + hidden)
        inner = self.activation(self.dense(f"{scope}/intermediate/dense", hidden))
        output = self.to_float32(self.dense(f"{scope}/output/dense", inner))
        return self.layer_norm(f"{scope}/output/LayerNorm", output + hidden)

    def attention(self, scope: str, hidden: Tensor, heads: Heads, select: Tensor) -> Tensor:
        """Computes self-attention, ``[t, hidden]`` float32 to ``[t, hidden]`` in the dtype of the kernels.

        Scores and softmax are float32. The weights of the query contain the scale of the scores.
        """
        tf, model = self.tf, self.spec.model
        rows = [-1, model.head_size]
        qkv = tf.reshape(self.dense(f"{scope}/qkv", hidden), rows)
        query, key, value = tf.unstack(tf.gather(qkv, heads.unpack), num=3)
        scores = self.to_float32(tf.matmul(query, key, transpose_b=True)) + heads.bias
        context = tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)
        pack = heads.pack if select is None else tf.gather(heads.pack, select)
        return tf.reshape(tf.gather(tf.reshape(context, rows), pack), [-1, model.hidden_size])

    def dense(self, scope: str, inputs: Tensor) -> Tensor:
        """Returns ``inputs @ kernel + bias`` in the dtype of the kernel."""
        tf, kernel = self.tf, self.weight(f"{scope}/kernel")
        return tf.nn.bias_add(tf.matmul(tf.cast(inputs, kernel.dtype), kernel), self.weight(f"{scope}/bias"))

    def layer_norm(self, scope: str, inputs: Tensor) -> Tensor:
        """Normalizes each row of ``inputs`` (float32) to mean 0 and variance 1, then scale and shift it.

        ``fused_norm`` writes it as a batch normalization with a channel for each row. The optimizer of TensorFlow knows
        this
        form from Keras and replaces it by one oneDNN kernel, which takes a quarter of the time. Without oneDNN the CPU
        does not
        support it, and a GPU computes it slowly.
        """
        tf, eps = self.tf, self.spec.model.layer_norm_eps
        beta, gamma = self.weight(f"{scope}/beta"), self.weight(f"{scope}/gamma")
        if not self.fused_norm:
            mean = tf.reduce_mean(inputs, [-1], keepdims=True)
            variance = tf.reduce_mean(tf.math.squared_difference(inputs, mean), [-1], keepdims=True)
            factor = tf.math.rsqrt(variance + eps) * gamma
            return inputs * factor + (beta - mean * factor)
        shape, empty = tf.shape(inputs), tf.constant([], tf.float32)
        normal = tf.raw_ops.FusedBatchNormV3(
            x=tf.reshape(inputs, [1, shape[0], shape[1], 1]),
            scale=tf.fill(shape[:1], 1.0),
            offset=tf.fill(shape[:1], 0.0),
            mean=empty,
            variance=empty,
            epsilon=eps,
            data_format="NCHW",
            is_training=True,
        )
        return tf.reshape(normal.y, shape) * gamma + beta

    def activation(self, inputs: Tensor) -> Tensor:
        """Returns the activation of the model, see ``model.config_values.HIDDEN_ACTS``."""
        name = self.spec.model.hidden_act
        if name in ("gelu", "gelu_new"):
            return self.tf.nn.gelu(inputs, approximate=name == "gelu_new")
        return {"relu": self.tf.nn.relu, "tanh": self.tf.nn.tanh}[name](inputs)

    def to_float32(self, inputs: Tensor) -> Tensor:
        """Returns ``inputs`` as float32."""
        return self.tf.cast(inputs, self.tf.float32)

    def pool(self, tokens: Tensor) -> Tensor:
        """Pools float32 ``tokens`` to ``[t, d]``, or to ``[n, d]`` with one selected token per sequence.

        A sequence whose mask is all 0 has mean and maximum 0.
        """
        tf, strategy = self.tf, self.spec.pooling_strategy
        if strategy == "CLS_POOLED":
            return tf.tanh(self.dense("pooler/dense", tokens))
        if strategy in _ONE_TOKEN:
            return tokens
        if strategy == "NONE":
            return tokens * tf.gather(tf.reshape(self.feeds["mask"], [-1]), self.feeds["pack"])[:, None]
        padded = tf.gather(tokens, self.feeds["unpack"])
        mask = self.feeds["mask"][:, :, None]
        count = tf.reduce_sum(mask, 1)
        pooled = []
        if strategy in ("REDUCE_MEAN", "REDUCE_MEAN_MAX"):
            pooled.append(tf.reduce_sum(padded * mask, 1) / (count + 1e-10))
        if strategy in ("REDUCE_MAX", "REDUCE_MEAN_MAX"):
            highest = tf.reduce_max(padded - (1.0 - mask) * 1e30, 1)
            pooled.append(tf.where(count > 0, highest, tf.zeros_like(highest)))
        return tf.concat(pooled, -1)
