"""Writes tiny random models with several kinds of vectors, with the libraries that define them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from family_tokenizers import bert, write_tokenizer

#: Texts that overlap, with repetitions, and one that is too long.
TEXTS = ["hello world", "Ein schöner Tag im Café", "x", "who is it? it is me", "hello world", "a cat sat " * 40]
POSITIONS = 64
#: Sizes of all models.
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
#: family → class names of transformers, further configuration.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", SIZES | {"max_position_embeddings": POSITIONS}),
    "distilbert": (
        "DistilBert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": POSITIONS},
    ),
    "roberta": (
        "Roberta",
        SIZES
        | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}
        | {"bos_token_id": 0, "eos_token_id": 2},
    ),
    "xlm-roberta": (
        "XLMRoberta",
        SIZES
        | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "pad_token_id": 1}
        | {"bos_token_id": 0, "eos_token_id": 2},
    ),
    "modernbert": (
        "ModernBert",
        SIZES | {"max_position_embeddings": POSITIONS, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2},
    ),
}


def write_encoder(folder: Path, family: str, head: str, **changes: Any) -> None:
    """Writes a random model with a tokenizer; ``head`` is the end of the name of its class."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    if family in ("bert", "distilbert"):
        bert().save_pretrained(folder)
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    else:
        tokenizer = write_tokenizer(folder, family)
    name, values = FAMILIES[family]
    torch.manual_seed(0)
    sizes = values | {"vocab_size": len(tokenizer), "initializer_range": 0.15} | changes
    model = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers begins with biases of zero and norms of one
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)


def write_splade(folder: Path, family: str = "bert", limit: int | None = None, **pooling: Any) -> Any:
    """Writes the folder of a ``SparseEncoder``, and returns the model.

    Args:
        limit: most weights of a text.
        pooling: arguments of ``SpladePooling``.
    """
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    write_encoder(folder / "encoder", family, "ForMaskedLM")
    transformer = Transformer(
        str(folder / "encoder"), transformer_task="fill-mask", processor_kwargs={"model_max_length": POSITIONS}
    )
    model = SparseEncoder(modules=[transformer, SpladePooling(**pooling)], device="cpu", max_active_dims=limit)
    model.max_seq_length = POSITIONS
    model.save_pretrained(str(folder))
    return model


class LinearHeads:
    """The heads of BGE-M3, as the library FlagEmbedding defines them.

    Args:
        folder: folder of the encoder.
        dims: dimensions of the vectors of tokens.
    """

    def __init__(self, folder: Path, dims: int) -> None:
        import torch
        import transformers

        torch.manual_seed(1)
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
        self._encoder: Any = transformers.AutoModel.from_pretrained(folder)
        self.sparse, self.multi = torch.nn.Linear(32, 1), torch.nn.Linear(32, dims)

    def encode(self, text: str) -> tuple[dict[int, float], Any]:
        """Returns token id → weight, and the vectors of the tokens."""
        import torch

        tokenizer = self._tokenizer
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=POSITIONS)
        with torch.no_grad():
            states = self._encoder(**inputs).last_hidden_state[0]
            weights = torch.relu(self.sparse(states))[:, 0]
            vectors = torch.nn.functional.normalize(self.multi(states[1:]), dim=-1)
        unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
        found: dict[int, float] = {}
        for token, weight in zip(inputs["input_ids"][0].tolist(), weights.tolist(), strict=True):
            if token not in unused and weight > 0:
                found[token] = max(found.get(token, 0.0), weight)
        return found, vectors.numpy()


def write_m3(folder: Path, family: str = "xlm-roberta", suffix: str = ".pt", dims: int = 32) -> tuple[Any, LinearHeads]:
    """Writes a folder in the layout of BGE-M3, and returns the model of dense vectors and the heads."""
    import torch
    from safetensors.torch import save_file
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    write_encoder(folder / "encoder", family, "Model")
    transformer = Transformer(str(folder / "encoder"), processor_kwargs={"model_max_length": POSITIONS})
    model = SentenceTransformer(modules=[transformer, Pooling(32, "cls"), Normalize()], device="cpu")
    model.max_seq_length = POSITIONS
    model.save_pretrained(str(folder))
    heads = LinearHeads(folder / "encoder", dims)
    for name, linear in (("sparse_linear", heads.sparse), ("colbert_linear", heads.multi)):
        save = torch.save if suffix == ".pt" else save_file
        save(linear.state_dict(), str(folder / f"{name}{suffix}"))
    return model, heads


def write_colbert(folder: Path, **settings: Any) -> Any:
    """Writes the folder of a ``MultiVectorEncoder``, and returns the model.

    Args:
        settings: arguments of its module Transformer.
    """
    import torch
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    write_encoder(folder / "encoder", "bert", "Model")
    transformer = Transformer(str(folder / "encoder"), processor_kwargs={"model_max_length": POSITIONS}, **settings)
    modules = [
        transformer,
        Dense(32, 24, activation_function=torch.nn.Tanh(), module_input_name="token_embeddings"),
        Dense(24, 8, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(skiplist_words=["it", "?", "absent"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    prompts = {"query": "who : ", "document": "is : "}
    model = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
    model.max_seq_length = POSITIONS
    model.save_pretrained(str(folder))
    return model


def write_pylate(folder: Path, **settings: Any) -> None:
    """Writes a folder as PyLate does: Transformer and Dense, and the settings of queries and documents."""
    import json
    import shutil

    write_colbert(folder)
    for name in ("2_Dense", "3_MultiVectorMask", "4_Normalize"):
        shutil.rmtree(folder / name)
    modules = json.loads((folder / "modules.json").read_text("utf-8"))[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules), "utf-8")
    dense = json.loads((folder / "1_Dense" / "config.json").read_text("utf-8"))
    for name in ("module_input_name", "module_output_name"):
        del dense[name]
    (folder / "1_Dense" / "config.json").write_text(json.dumps(dense), "utf-8")
    values = {"model_type": "ColBERT", "prompts": {}, "query_prefix": "[MASK] ", "document_prefix": "[unknown] "}
    values |= {"query_length": 12, "document_length": 20, "skiplist_words": ["it", "?"]}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(values | settings), "utf-8")
