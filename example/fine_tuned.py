"""Fine-tunes BERT, saves a checkpoint and serves it, in a minute on a CPU.

A pre-trained model places "The soup was wonderful" next to "The soup was awful", since both are about soup. Here it
learns opinions from sixty reviews. The weights are saved as by Google's run_classifier.py, and served twice with
-tuned_model_dir and -ckpt_name: as vectors, and as a classifier with -task classify. Starts its own servers.
Needs TensorFlow:  pip install tensorflow
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from common import needed, read_pairs, serving

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.weights import load_weights
from bert_serving.server.tokenization.factory import load_tokenizer

with needed("pip install tensorflow"):
    import tensorflow as tf

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-model_dir", default=default_model_dir(), help="the pre-trained model (default: %(default)s)")
parser.add_argument("-output_dir", default="tuned", help="folder for the checkpoint (default: %(default)s)")
parser.add_argument("-epochs", type=int, default=3, help="passes over the reviews (default: %(default)s)")
parser.add_argument("-learning_rate", type=float, default=2e-4, help="(default: %(default)s)")
args = parser.parse_args()

# ---- data: every second line is the opposite of the one before ---------------------------------------------------

names, reviews = read_pairs("reviews.tsv")
labels = np.array([name == "positive" for name in names], np.int32)
config = load_model_config(args.model_dir)
tokenizer = load_tokenizer(str(Path(args.model_dir) / "vocab.txt"), lower_case=True, max_seq_len=64, max_tokens=512)
encoded = tokenizer.encode(reviews)
mask = (np.arange(encoded.lengths.max()) < encoded.lengths[:, None]).astype(np.float32)
ids = np.zeros(mask.shape, np.int32)
ids[mask > 0] = encoded.input_ids
train, test = np.arange(64), np.arange(64, len(reviews))

# ---- the model: BERT in thirty lines, on the weights of the pre-trained one --------------------------------------

weights = {f"bert/{name}": tf.Variable(value) for name, value in load_weights(config).items()}
head = {"output_weights": tf.Variable(tf.zeros([2, config.hidden_size])), "output_bias": tf.Variable(tf.zeros([2]))}


def dense(scope: str, x: tf.Tensor) -> tf.Tensor:
    return x @ weights[f"bert/{scope}/kernel"] + weights[f"bert/{scope}/bias"]


def layer_norm(scope: str, x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    gamma, beta = weights[f"bert/{scope}/gamma"], weights[f"bert/{scope}/beta"]
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, config.layer_norm_eps)


def bert(ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the last layer of the first token [n, d] for token ids [n, t]."""
    rows, length = ids.shape
    heads = [rows, length, config.num_attention_heads, config.head_size]
    x = tf.gather(weights["bert/embeddings/word_embeddings"], ids)
    x += weights["bert/embeddings/position_embeddings"][:length] + weights["bert/embeddings/token_type_embeddings"][0]
    x = layer_norm("embeddings/LayerNorm", x)
    for number in range(config.num_hidden_layers):
        scope = f"encoder/layer_{number}"
        q, k, v = (tf.reshape(dense(f"{scope}/attention/self/{p}", x), heads) for p in ("query", "key", "value"))
        scores = tf.einsum("nihd,njhd->nhij", q, k) / config.head_size**0.5 - 10000 * (1 - mask[:, None, None, :])
        context = tf.reshape(tf.einsum("nhij,njhd->nihd", tf.nn.softmax(scores), v), x.shape)
        x = layer_norm(f"{scope}/attention/output/LayerNorm", x + dense(f"{scope}/attention/output/dense", context))
        inner = tf.nn.gelu(dense(f"{scope}/intermediate/dense", x))
        x = layer_norm(f"{scope}/output/LayerNorm", x + dense(f"{scope}/output/dense", inner))
    return x[:, 0]


def classify(ids: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """Returns the logits of the labels [n, 2]: the pooler of BERT, and a linear layer."""
    pooled = tf.tanh(dense("pooler/dense", bert(ids, mask)))
    return pooled @ tf.transpose(head["output_weights"]) + head["output_bias"]


# ---- fine-tuning: a small learning rate, fixed word embeddings -----------------------------------------------------

trained = [w for name, w in weights.items() if "/encoder/" in name or "/pooler/" in name] + list(head.values())
optimizer = tf.keras.optimizers.Adam(args.learning_rate)
chooser = np.random.default_rng(1)
step = 0
for epoch in range(args.epochs):
    for batch in np.split(chooser.permutation(train), len(train) // 16):
        with tf.GradientTape() as tape:
            logits = classify(ids[batch], mask[batch])
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels[batch], logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, trained), trained, strict=True))
        step += 1
    print(f"epoch {epoch + 1}: loss {float(loss):.3f}", flush=True)

# ---- a TF1 checkpoint: model.ckpt-N.index and model.ckpt-N.data-00000-of-00001 -----------------------------------

Path(args.output_dir).mkdir(parents=True, exist_ok=True)
name = f"model.ckpt-{step}"
saved = weights | head
tf.raw_ops.SaveV2(
    prefix=str(Path(args.output_dir) / name),
    tensor_names=list(saved),
    shape_and_slices=[""] * len(saved),
    tensors=[variable.value() for variable in saved.values()],
)

# ---- before and after, with vectors of the server ----------------------------------------------------------------

pretrained = ["-model_dir", args.model_dir, "-pooling_layer", "-1"]
tuned = ["-tuned_model_dir", args.output_dir, "-ckpt_name", name]
for title, options in {"pre-trained": pretrained, "fine-tuned": pretrained + tuned}.items():
    with serving(*options) as bc:
        vectors = bc.encode([reviews[i] for i in test])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = np.argmax(vectors @ vectors.T - 2 * np.eye(len(test)), axis=1)
    share = np.mean(labels[test] == labels[test][nearest])
    print(f"\n{title}: the nearest neighbour has the same opinion in {share:.0%}")
    for i in (0, 5, 8):
        print(f"  {reviews[test[i]]}\n      → {reviews[test[nearest[i]]]}")

# ---- the classifier, served --------------------------------------------------------------------------------------

# A configuration beside the checkpoint names the labels.
names_of_labels = {"id2label": {0: "negative", 1: "positive"}}
(Path(args.output_dir) / "bert_config.json").write_text(json.dumps(names_of_labels), encoding="utf-8")
classifier = ["-model_dir", args.model_dir, *tuned, "-task", "classify"]
with serving(*classifier) as bc:
    found = bc.classify([reviews[i] for i in test])
here = tf.argmax(classify(ids[test], mask[test]), 1).numpy() == labels[test]
served = [each.label == names[i] for each, i in zip(found, test, strict=True)]
print(f"\nclassified by the server: {np.mean(served):.0%} right; in this program: {np.mean(here):.0%}")
for i in (0, 5, 8):
    print(f"  {reviews[test[i]]}\n      → {found[i].label}, {found[i].score:.2f}")
print("\nserve it:  bert-serving-start", *classifier)
