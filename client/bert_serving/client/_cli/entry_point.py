"""Where ``bert-serving-encode`` begins."""

from __future__ import annotations

from ..interrupts import exit_on_interrupt, run_command

exit_on_interrupt()  # before the imports of the command


def encode() -> int:
    return run_command("bert_serving.client._cli.encode", "main", is_interruptible=True)
