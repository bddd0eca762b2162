"""Re-exports the names that programs written for 1.10.0 import from this module."""

from __future__ import annotations

from .cli.terminate import get_shutdown_parser
from .config.command_line import get_args_parser

__all__ = ["get_args_parser", "get_shutdown_parser"]
