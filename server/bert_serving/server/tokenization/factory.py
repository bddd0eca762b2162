"""Creates the tokenizer from the options and the model folder."""

from __future__ import annotations

import os

from ..config.options import ServerConfig
from ..model.config import ModelConfig
from ..model.errors import ModelConfigError
from .tokenizer import Tokenizer


def make_tokenizer(config: ServerConfig, model: ModelConfig, prepared: str | None = None) -> Tokenizer:
    """Creates the tokenizer from the options and the files of the model.

    Args:
        prepared: folder with copies of the files, which are read instead.

    Raises:
        ModelConfigError: the tokenizer is not supported; the message names the file of the model.
    """
    pipeline = config.pipeline
    declares_case = model.checkpoint_format != "tf1"  # a Hugging Face folder declares whether it is cased
    folder, name = os.path.split(model.vocab_path)
    try:
        return Tokenizer.from_file(
            os.path.join(prepared or folder, name),
            lower_case=None if declares_case and config.do_lower_case else config.do_lower_case,
            max_seq_len=config.max_seq_len,
            max_position_embeddings=model.max_position_embeddings,
            no_special_token=config.no_special_token,
            mask_cls_sep=config.mask_cls_sep,
            prompt=pipeline.prompts[config.prompt_name] if pipeline and config.prompt_name else "",
            lower_first=pipeline is not None and pipeline.lower_case,
        )
    except ModelConfigError as error:
        if prepared is None:
            raise
        raise ModelConfigError(str(error).replace(prepared, folder)) from error
