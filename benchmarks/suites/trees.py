"""A tree ensemble against the network: :mod:`benchmarks.trees` as a suite."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import trees
from benchmarks.records import Record
from benchmarks.workbench import Workbench

__all__ = ["run"]


def run(bench: Workbench) -> Iterator[Record]:
    """``trees_over_mlp``: xgboost, 100 trees of depth 6."""
    protocols = [name for name in bench.protocols if name != "cheetah"]
    yield from trees.measure(protocols, rounds=bench.scale(6, 2), times=bench.scale(6, 3))
