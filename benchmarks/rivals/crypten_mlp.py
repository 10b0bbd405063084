"""The network 30-64-32-1 with sigmoid in CrypTen: two processes, additive shares, randomness from rank 0.

Runs in an environment of its own, with CrypTen and torch, and prints one JSON list of milliseconds.
"""

import json
import multiprocessing
import os
import sys
import time
import types


def party(rank: int, port: str, count: int, answers: "multiprocessing.Queue[list[float]]") -> None:
    """One of the two processes; rank 1 has the features and receives the answer."""
    os.environ.update(
        WORLD_SIZE="2", RANK=str(rank), RENDEZVOUS=f"tcp://127.0.0.1:{port}", DISTRIBUTED_BACKEND="gloo"
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    # Only CrypTen's converter of ONNX models, unused here, needs this module, which torch has moved since.
    sys.modules.setdefault("torch.onnx.symbolic_registry", types.ModuleType("symbolic_registry"))
    import crypten
    import torch

    torch.set_num_threads(1)
    crypten.init()
    torch.manual_seed(0)
    layers = [(torch.randn(a, b) / a**0.5, torch.zeros(b)) for a, b in ((30, 64), (64, 32), (32, 1))]
    weights = [tuple(crypten.cryptensor(part, src=0) for part in layer) for layer in layers]
    row = torch.randn(1, 30)
    times = []
    for _ in range(count + 3):
        started = time.perf_counter()
        hidden = crypten.cryptensor(row, src=1)
        for weight, bias in weights[:-1]:
            hidden = (hidden.matmul(weight) + bias).relu()
        weight, bias = weights[-1]
        (hidden.matmul(weight) + bias).sigmoid().get_plain_text(dst=1)
        times.append(1000 * (time.perf_counter() - started))
    if rank == 1:
        answers.put(times[3:])


if __name__ == "__main__":
    queue = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=party, args=(rank, sys.argv[1], int(sys.argv[2]), queue))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    print(json.dumps(queue.get(timeout=300)))
    for process in processes:
        process.join(10)
        process.kill()
