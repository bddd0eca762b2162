"""Computes only the matrix products of a model: a program that uses the same products is no faster.

MODEL LIBRARY DTYPE MAX_SEQ_LEN POOLING TEXTS

The products are those of the dense layers, of packed tokens without padding: no embeddings, attention, activations and
normalizations. With POOLING ``cls``, the last layer multiplies one row of each text alone:
``engines/onnx/one_query.py`` has the reason. LIBRARY is ``onnx`` (ONNX Runtime) or ``torch`` (PyTorch with prepacked
weights of oneDNN). In int8, inputs are uint8 and kernels int8, and nothing is scaled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from loop import read_texts, run

from bert_serving.server.engines.cpu_info import num_cores
from bert_serving.server.model.config import load_model_config
from bert_serving.server.tokenization.factory import load_tokenizer

#: Rows of a product.
ROWS = 1024

folder, library, dtype, max_seq_len, pooling, texts_path = sys.argv[1:]
model = load_model_config(folder)
hidden, inner = model.hidden_size, model.intermediate_size
#: Inputs and outputs of the kernels of a layer: query, key and value; attention's output; feed-forward.
LAYER = [(hidden, 3 * hidden), (hidden, hidden), (hidden, inner), (inner, hidden)]

#: Calls each of some kernels on a number of rows.
Products = Callable[[int], Any]


def onnx_products(kernels: list[tuple[int, int]]) -> Products:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    is_int8 = dtype == "int8"
    operator, kind = ("MatMulInteger", TensorProto.UINT8) if is_int8 else ("MatMul", TensorProto.FLOAT)
    nodes, constants, outputs = [], [], []
    for number, shape in enumerate(kernels):
        constants.append(numpy_helper.from_array(np.ones(shape, np.int8 if is_int8 else np.float32), f"w{number}"))
        nodes.append(helper.make_node(operator, [f"x{shape[0]}", f"w{number}"], [f"y{number}"]))
        nodes.append(helper.make_node("Shape", [f"y{number}"], [f"shape{number}"]))
        outputs.append(helper.make_tensor_value_info(f"shape{number}", TensorProto.INT64, (2,)))
    inputs = [helper.make_tensor_value_info(f"x{width}", kind, ("t", width)) for width in dict(kernels)]
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    written = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_cores()
    session = onnxruntime.InferenceSession(written.SerializeToString(), options, ["CPUExecutionProvider"])
    full = {width: np.ones((ROWS, width), np.uint8 if is_int8 else np.float32) for width in dict(kernels)}
    return lambda rows: session.run(None, {f"x{width}": array[:rows] for width, array in full.items()})


def torch_products(kernels: list[tuple[int, int]]) -> Products:
    import torch

    torch.set_num_threads(num_cores())
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    prepack, product = torch.ops.mkldnn._reorder_linear_weight, torch.ops.mkldnn._linear_pointwise
    with torch.inference_mode():
        weights = [prepack(torch.ones(shape[::-1], dtype=kind), None) for shape in kernels]
    full = {width: torch.ones((ROWS, width), dtype=kind) for width in dict(kernels)}

    def call(rows: int) -> None:
        with torch.inference_mode():
            for (width, _), weight in zip(kernels, weights, strict=True):
                product(full[width][:rows], weight, None, "none", [], "")

    return call


def parts() -> Iterator[tuple[Products, bool]]:
    """Yields products, and whether they have a row for each token; otherwise for each text."""
    make = onnx_products if library == "onnx" else torch_products
    if pooling == "cls":
        yield make(LAYER * (model.num_hidden_layers - 1)), True
        yield make(LAYER), False
    else:
        yield make(LAYER * model.num_hidden_layers), True


texts = read_texts(texts_path)
items = [text if isinstance(text, list) else [text] for text in texts]
tokenizer = load_tokenizer(model.vocab_path, lower_case=None, max_seq_len=int(max_seq_len), max_tokens=model.max_tokens)
pieces = [piece for item in items for piece in item]
lengths = iter(tokenizer.encode(pieces).lengths.tolist())
#: Tokens of each item: the texts of a pair have one [CLS] in common.
num_tokens = {tuple(item): sum(next(lengths) for _ in item) - len(item) + 1 for item in items}
all_products = list(parts())


def encode(some: list[Any]) -> None:
    """Computes the products of some items, which are in batches of ``ROWS`` tokens."""
    keys = [tuple(item if isinstance(item, list) else [item]) for item in some]
    for call, is_of_tokens in all_products:
        rows = sum(num_tokens[key] for key in keys) if is_of_tokens else len(keys)
        for start in range(0, rows, ROWS):
            call(min(ROWS, rows - start))


run(encode, texts)
