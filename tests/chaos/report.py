"""Tables for people, records for files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from chaos.campaign import Outcome, Recovery
from chaos.clients import CLEAN
from chaos.soak import Trend
from rich.table import Table

from benchmarks.records import Record

__all__ = ["outcomes_table", "records", "recoveries_table", "trends_table"]

SUITE = "chaos"


def outcomes_table(outcomes: Sequence[Outcome], trends: Sequence[Trend]) -> Table:
    """What clients saw, how soon, what was left at the end, and the largest growth of a process."""
    table = Table(title="Every request of every client; seconds to recover; growth over the soak")
    names = ("part", "faults", "right", "wrong", "hangs", *CLEAN, "lost", "other", "orphans", "ports")
    for name in (*names, "p50", "p95", "longest", "memory", "files"):
        table.add_column(name, justify="left" if name == "part" else "right", no_wrap=True)
    for outcome in outcomes:
        left = outcome.leftovers
        numbers = [outcome.counts[what] for what in ("right", "wrong", "hang", *CLEAN, "lost")]
        recoveries = [r.after_s for r in outcome.recoveries if r.after_s is not None]
        soaked = [t for t in trends if outcome.name == f"soak {t.protocol}"]
        table.add_row(
            outcome.name,
            str(len(outcome.recoveries)),
            *map(str, [*numbers, outcome.other]),
            "?" if left is None else str(len(left.orphans)),
            "?" if left is None else str(len(left.ports)),
            *_quantiles(recoveries),
            f"{max(trend.growth for trend in soaked):+.1%}" if soaked else "–",
            f"{max(trend.late_files - trend.early_files for trend in soaked):+.0f}" if soaked else "–",
        )
    return table


def recoveries_table(outcomes: Sequence[Outcome]) -> Table:
    """Seconds from each kind of fault to the next right answer."""
    table = Table(title="Seconds from the fault to a right answer to a later request")
    for name in ("part", "fault", "times", "p50", "p95", "longest", "standby was importing"):
        table.add_column(name, justify="left" if name in ("part", "fault") else "right")
    for outcome in outcomes:
        for fault, found in _by_fault(outcome):
            seconds = [r.after_s for r in found if r.after_s is not None]
            cold = sum(not r.warm for r in found)
            table.add_row(outcome.name, fault, str(len(found)), *_quantiles(seconds), str(cold))
        seconds = outcome.seconds_away()
        cold = sum(not r.warm for r in outcome.recoveries)
        table.add_row(outcome.name, "all", str(len(seconds)), *_quantiles(seconds), str(cold), style="bold")
    for what, server_worker in (("parties", False), ("workers of servers", True), ("both", None)):
        seconds = _of_all(outcomes, server_worker)
        table.add_row(
            "all parts", f"all faults of {what}", str(len(seconds)), *_quantiles(seconds), "", style="bold"
        )
    return table


def _quantiles(seconds: Sequence[float]) -> list[str]:
    return [f"{np.percentile(seconds, p):.1f}" for p in (50, 95, 100)] if seconds else ["–"] * 3


def _of_all(outcomes: Sequence[Outcome], server_worker: bool | None) -> list[float]:
    return [s for outcome in outcomes for s in outcome.seconds_away(server_worker=server_worker)]


def trends_table(trends: Sequence[Trend]) -> Table:
    """Memory and file descriptors of each process over the soak."""
    table = Table(title="Soak: medians after settling and at the end")
    for name in ("process", "memory, MB", "at the end", "growth", "files", "at the end", "flat"):
        table.add_column(name, justify="left" if name == "process" else "right")
    for trend in trends:
        table.add_row(
            f"{trend.protocol}, {trend.role}",
            f"{trend.early_mb:.1f}",
            f"{trend.late_mb:.1f}",
            f"{trend.growth:+.1%}",
            f"{trend.early_files:.0f}",
            f"{trend.late_files:.0f}",
            "yes" if trend.flat else "NO",
        )
    return table


def records(
    outcomes: Sequence[Outcome], trends: Sequence[Trend], *, seed: int, load_before: float, clients: int
) -> list[Record]:
    """One record a number."""
    noted = {"seed": seed, "load_before": round(load_before, 1), "clients": clients}
    found = [record for outcome in outcomes for record in _outcome_records(outcome, noted)]
    kinds = {"recovery_all": False, "server_worker_recovery_all": True, "recovery_mix": None}
    for name, server_worker in ((f"{name}_p95_s", kind) for name, kind in kinds.items()):
        seconds = _of_all(outcomes, server_worker)
        value = float(np.percentile(seconds, 95)) if seconds else None
        found.append(
            Record.of(
                name, suite=SUITE, protocol="all", batch=0, value=value, unit="s", n=len(seconds), **noted
            )
        )
    if trends:
        worst = max(trends, key=lambda trend: trend.growth)
        growth = {f"{trend.protocol}, {trend.role}": round(trend.growth, 4) for trend in trends}
        found.append(_record("soak_memory_growth", outcomes[0], worst.growth, "", len(trends), growth=growth))
    return found


def _outcome_records(outcome: Outcome, noted: dict[str, object]) -> Iterator[Record]:
    counts = {"part": outcome.name, **noted, "counts": dict(outcome.counts)}
    kinds = {"recovery": False, "server_worker_recovery": True, "mix_recovery": None}
    for name, server_worker in kinds.items():
        seconds = outcome.seconds_away(server_worker=server_worker)
        for percent in (50, 95):
            value = float(np.percentile(seconds, percent)) if seconds else None
            yield _record(f"{name}_p{percent}_s", outcome, value, "s", len(seconds), **counts)
    for fault, found in _by_fault(outcome):
        seconds = [r.after_s for r in found if r.after_s is not None]
        p50, p95 = (float(np.percentile(seconds, p)) if seconds else None for p in (50, 95))
        place = {"part": outcome.name, "fault": fault, "p50_s": p50}
        yield _record("fault_recovery_p95_s", outcome, p95, "s", len(seconds), **place, **noted)
    total = sum(outcome.counts.values())
    values = {
        "right_answers": outcome.counts["right"],
        "wrong_answers": outcome.counts["wrong"],
        "hangs": outcome.counts["hang"],
        "clean_refusals": sum(outcome.counts[what] for what in CLEAN),
        "lost_connections": outcome.counts["lost"],
        "unforeseen_answers": outcome.other,
    }
    if outcome.leftovers is not None:
        values["orphans"] = len(outcome.leftovers.orphans)
        values["ports_left"] = len(outcome.leftovers.ports)
    for name, count in values.items():
        yield _record(name, outcome, count, "", total, **counts)


def _record(name: str, outcome: Outcome, value: float | None, unit: str, n: int, **detail: object) -> Record:
    return Record.of(
        name, suite=SUITE, protocol=outcome.protocol, batch=0, value=value, unit=unit, n=n, **detail
    )


def _by_fault(outcome: Outcome) -> Iterator[tuple[str, list[Recovery]]]:
    def kind(recovery: Recovery) -> str:
        return recovery.fault

    for what, found in groupby(sorted(outcome.recoveries, key=kind), key=kind):
        yield what, list(found)
