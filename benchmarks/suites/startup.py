"""From ``bentoml serve`` to ready, and where the time goes."""

from __future__ import annotations

import re
from collections.abc import Iterator

from benchmarks.models import mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench

__all__ = ["run"]

SUITE = "startup"
_STAGES = re.compile(r"party (?P<party>\S+) serves after (?P<stages>[a-z_]+ [\d.]+ s(?:, [a-z_]+ [\d.]+ s)*)")


def run(bench: Workbench) -> Iterator[Record]:
    """``startup_ready_s`` for each protocol; the data owner's party says what took how long."""
    model = mlp()
    for name in bench.protocols:
        bench.bento(model, name)
        with bench.serve(model, name) as served:
            stages = _stages(served.log.read_text(errors="replace"))
            yield Record.of(
                "startup_ready_s",
                suite=SUITE,
                protocol=name,
                batch=0,
                value=served.ready_s,
                unit="s",
                n=1,
                stages_s=stages | {"bentoml": round(served.ready_s - sum(stages.values()), 2)},
            )


def _stages(log: str) -> dict[str, float]:
    """Stage to seconds, of the party that was the last to be ready."""
    longest: dict[str, float] = {}
    for match in _STAGES.finditer(log):
        stages = {part.split()[0]: float(part.split()[1]) for part in match["stages"].split(", ")}
        if sum(stages.values()) > sum(longest.values()):
            longest = stages
    return longest
