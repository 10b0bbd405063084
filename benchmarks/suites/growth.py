"""How latency and bytes grow with batch, width and depth: bare SPU on this project's rewritten programs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.models import NamedMlp, mlp, private_function
from benchmarks.records import Record
from benchmarks.spu_parties import SpuParties, compile_function
from benchmarks.workbench import Workbench
from secure_runner.programs.manifest import NumericSpec
from secure_runner.protocols import ProtocolName, protocol
from secure_runner.spu_config import runtime_config_dict

__all__ = ["run"]

SUITE = "growth"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
WIDTHS = (16, 32, 64, 128, 256)
DEPTHS = (1, 2, 3, 4, 6)


def run(bench: Workbench) -> Iterator[Record]:
    """One record a point: ``growth_batch``, ``growth_width`` and ``growth_depth``, in ms."""
    base = mlp()
    batches, widths, depths = (
        (BATCHES[::6], WIDTHS[::4], DEPTHS[::4]) if bench.quick else (BATCHES, WIDTHS, DEPTHS)
    )
    for name in bench.protocols:
        with SpuParties(len(protocol(name).roles)) as parties:
            point = _Points(parties, name, bench.scale(12, 4))
            for batch in batches:
                yield point.measure("growth_batch", base, batch, batch)
            for width in widths:
                yield point.measure("growth_width", mlp(30, (width, width, 1)), 1, width)
            for depth in depths:
                yield point.measure("growth_depth", mlp(30, (*(64,) * depth, 1)), 1, depth)


class _Points:
    def __init__(self, parties: SpuParties, name: ProtocolName, runs: int) -> None:
        self._parties, self._name, self._runs = parties, name, runs
        self._config = runtime_config_dict(name, NumericSpec(), insecure=True)
        parties.open(SUITE, [self._config] * len(parties.processes))

    def measure(self, name: str, model: NamedMlp, batch: int, x: int) -> Record:
        """One point; the first runs warm up."""
        function, weights = private_function(model.converted)
        inputs = [model.rows[:batch], *weights]
        compiled = compile_function(function, *inputs)
        self._parties.run(SUITE, compiled, inputs, self._config, times=2)
        runs = self._parties.run(SUITE, compiled, inputs, self._config, times=self._runs)[1]
        sent_bytes, messages = _traffic(model, inputs[:1], self._name)
        return Record.of(
            name,
            suite=SUITE,
            protocol="semi2k-tfp" if self._name == "semi2k" else self._name,
            batch=batch,
            value=statistics.median(runs),
            unit="ms",
            n=len(runs),
            x=x,
            sent_bytes=sent_bytes,
            messages=messages,
            model=model.name,
        )


def _traffic(model: NamedMlp, arrays: Sequence[np.ndarray], name: ProtocolName) -> tuple[int, int]:
    """Bytes and messages that rank 0 sends in one run, counted by SPU itself."""
    from secure_runner.testing import run_private

    traffic = run_private(model.converted, list(arrays), protocol=name, with_traffic=True).traffic
    assert traffic is not None
    return traffic.sent_bytes, traffic.messages
