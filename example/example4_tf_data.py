"""Encodes in a tf.data pipeline: lines of a file in, vectors and labels out.

Start a server first:  bert-serving-start
Needs TensorFlow:      pip install tensorflow
"""

from __future__ import annotations

import numpy as np
from common import DATA, address, arguments, needed

from bert_serving.client import BertClient

with needed("pip install tensorflow"):
    import tensorflow as tf

parser = arguments(__doc__)
parser.add_argument("-batch_size", type=int, default=32, help="lines encoded at a time (default: %(default)s)")
parser.add_argument("-num_parallel_calls", type=int, default=4, help="concurrent requests (default: %(default)s)")
args = parser.parse_args()

CLASSES = ["business", "science", "entertainment", "health"]

# One client for all threads of the pipeline. (1.10 needed a pool of clients.)
bc = BertClient(**address(args))


def get_encodes(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lines ``label<tab>text`` as bytes [n] → vectors float32 [n, d], labels int64 [n]."""
    labels, texts = zip(*(line.decode("utf-8").split("\t") for line in lines), strict=True)
    return bc.encode(texts), np.array([CLASSES.index(label) for label in labels])


width = bc.encode(["how many numbers?"]).shape[1]


def with_shape(vectors: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sets the shapes that Keras needs and TensorFlow cannot infer from a Python function."""
    return tf.ensure_shape(vectors, [None, width]), tf.ensure_shape(labels, [None])


dataset = (
    tf.data.TextLineDataset(str(DATA / "headlines.tsv"))
    .batch(args.batch_size)
    .map(
        lambda lines: tf.numpy_function(get_encodes, [lines], [tf.float32, tf.int64]),
        num_parallel_calls=args.num_parallel_calls,
    )
    .map(with_shape)
    .prefetch(2)
)

print(dataset.element_spec)
for vectors, labels in dataset:
    print(f"vectors {vectors.shape}, labels {labels.numpy()[:8]} ...")
bc.close()
