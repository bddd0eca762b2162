"""Serves a GGUF file with llama.cpp's server: MODEL.gguf PORT MAX_SEQ_LEN. Ends when it is signalled."""

from __future__ import annotations

import os
import signal
import sys

import xllamacpp

path, port, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
parallel = 32  # one slot for each client
params = xllamacpp.CommonParams()
params.model.path = path
params.embedding = True
params.hostnames, params.port = ["127.0.0.1"], port
params.n_parallel = parallel
params.n_ctx = parallel * length
params.n_batch = params.n_ubatch = 2048
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
server = xllamacpp.Server(params)
print(f"ready to serve {server.listening_address}", flush=True)
signal.pause()
