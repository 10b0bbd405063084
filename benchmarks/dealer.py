"""SEMI2K with the dealer against SEMI2K with TrustedFirstParty (the floor) and CHEETAH.

``python -m benchmarks.dealer`` compares; ``--way-ms 5`` puts the dealer far away, ``--soak N`` soaks it.
Bare SPU runtimes in processes of their own, loopback, no TLS; the dealer is one more process on the same
cores. Its corrections reach the adjusting party as they do when a model is served: through a relay in its
process.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.dealer_models import DealtModel, dealt_models
from benchmarks.dealer_soak import soak
from benchmarks.dealt_parties import configs, record, register, relayed
from benchmarks.relay import Relay, on_loopback
from benchmarks.spu_parties import SpuParties, compile_function, free_ports
from secure_runner.dealer import DealerConfig, DealerLimits, DealerProcess

__all__ = ["compare", "compare_distance"]

Array = npt.NDArray[Any]

_ROUNDS = 6
_RUNS_A_ROUND = 6
_CHEETAH_RUNS = 6
_ATOL = 5e-2
# Nobody asks after the jobs here.
_UNWATCHED = DealerConfig(limits=DealerLimits(lease_s=24 * 3600))


@dataclass(frozen=True)
class _Settings:
    """How the runtimes of one comparison are configured."""

    key: str
    name: str
    semi2k: Mapping[str, Any]
    cheetah: Mapping[str, Any]
    owned: bool
    """Whether CHEETAH's inputs stay with their owners: the features with rank 1, the rest with rank 0."""

    def base(self, kind: str) -> Mapping[str, Any]:
        """Without a source of randomness, except for TrustedFirstParty."""
        if kind == "tfp":
            return {**self.semi2k, "beaver_type": "TrustedFirstParty"}
        return self.cheetah if kind == "cheetah" else self.semi2k

    def owners(self, kind: str, inputs: Sequence[Array]) -> list[int] | None:
        """Ranks that keep an input, where any does."""
        return [1] + [0] * (len(inputs) - 1) if self.owned and kind == "cheetah" else None


_PLAIN = {"field": "FM64", "fxp_fraction_bits": 18}
_PADE = {**_PLAIN, "fxp_exp_mode": "EXP_PADE"}
_DEFAULTS = _Settings(
    "defaults",
    "SPU's default settings",
    {**_PLAIN, "protocol": "SEMI2K"},
    {**_PLAIN, "protocol": "CHEETAH"},
    owned=False,
)
_AS_SERVED = _Settings(
    "served",
    "settings as served",
    {**_PADE, "protocol": "SEMI2K"},
    {**_PADE, "protocol": "CHEETAH", "experimental_enable_colocated_optimization": True},
    owned=True,
)


def compare(*, adjust_rank: int = 0, models: int | None = None) -> Iterator[dict[str, Any]]:
    """Medians of ``Runtime.run`` in ms, in turns: ``dealer_over_tfp`` and ``cheetah_over_dealer``.

    The first ``models`` of the list, or all; networks also with SPU's default settings for every protocol.
    ``n`` counts the dealer's runs; CHEETAH runs less often.
    """
    with SpuParties(2) as parties, DealerProcess(_UNWATCHED) as dealer:
        for model in dealt_models()[:models]:
            for settings in (_AS_SERVED, _DEFAULTS) if model.has_exponential else (_AS_SERVED,):
                yield from _compare_one(model, settings, parties, dealer, adjust_rank)


