"""SEMI2K with the dealer: against TrustedFirstParty and CHEETAH, far away, and for long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import dealer
from benchmarks.dealer_soak import soak
from benchmarks.records import Record
from benchmarks.workbench import Workbench

__all__ = ["run"]

SUITE = "dealing"
_WAY_MS = 5.0
_SOAK_REQUESTS = 1_000_000
_SOAK_S = 330.0
_QUICK_SOAK_REQUESTS = 5_000


def run(bench: Workbench) -> Iterator[Record]:
    """``dealer_over_tfp`` and ``cheetah_over_dealer`` for each model and settings; a dealer at a distance; a
    million requests."""
    for item in dealer.compare(models=2 if bench.quick else None):
        other = "dealer" if item["name"].startswith("cheetah") else "TrustedFirstParty (insecure)"
        yield _record(item, f"{other}; {item['model']}, {item['settings']} for both")
    yield _record(dealer.compare_distance(_WAY_MS), f"through the relay; dealer {_WAY_MS} ms away")
    requests = _QUICK_SOAK_REQUESTS if bench.quick else _SOAK_REQUESTS
    yield _record(soak(requests, within_s=_SOAK_S), "resident memory of the dealer; every answer checked")


def _record(item: dict[str, Any], against: str) -> Record:
    known = set(Record.model_fields)
    rest = {key: value for key, value in item.items() if key not in known}
    fields = {key: item[key] for key in ("name", "protocol", "batch", "value", "unit", "baseline", "n")}
    return Record.of(**fields, suite=SUITE, against=against, **rest)
