"""Creates the tokenizer from the options and the model folder."""

from __future__ import annotations

from ..config.options import ServerConfig
from ..model.config import ModelConfig
from .tokenizer import Tokenizer


def make_tokenizer(config: ServerConfig, model: ModelConfig) -> Tokenizer:
    """Creates the tokenizer from the options and the files of the model."""
    pipeline = config.pipeline
    declares_case = model.checkpoint_format != "tf1"  # a Hugging Face folder declares whether it is cased
    return Tokenizer.from_file(
        model.vocab_path,
        lower_case=None if declares_case and config.do_lower_case else config.do_lower_case,
        max_seq_len=config.max_seq_len,
        max_position_embeddings=model.max_position_embeddings,
        no_special_token=config.no_special_token,
        mask_cls_sep=config.mask_cls_sep,
        prompt=pipeline.prompts[config.prompt_name] if pipeline and config.prompt_name else "",
        lower_first=pipeline is not None and pipeline.lower_case,
    )
