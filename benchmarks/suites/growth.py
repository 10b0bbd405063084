"""How latency, bytes and rounds grow with batch, width, depth and round trip, beside what is estimated.

Bare SPU on this project's rewritten programs; the estimate is what ``secure-runner estimate`` says, as it
stands and, for milliseconds, scaled to a run timed beforehand, which is what its ``--measured-ms`` does.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.estimate_error import NOWHERE
from benchmarks.estimate_runs import Runs
from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench
from secure_runner.programs.estimate import Estimate, Network, estimate
from secure_runner.protocols import ProtocolName

__all__ = ["run"]

SUITE = "growth"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 3, 4, 6)
ROUND_TRIPS_MS = (1, 5, 10, 20, 40)
_ESTIMATED = {
    "estimated_ms": "value",
    "estimated_scaled_ms": "value",
    "estimated_bytes": "sent_bytes",
    "estimated_rounds": "rounds",
}
"""Where an estimate is, and what a point measures of it."""


def run(bench: Workbench) -> Iterator[Record]:
    """One record a point: ``growth_batch``, ``growth_width``, ``growth_depth``, ``growth_rtt``, in ms; then
    how far estimates are off these points, in percent."""
    for name in bench.protocols:
        points = []
        for record in _points(bench, name):
            points.append(record)
            yield record
        yield from _errors(points)


def _points(bench: Workbench, name: ProtocolName) -> Iterator[Record]:
    base, step = mlp(), bench.scale(1, 4)
    with contextlib.closing(Runs(name)) as runs:
        point = _Points(runs, bench.scale(30, 4), base)
        for batch in BATCHES[:: bench.scale(1, 6)]:
            yield point.measure("growth_batch", base, batch, batch)
        for width in WIDTHS[::step]:
            yield point.measure("growth_width", mlp(30, (width, width, 1)), 1, width)
        for depth in DEPTHS[::step]:
            yield point.measure("growth_depth", mlp(30, (*(64,) * depth, 1)), 1, depth)
        for round_trip_ms in ROUND_TRIPS_MS[::step]:
            yield point.over_network(base, round_trip_ms)


def _errors(points: Sequence[Record]) -> Iterator[Record]:
    """Of one protocol: the median error of what is estimated, and the largest, as percentages."""
    for estimated, measured in _ESTIMATED.items():
        found = [{"value": point.value, **point.detail} for point in points]
        held = [(point[estimated], point[measured]) for point in found if measured in point]
        off = [100 * abs(says / is_ - 1) for says, is_ in held]
        yield Record.of(
            estimated.replace("estimated", "estimate_error"),
            suite=SUITE,
            protocol=points[0].protocol,
            batch=0,
            value=statistics.median(off),
            unit="%",
            n=len(off),
            against=f"all points of growth; at most {max(off):.0f} %",
        )


class _Points:
    def __init__(self, runs: Runs, times: int, base: NamedMlp) -> None:
        self._runs, self._times = runs, times
        first = runs.measure(base.name, base.converted, [base.rows[:1]], times)
        self._speed = estimate(base.converted, protocol=runs.name).speed(first.run_ms / 1000)

    def measure(self, name: str, model: NamedMlp, batch: int, x: int) -> Record:
        """One point with no network between."""
        found = self._runs.measure(model.name, model.converted, [model.rows[:batch]], self._times)
        priced = estimate(model.converted, protocol=self._runs.name, batch_size=batch)
        return self._record(
            name,
            priced,
            value=found.run_ms,
            n=self._times,
            x=x,
            model=model.name,
            **self._estimated_ms(priced, NOWHERE),
            sent_bytes=round(found.sent_bytes),
            rounds=round(found.rounds, 1),
        )

    def over_network(self, model: NamedMlp, round_trip_ms: float) -> Record:
        """One row with a round trip between the parties, and no limit of bandwidth."""
        priced = estimate(model.converted, protocol=self._runs.name, batch_size=1)
        network = Network("relay", round_trip_ms / 1000, float("inf"))
        return self._record(
            "growth_rtt",
            priced,
            value=self._runs.far_ms(model.converted, [model.rows[:1]], round_trip_ms, self._times),
            n=self._times,
            x=round_trip_ms,
            model=model.name,
            **self._estimated_ms(priced, network),
        )

    def _estimated_ms(self, priced: Estimate, network: Network) -> dict[str, float]:
        speeds = {"estimated_ms": 1.0, "estimated_scaled_ms": self._speed}
        return {name: round(1000 * priced.seconds(network, speed), 2) for name, speed in speeds.items()}

    def _record(self, name: str, priced: Estimate, **fields: Any) -> Record:
        return Record.of(
            name,
            suite=SUITE,
            protocol="semi2k-tfp" if priced.protocol == "semi2k" else priced.protocol,
            batch=priced.batch_size,
            unit="ms",
            estimated_bytes=priced.sent_bytes,
            estimated_rounds=priced.rounds,
            **fields,
        )
