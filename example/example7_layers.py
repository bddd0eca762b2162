"""Compares layers and poolings: plots the vectors of every layer, reduced to two dimensions by PCA.

Starts a server for each pooling strategy with all layers concatenated, so that each headline is encoded only once per
strategy. The table shows how well a layer separates the four topics: the share of headlines whose nearest neighbour has
the same topic. The plot shows the same numbers in its corners.

Needs for the picture:  pip install matplotlib
"""

from __future__ import annotations

import argparse

import numpy as np
from common import read_pairs, serving

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-model_dir", default=default_model_dir(), help="folder of the model (default: %(default)s)")
parser.add_argument(
    "-pooling_strategy", nargs="+", default=["REDUCE_MEAN", "REDUCE_MAX", "CLS_TOKEN"], help="(default: %(default)s)"
)
parser.add_argument("-o", dest="output", default="layers.png", help="picture to write (default: %(default)s)")
args = parser.parse_args()

labels, headlines = read_pairs("headlines.tsv")
COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"]  # distinguishable with colour blindness
layers = [-1 - layer for layer in range(load_model_config(args.model_dir).num_hidden_layers)]


def encode(pooling_strategy: str) -> list[np.ndarray]:
    """Returns the vectors [n, d] of each layer, the last layer first."""
    every_layer = ["-pooling_layer", *map(str, layers)]
    with serving("-model_dir", args.model_dir, "-pooling_strategy", pooling_strategy, *every_layer) as bc:
        return np.split(bc.encode(headlines), len(layers), axis=1)


def separation(vectors: np.ndarray) -> float:
    """Returns the share of rows whose nearest neighbour by cosine has the same label."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -1)
    return float(np.mean([labels[i] == labels[j] for i, j in enumerate(similarity.argmax(axis=1))]))


def pca(vectors: np.ndarray) -> np.ndarray:
    """Projects [n, d] to the two directions of the largest variance, [n, 2]."""
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T


results = {strategy: encode(strategy) for strategy in args.pooling_strategy}

print(f"{'layer':<14}" + "".join(f"{layer:>8}" for layer in layers))
for strategy, by_layer in results.items():
    print(f"{strategy:<14}" + "".join(f"{separation(vectors):>8.0%}" for vectors in by_layer))

try:
    from matplotlib.figure import Figure
except ImportError:
    print("for the picture: pip install matplotlib")
    raise SystemExit(0) from None

figure = Figure(figsize=(2.2 * len(layers), 2.2 * len(results) + 0.4))
grid = figure.subplots(len(results), len(layers), squeeze=False)
topics = dict(zip(sorted(set(labels)), COLOURS, strict=False))
for column, layer in enumerate(layers):
    grid[0][column].set_title(f"layer {layer}", fontsize=11)
    for row, (strategy, by_layer) in enumerate(results.items()):
        axes, points = grid[row][column], pca(by_layer[column])
        for topic, colour in topics.items():
            chosen = np.array(labels) == topic
            axes.scatter(*points[chosen].T, s=9, color=colour, linewidths=0, label=topic)
        axes.set(xticks=[], yticks=[])
        axes.margins(y=0.14)  # room for the number
        axes.text(0.97, 0.03, f"{separation(by_layer[column]):.0%}", transform=axes.transAxes, ha="right", size=10)
        axes.spines[:].set_color("#cccccc")
        grid[row][0].set_ylabel(strategy, fontsize=11)
figure.legend(*grid[0][0].get_legend_handles_labels(), loc="lower center", ncols=4, markerscale=2.5, frameon=False)
figure.tight_layout(rect=(0, 0.06, 1, 1))
figure.savefig(args.output, dpi=150)
print(f"the picture is in {args.output}")
