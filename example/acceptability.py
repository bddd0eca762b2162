"""Is this good English? A classifier fine-tuned with PyTorch, and served: the vectors come from the server, the last
multiplication is done by the client.

The task is that of CoLA, the Corpus of Linguistic Acceptability, on 160 sentences of our own. That is enough to see how
it is done, not to judge English; take the real corpus for that. Starts its server itself.

Needs PyTorch:  pip install torch transformers
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from common import read_pairs, serving

from bert_serving.server.model.default import default_model_dir

try:
    import torch
    from transformers import BertForSequenceClassification, BertTokenizerFast
except ImportError as error:
    raise SystemExit(f"this example needs PyTorch ({error}): pip install torch transformers") from None

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("-model_dir", default=default_model_dir(), help="the pre-trained model (default: %(default)s)")
parser.add_argument("-output_dir", default="acceptability", help="folder for the new one (default: %(default)s)")
parser.add_argument("-epochs", type=int, default=6, help="times each sentence is seen (default: %(default)s)")
parser.add_argument("-query", default="Somebody just left - guess who.", help="a sentence to judge (%(default)s)")
args = parser.parse_args()

# ---- data: every second sentence is the one before, spoilt -------------------------------------------------------

names, sentences = read_pairs("acceptability.tsv")
labels = np.array([name == "acceptable" for name in names], np.int64)
train, test = np.arange(120), np.arange(120, 160)

# ---- fine-tuning, as everywhere ----------------------------------------------------------------------------------

torch.manual_seed(1)
tokenizer = BertTokenizerFast(str(Path(args.model_dir) / "vocab.txt"), do_lower_case=True)
model = BertForSequenceClassification.from_pretrained(args.model_dir, num_labels=2)
head = [*model.bert.pooler.parameters(), *model.classifier.parameters()]  # new, so it may learn faster
optimizer = torch.optim.AdamW([{"params": model.bert.encoder.parameters()}, {"params": head, "lr": 1e-3}], lr=1e-4)


def logits_of(rows: np.ndarray) -> torch.Tensor:
    """Scores for *unacceptable* and *acceptable*, [n, 2]."""
    inputs = tokenizer([sentences[i] for i in rows], padding=True, return_tensors="pt")
    return model(**inputs).logits


model.train()
for epoch in range(args.epochs):
    losses = []
    for first in (2 * torch.randperm(len(train) // 2)).split(5):
        batch = train[torch.stack([first, first + 1]).reshape(-1)]  # five sentences, each with its spoilt twin
        loss = torch.nn.functional.cross_entropy(logits_of(batch), torch.from_numpy(labels[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"epoch {epoch + 1}: loss {np.mean(losses):.3f}", flush=True)
model.eval()
with torch.no_grad():
    wanted = logits_of(test).numpy()

# ---- one folder with all that the server needs; the head stays with the client -----------------------------------

output_dir = Path(args.output_dir)
model.save_pretrained(output_dir)  # config.json, model.safetensors
shutil.copy(Path(args.model_dir) / "vocab.txt", output_dir)
np.savez(output_dir / "head.npz", **{name: w.detach().numpy() for name, w in model.classifier.named_parameters()})

# ---- serving: CLS_POOLED is what BERT's own classifiers look at --------------------------------------------------

options = ["-model_dir", str(output_dir), "-pooling_strategy", "CLS_POOLED", "-max_seq_len", "64"]
with serving(*options) as bc:
    head = np.load(output_dir / "head.npz")

    def judge(texts: list[str]) -> np.ndarray:
        """Scores [n, 2], from the server's vectors [n, d]."""
        return bc.encode(texts) @ head["weight"].T + head["bias"]

    logits = judge([sentences[i] for i in test])
    print(f"\nserved and trained scores differ by at most {np.abs(logits - wanted).max():.1g}")
    print(f"accuracy on {len(test)} sentences that it has not seen: {np.mean(logits.argmax(1) == labels[test]):.0%}")
    unacceptable, acceptable = np.exp(judge([args.query])[0])
    print(f"{args.query}  →  acceptable: {acceptable / (acceptable + unacceptable):.0%}")
print("\nserve it:  bert-serving-start", *options)
