"""What homomorphic products take with their answers packed and not: processor time of both parties.

``python -m benchmarks.packing`` measures products of a matrix of features with one of weights, each kept by
its owner, fits the times of ciphertexts to them, and prints both. ``--fit`` writes the times into
``secure_runner/programs/time_table.py``, where :mod:`benchmarks.estimate_error` keeps their proportions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil

from benchmarks.estimate_error import CIPHERTEXT_TIMES, write_times
from benchmarks.spu_parties import SpuParties, compile_function
from secure_runner.programs.ciphertexts import Ciphertexts, ciphertexts
from secure_runner.programs.manifest import NumericSpec
from secure_runner.programs.time_table import TIMES
from secure_runner.spu_config import runtime_config_dict

SHAPES = (
    *((1, 30, 64), (8, 30, 64), (32, 30, 64), (8, 64, 32), (32, 64, 32), (128, 64, 64), (16, 16, 64)),
    *((1, 256, 256), (8, 256, 256), (32, 256, 256), (32, 30, 256), (1, 784, 128), (1, 1024, 1024)),
    *((196, 9, 8), (49, 72, 16)),
)
"""Rows, columns and columns: layers of networks, and convolutions as products."""
_OWNERS = (1, 0)


def main(words: Sequence[str]) -> None:
    """Measure, fit and print."""
    draw = np.random.default_rng(0)
    counted: list[Ciphertexts] = []
    taken: list[float] = []
    with SpuParties(len(_OWNERS)) as parties:
        configs = {
            packed: runtime_config_dict("cheetah", NumericSpec(), packed_products=packed)
            for packed in (True, False)
        }
        for packed, config in configs.items():
            parties.open(str(packed), [config] * len(_OWNERS))
        for m, k, n in SHAPES:
            inputs = [draw.normal(scale=0.3, size=shape).astype(np.float32) for shape in ((m, k), (k, n))]
            compiled = compile_function(lambda x, w: x @ w, *inputs)
            for packed, config in configs.items():
                counted.append(ciphertexts(m, k, n, packed=packed))
                taken.append(_cpu_s(parties, str(packed), compiled, inputs, config))
                way = "packed" if packed else "not packed"
                print(f"{m} x {k} x {n}, {way}: {1000 * taken[-1]:.1f} ms, {counted[-1]}", flush=True)
    times = _fit(counted, taken)
    print(f"once {times[0]:.3g} s; a ciphertext, a product, a key switch {times[1:]} s")
    if "--fit" in words:
        fitted = dict(zip(CIPHERTEXT_TIMES, times[1:], strict=True))
        write_times(TIMES | {"cheetah": TIMES["cheetah"]._replace(**fitted)})


def _cpu_s(parties: SpuParties, name: str, compiled: Any, inputs: Any, config: Any) -> float:
    """Of one product, by the quickest of a few: new oblivious transfers are made within some."""
    found = []
    for times in (1, 4, 4, 4):
        before = _used_s(parties)
        parties.run(name, compiled, inputs, config, times=times, owners=_OWNERS)
        found.append((_used_s(parties) - before) / times)
    return min(found[1:])


def _used_s(parties: SpuParties) -> float:
    return sum(sum(psutil.Process(p.pid).cpu_times()[:2]) for p in parties.processes)


def _fit(counted: Sequence[Ciphertexts], taken: Sequence[float]) -> list[float]:
    """Seconds of a product whatever its size, of a ciphertext, a product of one, a key switch."""
    from scipy.optimize import nnls

    rows = [(1, one.exchanged, one.multiplied, one.switches) for one in counted]
    weights, _ = nnls(np.array(rows, float) / np.array(taken)[:, None], np.ones(len(taken)))
    return [float(f"{weight:.3g}") for weight in weights]


if __name__ == "__main__":
    main(sys.argv[1:])
