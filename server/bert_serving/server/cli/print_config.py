"""Prints the value and the source of each flag: ``bert-serving-start -print_config``. Reads no weights."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import Any

from bert_serving.client.command_parser import describe_error, print_output
from bert_serving.client.flag_sources import ParsedCommand, describe_flags

from ..config.model_folder import apply_model_folder
from ..config.options import OPTIONS
from ..config.server_config import ServerConfig
from ..errors import ServingError
from ..log import printable
from ..model.errors import ModelError
from ..supervisor.supervisor import EXIT_OK


def print_config(config: ServerConfig, parsed: ParsedCommand, parser: argparse.ArgumentParser) -> int:
    """Prints a line for each flag, with what the model folder sets. Returns the exit code 0."""
    log = logging.Logger("print_config")
    log.addHandler(logging.NullHandler())
    reason = ""
    try:
        config, _ = apply_model_folder(config, log)
    except (ServingError, ModelError, OSError, ValueError) as error:
        reason = describe_error(error)
    others: dict[str, tuple[Any, str]] = {}
    for name, option in OPTIONS.items():
        value = getattr(config, name)
        if name not in config.given and value != option.default:
            others[name] = value, "default model" if name == "model_dir" else "model folder"
    print_output(describe_flags(parser, parsed, others))
    if reason:
        print(f"bert-serving-start: the settings of the model folder are missing: {printable(reason)}", file=sys.stderr)
    return EXIT_OK
