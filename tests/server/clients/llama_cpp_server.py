"""llama.cpp's server: prints its address, and runs until its standard input ends."""

import sys

import xllamacpp

model, *projector = sys.argv[1:]
settings = xllamacpp.CommonParams()
settings.model.path = model
if projector:
    settings.mmproj.path = projector[0]
settings.port = 0
settings.n_parallel, settings.n_ctx = 2, 2 * 512
settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
sys.stdin.read()