def _compare_one(
    model: DealtModel, settings: _Settings, parties: SpuParties, dealer: DealerProcess, adjust_rank: int
) -> list[dict[str, Any]]:
    compiled = compile_function(model.function, *model.inputs)
    name = f"{model.name}-{model.batch}-{settings.key}"
    requests = _open(name, model, compiled, settings, parties, dealer, adjust_rank)
    expected = np.asarray(model.function(*model.inputs))
    times: dict[str, list[float]] = {kind: [] for kind in ("dealer", "tfp", "cheetah")}
    for round_index in range(_ROUNDS + 1):
        for kind, durations in times.items():
            outputs, measured = parties.run(
                f"{kind}-{name}",
                compiled,
                model.inputs,
                settings.base(kind),
                times=_RUNS_A_ROUND if kind != "cheetah" else _CHEETAH_RUNS // _ROUNDS,
                owners=settings.owners(kind, model.inputs),
            )
            np.testing.assert_allclose(outputs[0], expected, atol=_ATOL)
            durations += measured if round_index > 0 else []
    medians = {kind: statistics.median(durations) for kind, durations in times.items()}
    about = {"model": model.name, "settings": settings.name, "requests": requests, "batch": model.batch}
    return [
        _record("dealer_over_tfp", medians["dealer"], medians["tfp"], len(times["dealer"])) | about,
        _record("cheetah_over_dealer", medians["cheetah"], medians["dealer"], len(times["cheetah"])) | about,
    ]


def _open(
    name: str,
    model: DealtModel,
    compiled: tuple[bytes, int],
    settings: _Settings,
    parties: SpuParties,
    dealer: DealerProcess,
    adjust_rank: int,
) -> int:
    """The three runtimes; returns the number of requests of a run."""
    address, identity = dealer.address, dealer.public_key
    transcript = record(compiled, model.inputs, settings.semi2k, adjust_rank=adjust_rank)
    grants = register(address, identity, name, transcript, adjust_rank=adjust_rank)
    relays = relayed(address, identity, grants[adjust_rank], transcript)
    parties.open(f"dealer-{name}", configs(address, grants, settings.semi2k), relays)
    for kind in ("tfp", "cheetah"):
        parties.open(f"{kind}-{name}", [settings.base(kind)] * 2)
    return len(transcript.steps)


def compare_distance(way_ms: float) -> dict[str, Any]:
    """The first network's run with the dealer ``way_ms`` away in each direction: asked by SPU's client
    itself (``value``), and through the relay (``baseline``). Medians in ms."""
    model = dealt_models()[0]
    compiled = compile_function(model.function, *model.inputs)
    transcript = record(compiled, model.inputs, _AS_SERVED.semi2k, adjust_rank=0)
    (port,) = free_ports(1)
    far, medians = f"127.0.0.1:{port}", []
    with (
        SpuParties(2) as parties,
        DealerProcess(_UNWATCHED) as dealer,
        Relay(on_loopback({port: int(dealer.address.rpartition(":")[2])})) as line,
    ):
        line.set_round_trip(2 * way_ms / 1000)
        for kind in ("direct", "relayed"):
            grants = register(far, dealer.public_key, kind, transcript, adjust_rank=0)
            relays = relayed(far, dealer.public_key, grants[0], transcript) if kind == "relayed" else None
            parties.open(kind, configs(far, grants, _AS_SERVED.semi2k), relays)
            parties.run(kind, compiled, model.inputs, _AS_SERVED.semi2k)
            runs = parties.run(kind, compiled, model.inputs, _AS_SERVED.semi2k, times=_RUNS_A_ROUND)
            medians.append(statistics.median(runs[1]))
    about = {"model": model.name, "way_ms": way_ms, "requests": len(transcript.steps), "batch": model.batch}
    return _record("dealer_direct_over_relayed", *medians, _RUNS_A_ROUND) | about


def _record(name: str, value: float, baseline: float, n: int) -> dict[str, Any]:
    return {
        "name": name,
        "protocol": "cheetah" if name.startswith("cheetah") else "semi2k",
        "value": round(value, 3),
        "unit": "ms",
        "baseline": round(baseline, 3),
        "ratio": round(value / baseline, 3),
        "n": n,
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--soak", type=int, default=0, help="requests; 0 compares instead")
    parser.add_argument("--way-ms", type=float, default=0, help="a dealer so far away, in each direction")
    parser.add_argument("--adjust-rank", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.soak:
        print(json.dumps(soak(arguments.soak)))
        return
    if arguments.way_ms:
        print(json.dumps(compare_distance(arguments.way_ms)))
        return
    for item in compare(adjust_rank=arguments.adjust_rank):
        print(json.dumps(item))


if __name__ == "__main__":
    _main()
