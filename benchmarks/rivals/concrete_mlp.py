"""The network 30-64-32-1 in Concrete ML: compiled for homomorphic encryption, one row encrypted and answered.

Runs in an environment of its own, with Concrete ML, and prints one JSON list of milliseconds.
"""

import json
import sys
import time

import numpy as np
import torch
from concrete.ml.torch.compile import compile_torch_model

torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Linear(30, 64),
    torch.nn.ReLU(),
    torch.nn.Linear(64, 32),
    torch.nn.ReLU(),
    torch.nn.Linear(32, 1),
    torch.nn.Sigmoid(),
)
rows = np.random.default_rng(0).normal(size=(256, 30)).astype(np.float32)
compiled = compile_torch_model(model, torch.from_numpy(rows), n_bits=6, rounding_threshold_bits=6)
compiled.fhe_circuit.keygen()
times = []
for _ in range(int(sys.argv[2])):
    started = time.perf_counter()
    compiled.forward(rows[:1], fhe="execute")
    times.append(1000 * (time.perf_counter() - started))
print(json.dumps(times))
