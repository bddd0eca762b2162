"""Encodes once and trains often: writes vectors and labels to a TFRecord file, and reads it as a tf.data pipeline.

Start a server first:  bert-serving-start
Needs TensorFlow:      pip install tensorflow
"""

from __future__ import annotations

import numpy as np
from common import address, arguments, needed, read_pairs

from bert_serving.client import BertClient

with needed("pip install tensorflow"):
    import tensorflow as tf

parser = arguments(__doc__)
parser.add_argument("-o", dest="output", default="headlines.tfrecord", help="file to write (default: %(default)s)")
args = parser.parse_args()

names, headlines = read_pairs("headlines.tsv")
classes = sorted(set(names))

with BertClient(**address(args)) as bc:
    vectors = bc.encode(headlines)


def to_example(vector: np.ndarray, label: int) -> tf.train.Example:
    # Token vectors [t, d] (-pooling_strategy NONE) work as well: a record is flat, the reader restores the shape.
    floats = tf.train.Feature(float_list=tf.train.FloatList(value=vector.reshape(-1)))
    number = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(features=tf.train.Features(feature={"features": floats, "labels": number}))


with tf.io.TFRecordWriter(args.output) as writer:
    for vector, name in zip(vectors, names, strict=True):
        writer.write(to_example(vector, classes.index(name)).SerializeToString())
print(f"wrote {len(vectors)} records to {args.output}")

# The rest needs no server.
DESCRIPTION = {
    "features": tf.io.FixedLenFeature(vectors.shape[1:], tf.float32),
    "labels": tf.io.FixedLenFeature([], tf.int64),
}


def decode(records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    example = tf.io.parse_example(records, DESCRIPTION)
    return example["features"], example["labels"]


dataset = tf.data.TFRecordDataset(args.output).batch(32).map(decode)
for features, labels in dataset:
    print(f"read features {features.shape}, labels {labels.shape}")

read = np.concatenate([features for features, _ in dataset])
print("the same numbers come back:", np.array_equal(read, vectors))
