"""Creates the tokenizer that the options and the model folder describe."""

from __future__ import annotations

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from .tokenizer import Tokenizer


def make_tokenizer(config: ServerConfig, model: ModelConfig) -> Tokenizer:
    """The tokenizer that the options and the model's own files describe."""
    own_choice = model.checkpoint_format != "tf1"  # Hugging Face folders say themselves whether they are cased
    return Tokenizer.from_file(
        model.vocab_path,
        lower_case=None if own_choice and config.do_lower_case else config.do_lower_case,
        max_seq_len=config.max_seq_len,
        max_position_embeddings=model.max_position_embeddings,
        no_special_token=config.no_special_token,
        mask_cls_sep=config.mask_cls_sep,
    )
