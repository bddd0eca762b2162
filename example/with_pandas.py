"""Stores vectors in a column of a table, and finds the most typical and the most unusual headline of each topic.

Start a server first:  bert-serving-start
Needs pandas:          pip install pandas
"""

from __future__ import annotations

import numpy as np
from common import DATA, address, arguments, needed

from bert_serving.client import BertClient

with needed("pip install pandas"):
    import pandas as pd

args = arguments(__doc__).parse_args()

table = pd.read_csv(DATA / "headlines.tsv", sep="\t", names=["topic", "headline"])
with BertClient(**address(args)) as bc:
    table["vector"] = list(bc.encode(table["headline"]))  # a column is a valid list of texts

print(table.head(3).to_string(max_colwidth=40), "\n")


def similarity_to_centre(vectors: pd.Series) -> pd.Series:
    """Returns the cosine of each vector of a topic with their mean."""
    rows = np.stack(vectors.tolist())
    centre = rows.mean(axis=0)
    return pd.Series(rows @ centre / np.linalg.norm(rows, axis=1) / np.linalg.norm(centre), index=vectors.index)


table["typical"] = table.groupby("topic")["vector"].transform(similarity_to_centre)
for topic, group in table.sort_values("typical").groupby("topic"):
    print(f"{topic}\n  typical  {group.iloc[-1]['headline']}\n  odd      {group.iloc[0]['headline']}")
