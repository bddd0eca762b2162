"""Engines that fail on purpose, for ``-engine fault_engines.NAME``. They need no model library, so they start fast."""
