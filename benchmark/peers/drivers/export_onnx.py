"""Exports a Hugging Face BERT with mean pooling to ONNX, fp32 and dynamic int8, with torch alone: MODEL OUT."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from transformers import AutoModel

folder, out = sys.argv[1], Path(sys.argv[2])


class Pooled(torch.nn.Module):
    """BERT, and the mean of its last layer over the tokens without padding."""

    def __init__(self):
        super().__init__()
        self.bert = AutoModel.from_pretrained(folder, attn_implementation="eager", dtype="float32")

    def forward(self, input_ids, attention_mask):
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


out.mkdir(parents=True, exist_ok=True)
ids = torch.ones(2, 9, dtype=torch.long)
names = ["input_ids", "attention_mask"]
axes = {name: {0: "sequences", 1: "tokens"} for name in names}
torch.onnx.export(
    Pooled().eval(), (ids, torch.ones_like(ids)), str(out / "fp32.onnx"), input_names=names,
    output_names=["embedding"], dynamic_axes={**axes, "embedding": {0: "sequences"}}, opset_version=17, dynamo=False,
)  # fmt: skip
quantize_dynamic(
    str(out / "fp32.onnx"), str(out / "int8.onnx"), per_channel=True, weight_type=QuantType.QInt8,
    op_types_to_quantize=["MatMul"],
)  # fmt: skip
