"""Batch jobs: files of ``/v1/embeddings`` requests that clients upload, encoded in the background.

The HTTP process and the process of the batch jobs share the folder of ``-http_jobs``, and nothing else. Each file in it
has one writer, and is replaced atomically or counts from its last recorded size.
"""
