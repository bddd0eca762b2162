"""Implements ``bert-serving-benchmark``: throughput and latency of a real server and its clients."""
