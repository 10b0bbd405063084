"""What each setting that this project chooses brings: bare SPU with it and without it, in turns."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.models import mlp, private_function
from benchmarks.records import Record
from benchmarks.spu_parties import SpuParties, compile_function
from benchmarks.workbench import Workbench
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import ProtocolName, protocol
from secure_runner.spu_config import runtime_config_dict

__all__ = ["run"]

SUITE = "tuning"
_EXP = "fxp_exp_mode"
_OWNED = "experimental_enable_colocated_optimization"
_BATCH = 32


@dataclass(frozen=True)
class _Way:
    """One way to run the network."""

    peeled: bool
    """The rewritten program, its sigmoid left to the data owner; otherwise the network as it is."""
    sequence_ids: bool
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Instead of those of this project."""
    batch: int = 1


def run(bench: Workbench) -> Iterator[Record]:
    """``tuning`` records: p50 of a run as served and without one setting, in ms; ``detail`` names it."""
    for name in bench.protocols:
        served = _Way(peeled=True, sequence_ids=not protocol(name).link_without_sequence_ids)
        with contextlib.ExitStack() as stack:
            bed = _Bed(stack, name)
            for setting, as_served, without in _comparisons(name, served):
                yield _compare(bench, bed, name, setting, (as_served, without))


def _comparisons(name: ProtocolName, served: _Way) -> Iterator[tuple[str, _Way, _Way]]:
    whole = _Way(peeled=False, sequence_ids=served.sequence_ids)
    yield "the sigmoid is left to the data owner", served, whole
    yield "Padé exponential, sigmoid under MPC", whole, _Way(False, served.sequence_ids, {_EXP: "EXP_TAYLOR"})
    precise = {"field": "FM128", "fxp_fraction_bits": 26}
    yield "FM64 with 18 fraction bits, not FM128 with 26", served, _Way(True, served.sequence_ids, precise)
    if not served.sequence_ids:
        yield "no sequence ids on the link", served, _Way(True, sequence_ids=True)
    if protocol(name).inputs_stay_with_owner:
        yield "inputs stay with their owners", served, _Way(True, served.sequence_ids, {_OWNED: False})
    if protocol(name).homomorphic_products:
        ways = (_Way(True, served.sequence_ids, _packing(packed), _BATCH) for packed in (False, True))
        yield "answers of products are not packed", *ways


def _packing(packed: bool) -> dict[str, Any]:
    return {"cheetah_2pc_config": {"disable_matmul_pack": not packed}}


class _Bed:
    """Party processes of both kinds of link, and the network in both forms."""

    def __init__(self, stack: contextlib.ExitStack, name: ProtocolName) -> None:
        self._stack, self._name = stack, name
        self._parties: dict[bool, SpuParties] = {}
        self._opened: set[str] = set()
        model = mlp()
        function, weights = private_function(model.converted)
        rows = {batch: model.rows[:batch] for batch in (1, _BATCH)}
        self._inputs = {
            (peeled, batch): [rows[batch], *(weights if peeled else model.weights)]
            for peeled in (True, False)
            for batch in rows
        }
        self._compiled = {
            (peeled, batch): compile_function(function if peeled else model.unmodified, *inputs)
            for (peeled, batch), inputs in self._inputs.items()
        }

    def run(self, way: _Way, times: int) -> list[float]:
        """Milliseconds of each run."""
        if way.sequence_ids not in self._parties:
            count = len(protocol(self._name).roles)
            made = SpuParties(count, without_sequence_ids=not way.sequence_ids)
            self._parties[way.sequence_ids] = self._stack.enter_context(made)
        parties = self._parties[way.sequence_ids]
        config = runtime_config_dict(self._name, NumericSpec(), insecure=True) | dict(way.settings)
        key = str(way)
        if key not in self._opened:
            self._opened.add(key)
            parties.open(key, [config] * len(parties.processes))
        form = way.peeled, way.batch
        inputs = self._inputs[form]
        return parties.run(
            key, self._compiled[form], inputs, config, times=times, owners=_owners(config, inputs)
        )[1]


def _owners(config: Mapping[str, Any], inputs: Sequence[Any]) -> list[int] | None:
    """The data owner's rank is 1, the model owner's 0."""
    return [1, *[0] * (len(inputs) - 1)] if config[_OWNED] else None


def _compare(
    bench: Workbench, bed: _Bed, name: ProtocolName, setting: str, ways: tuple[_Way, _Way]
) -> Record:
    times: tuple[list[float], list[float]] = ([], [])
    rounds, runs = bench.scale(6, 2), bench.scale(6, 3)
    for turn in range(rounds + 1):
        for way, taken in zip(ways, times, strict=True):
            measured = bed.run(way, runs if turn else 2)
            taken += measured if turn else []
    served, without = (statistics.median(taken) for taken in times)
    return Record.of(
        "tuning",
        suite=SUITE,
        protocol="semi2k-tfp" if name == "semi2k" else name,
        batch=ways[0].batch,
        value=served,
        unit="ms",
        baseline=without,
        n=len(times[0]),
        setting=setting,
        against=f"the same without: {setting}",
    )
