"""SEMI2K with the dealer against TrustedFirstParty and CHEETAH: :mod:`benchmarks.dealer` as a suite."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import dealer
from benchmarks.records import Record
from benchmarks.workbench import Workbench

__all__ = ["run"]

SUITE = "dealing"


def run(bench: Workbench) -> Iterator[Record]:
    """``dealer_over_tfp`` and ``cheetah_over_dealer`` for each model."""
    known = set(Record.model_fields)
    for item in dealer.compare(models=2 if bench.quick else None):
        against = "dealer" if item["name"].startswith("cheetah") else "TrustedFirstParty (insecure)"
        rest = {key: value for key, value in item.items() if key not in known}
        fields = {key: item[key] for key in ("name", "protocol", "batch", "value", "unit", "baseline", "n")}
        yield Record.of(**fields, suite=SUITE, against=against, **rest)
