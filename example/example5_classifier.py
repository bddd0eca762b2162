"""Trains a text classifier on BERT features: Keras learns four topics from eighty headlines.

The vectors are fixed, only a small head is trained. This takes seconds and no GPU.

Start a server first:  bert-serving-start
Needs TensorFlow:      pip install tensorflow
"""

from __future__ import annotations

import numpy as np
from common import address, arguments, needed, read_pairs

from bert_serving.client import BertClient

with needed("pip install tensorflow"):
    import keras

parser = arguments(__doc__)
parser.add_argument("-epochs", type=int, default=40, help="passes over the headlines (default: %(default)s)")
args = parser.parse_args()

names, headlines = read_pairs("headlines.tsv")
classes = sorted(set(names))
labels = np.array([classes.index(name) for name in names])

with BertClient(**address(args)) as bc:
    features = bc.encode(headlines)

train, test = slice(0, 80), slice(80, None)  # the file alternates between the classes
keras.utils.set_random_seed(1)
model = keras.Sequential(
    [
        keras.Input([features.shape[1]]),
        keras.layers.LayerNormalization(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(len(classes)),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(features[train], labels[train], batch_size=16, epochs=args.epochs, verbose=0)

predicted = model.predict(features[test], verbose=0).argmax(axis=1)
for number in range(8):
    right = "right" if predicted[number] == labels[test][number] else "wrong"
    print(f"{right}  {classes[predicted[number]]:<14} {headlines[test][number]}")
print(f"accuracy on {len(predicted)} headlines not used in training: {np.mean(predicted == labels[test]):.0%}")
