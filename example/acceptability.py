"""Fine-tunes a classifier of acceptable English with PyTorch and serves it.

The server gives the scores of the labels (-task classify). The task is that of CoLA, the Corpus of Linguistic
Acceptability, on 160 sentences written for this example. They demonstrate the steps, but do not suffice to judge
English. For that, use the real corpus (https://nyu-mll.github.io/CoLA/) and fewer epochs:

    python example/acceptability.py -data cola_public/raw/in_domain_train.tsv -epochs 1

Starts its own server.

Needs PyTorch:  pip install torch transformers
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
from common import needed, read_pairs, serving

from bert_serving.server.model.default import default_model_dir

with needed("pip install torch transformers"):
    import torch
    from transformers import BertForSequenceClassification, BertTokenizerFast

#: Names of the scores.
LABELS = ["unacceptable", "acceptable"]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-model_dir", default=default_model_dir(), help="the pre-trained model (default: %(default)s)")
parser.add_argument("-data", help="a .tsv file of CoLA: second column 0 or 1, fourth the sentence (default: built in)")
parser.add_argument(
    "-output_dir", default="acceptability", help="folder of the fine-tuned model (default: %(default)s)"
)
parser.add_argument("-epochs", type=int, default=6, help="passes over the sentences (default: %(default)s)")
parser.add_argument("-learning_rate", type=float, default=1e-4, help="2e-5 suits BERT-Base (default: %(default)s)")
parser.add_argument("-query", default="Somebody just left - guess who.", help="a sentence to judge (%(default)s)")
args = parser.parse_args()

# ---- data: groups of sentences that stay together, here pairs of the same sentence ----------------------------

if args.data:
    with open(args.data, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    sentences, labels = [row[3] for row in rows], np.array([int(row[1]) for row in rows])
    groups = np.random.default_rng(1).permutation(len(rows))[:, None]
else:
    names, sentences = read_pairs("acceptability.tsv")
    labels = np.array([int(name == "acceptable") for name in names])
    groups = np.arange(len(names)).reshape(-1, 2)
train, test = np.split(groups, [len(groups) * 3 // 4])

# ---- fine-tuning -------------------------------------------------------------------------------------------------

torch.manual_seed(1)
tokenizer = BertTokenizerFast(str(Path(args.model_dir) / "vocab.txt"), do_lower_case=True)
model = BertForSequenceClassification.from_pretrained(args.model_dir, id2label=dict(enumerate(LABELS)))
model.bert.embeddings.requires_grad_(False)  # not trained
head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]  # new layers, with a higher learning rate
parameters = [{"params": model.bert.encoder.parameters()}, {"params": head, "lr": 10 * args.learning_rate}]
optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate)


def logits_of(rows: np.ndarray) -> torch.Tensor:
    """Returns the logits of the labels, [n, 2]."""
    texts = [sentences[i] for i in rows]
    return model(**tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")).logits


model.train()
for epoch in range(args.epochs):
    losses = []
    for chosen in torch.randperm(len(train)).split(10 // groups.shape[1]):
        batch = train[chosen].reshape(-1)
        loss = torch.nn.functional.cross_entropy(logits_of(batch), torch.from_numpy(labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
model.eval()
train, test = train.reshape(-1), test.reshape(-1)
with torch.no_grad():
    wanted = torch.cat([logits_of(rows) for rows in np.array_split(test, len(test) // 40 + 1)]).numpy()

# ---- one folder with all files of the server ---------------------------------------------------------------------

output_dir = Path(args.output_dir)
model.save_pretrained(output_dir)  # config.json with the names of the labels, model.safetensors with the head
shutil.copy(Path(args.model_dir) / "vocab.txt", output_dir)

# ---- serving -----------------------------------------------------------------------------------------------------

options = ["-model_dir", str(output_dir), "-task", "classify", "-max_seq_len", "64"]
with serving(*options) as bc:
    logits = bc.encode([sentences[i] for i in test], raw_scores=True)
    print(f"\nserved and trained scores differ by at most {np.abs(logits - wanted).max():.1g}")
    for what, rows in (("unseen", test), ("learnt", train)):
        found = bc.classify([sentences[i] for i in rows])
        right = [LABELS.index(each.label) == label for each, label in zip(found, labels[rows], strict=True)]
        print(f"accuracy on {len(rows)} {what} sentences: {np.mean(right):.0%}")
    answer = bc.classify([args.query])[0]
    print(f"{args.query}  →  acceptable: {answer.scores['acceptable']:.0%}")
print("\nserve it:  bert-serving-start", *options)
