"""SEMI2K with the dealer against SEMI2K with TrustedFirstParty (the floor) and CHEETAH; and a soak.

``python -m benchmarks.dealer`` compares, ``python -m benchmarks.dealer --soak 1000000`` soaks. Bare SPU
runtimes in processes of their own, loopback, no TLS; the dealer is one more process on the same cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.adjusting_party import AdjustingParty, check_answer, seal
from benchmarks.dealt_parties import SEMI2K, configs, record, register
from benchmarks.spu_parties import SpuParties, compile_function
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess, Transcript
from secure_runner.dealer.steps import Step

__all__ = ["compare", "soak"]

Array = npt.NDArray[Any]

_ROUNDS = 6
_RUNS_A_ROUND = 6
_CHEETAH_RUNS = 6
_ATOL = 5e-2
_CHEETAH = {**SEMI2K, "protocol": "CHEETAH"}
_TFP = {**SEMI2K, "beaver_type": "TrustedFirstParty"}
# Nobody asks after the jobs here.
_UNWATCHED = DealerConfig(limits=DealerLimits(lease_s=24 * 3600))


@dataclass
class _Model:
    name: str
    batch: int
    function: Callable[..., Any]
    inputs: list[Array]
    with_cheetah: bool = True


def compare(*, adjust_rank: int = 0, models: int | None = None) -> list[dict[str, Any]]:
    """Medians of ``Runtime.run`` in ms, in turns: ``dealer_over_tfp`` and ``cheetah_over_dealer``.

    The first ``models`` of the list, or all. ``n`` counts the dealer's runs; CHEETAH runs less often.
    """
    records = []
    with SpuParties(2) as parties, DealerProcess(_UNWATCHED) as dealer:
        for model in _models()[:models]:
            records += _compare_one(model, parties, dealer, adjust_rank)
    return records


def _compare_one(
    model: _Model, parties: SpuParties, dealer: DealerProcess, adjust_rank: int
) -> list[dict[str, Any]]:
    compiled = compile_function(model.function, *model.inputs)
    name = f"{model.name}-{model.batch}"
    transcript = record(compiled, model.inputs, SEMI2K, adjust_rank=adjust_rank)
    grants = register(dealer.address, dealer.public_key, name, transcript, adjust_rank=adjust_rank)
    runtimes: dict[str, dict[str, Any]] = {"dealer": SEMI2K, "tfp": _TFP}
    parties.open(f"dealer-{name}", configs(dealer.address, grants, SEMI2K))
    parties.open(f"tfp-{name}", [_TFP, _TFP])
    if model.with_cheetah:
        runtimes["cheetah"] = _CHEETAH
        parties.open(f"cheetah-{name}", [_CHEETAH, _CHEETAH])
    expected = np.asarray(model.function(*model.inputs))
    times: dict[str, list[float]] = {kind: [] for kind in runtimes}
    for round_index in range(_ROUNDS + 1):
        for kind, base in runtimes.items():
            runs = _RUNS_A_ROUND if kind != "cheetah" else _CHEETAH_RUNS // _ROUNDS
            outputs, durations = parties.run(f"{kind}-{name}", compiled, model.inputs, base, times=runs)
            np.testing.assert_allclose(outputs[0], expected, atol=_ATOL)
            if round_index > 0:
                times[kind] += durations
    medians = {kind: statistics.median(durations) for kind, durations in times.items()}
    records = [_record("dealer_over_tfp", model, medians["dealer"], medians["tfp"], len(times["dealer"]))]
    if model.with_cheetah:
        records.append(
            _record(
                "cheetah_over_dealer", model, medians["cheetah"], medians["dealer"], len(times["cheetah"])
            )
        )
    return [item | {"requests": len(transcript.steps)} for item in records]


def _record(name: str, model: _Model, value: float, baseline: float, n: int) -> dict[str, Any]:
    return {
        "name": name,
        "model": model.name,
        "protocol": "cheetah" if name.startswith("cheetah") else "semi2k",
        "batch": model.batch,
        "value": round(value, 3),
        "unit": "ms",
        "baseline": round(baseline, 3),
        "ratio": round(value / baseline, 3),
        "n": n,
    }


# Models --------------------------------------------------------------------------------------------------


def _models() -> list[_Model]:
    rng = np.random.default_rng(0)

    def draw(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    def layers(*sizes: int) -> list[Array]:
        return [
            array
            for before, after in itertools.pairwise(sizes)
            for array in (draw(before, after, scale=before**-0.5), draw(after, scale=0.1))
        ]

    trees = [
        rng.integers(0, 30, (16, 7)).astype(np.int32),
        draw(16, 7),
        draw(16, 8),
    ]
    chosen = np.eye(30, dtype=np.float32)[trees[0].reshape(-1)].T
    return [
        _Model("mlp-30-64-32-1", 1, _mlp_sigmoid, [draw(1, 30), *layers(30, 64, 32, 1)]),
        _Model("mlp-30-64-32-1", 32, _mlp_sigmoid, [draw(32, 30), *layers(30, 64, 32, 1)]),
        _Model("cnn-28x28", 1, _cnn, [draw(1, 28, 28, 1), draw(5, 5, 1, 8, scale=0.2), *layers(1152, 10)]),
        _Model("mlp-512-1024-512-10", 1, _mlp, [draw(1, 512), *layers(512, 1024, 512, 10)]),
        _Model("trees-16x3", 1, _trees, [draw(1, 30), chosen, trees[1], trees[2]]),
    ]


def _mlp(x: Any, *layers: Any) -> Any:
    for index in range(0, len(layers), 2):
        x = x @ layers[index] + layers[index + 1]
        if index + 2 < len(layers):
            x = jax.nn.relu(x)
    return x


def _mlp_sigmoid(x: Any, *layers: Any) -> Any:
    return jax.nn.sigmoid(_mlp(x, *layers))


_IMAGES = ("NHWC", "HWIO", "NHWC")


def _cnn(x: Any, kernel: Any, weight: Any, bias: Any) -> Any:
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_IMAGES)
    x = jax.lax.reduce_window(jax.nn.relu(x), 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    return x.reshape(x.shape[0], -1) @ weight + bias


def _trees(x: Any, chosen: Any, thresholds: Any, leaves: Any) -> Any:
    """16 trees of depth 3: each node compares one feature; a leaf counts if all its turns are taken."""
    turns = ((x @ chosen) < thresholds.reshape(1, -1)).astype(jnp.float32).reshape(-1, 16, 7)
    reached = jnp.ones((x.shape[0], 16, 1), jnp.float32)
    for depth in range(3):
        taken = turns[:, :, 2**depth - 1 : 2 ** (depth + 1) - 1]
        reached = jnp.stack((reached * taken, reached * (1 - taken)), axis=-1).reshape(x.shape[0], 16, -1)
    return (reached * leaves).sum(axis=(1, 2))


# Soak ----------------------------------------------------------------------------------------------------

_WARM_UP_REQUESTS = 5_000


def soak(requests: int) -> dict[str, Any]:
    """Ask for so many corrections of all ten operations, check each, and watch the dealer's memory.

    ``value`` is the growth of its resident memory in MiB since the first few thousand requests.

    Raises:
        AssertionError: a correction is wrong.
    """
    steps = [
        Step("Mul", 8, (64,)),
        Step("MulPriv", 8, (64,)),
        Step("Square", 8, (64,)),
        Step("Dot", 8, (4, 8, 16)),
        Step("And", 16, (32,)),
        Step("Trunc", 8, (64, 18)),
        Step("TruncPr", 8, (64, 18)),
        Step("RandBit", 8, (64,)),
        Step("Eqz", 8, (64,)),
        Step("Perm", 8, (16, 1)),
    ]
    with DealerProcess(_UNWATCHED) as dealer:
        (grant, _) = register(dealer.address, dealer.public_key, "soak", Transcript.of(steps))
        seeds = [os.urandom(16), os.urandom(16)]
        party = AdjustingParty(dealer.address, [seal(grant.public_key, seed) for seed in seeds])
        memory = psutil.Process(dealer.pid).memory_info
        warm_bytes, start_s = 0, time.perf_counter()
        for index in range(requests):
            step, counter = steps[index % len(steps)], party.counter
            check_answer(step, seeds, counter, party.ask(step))
            if index == min(_WARM_UP_REQUESTS, requests // 2):
                warm_bytes = memory().rss
        growth_mib = (memory().rss - warm_bytes) / 2**20
        party.close()
    return {
        "name": "dealer_soak_growth",
        "protocol": "semi2k",
        "batch": 1,
        "value": round(growth_mib, 2),
        "unit": "MiB",
        "baseline": round(warm_bytes / 2**20, 1),
        "ratio": round(1 + growth_mib * 2**20 / warm_bytes, 4),
        "n": requests,
        "requests_per_s": round(requests / (time.perf_counter() - start_s)),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=0, help="requests; 0 compares instead")
    parser.add_argument("--adjust-rank", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.soak:
        print(json.dumps(soak(arguments.soak)))
        return
    for item in compare(adjust_rank=arguments.adjust_rank):
        print(json.dumps(item))


if __name__ == "__main__":
    _main()
