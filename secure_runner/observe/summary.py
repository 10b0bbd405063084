"""What an audit log tells of use: how much, when, and whether somebody may be extracting the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from secure_runner.observe.chain import Chain

__all__ = ["Summary", "summarise"]

_FEW_RUNS = 200
"""Fewer batches say nothing about a pattern."""
_SAME_SIZE_SHARE = 0.95
_BUSY_HOURS = 22
_SURGE_FACTOR = 5.0
_REFUSAL_SHARE = 0.2


@dataclass
class Summary:
    """Of one party's log. Rows are those that requests asked for, computed rows have the padding too."""

    party: str
    entries: int
    sessions: int = 0
    recoveries: int = 0
    runs: int = 0
    rows: int = 0
    computed_rows: int = 0
    rows_by_day: dict[str, int] = field(default_factory=dict)
    most_runs_a_minute: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """Of requests, where this is the data owner's log, and of refused batches."""
    rows_by_client: dict[str, int] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    """What somebody should look at, in sentences."""


def summarise(chain: Chain) -> Summary:
    """Count, and flag what is unusual."""
    summary = Summary(chain.party, len(chain.entries))
    runs = [e for e in chain.entries if e["event"] == "run" and e["run_id"] and e["outcome"] == "ok"]
    ends = [e for e in chain.entries if e["event"] == "session_end"]
    requests = [e for e in chain.entries if e["event"] == "request"]
    refused = [e for e in chain.entries if e["event"] == "refused"]
    summary.sessions = sum(e["event"] == "session_start" for e in chain.entries)
    summary.recoveries = sum(e["outcome"] != "ended" for e in ends)
    summary.runs = len(runs)
    summary.rows = sum(e["rows"] for e in runs)
    summary.computed_rows = sum(e["batch_size"] for e in runs)
    summary.rows_by_day = _sums((e["time"][:10], e["batch_size"]) for e in runs)
    summary.most_runs_a_minute = max(Counter(e["time"][:16] for e in runs).values(), default=0)
    summary.outcomes = dict(Counter(e["outcome"] for e in (*requests, *refused)).most_common())
    answered = (e for e in requests if e["outcome"] == "ok")
    summary.rows_by_client = _sums((str(e["client"]), e["rows"]) for e in answered)
    summary.flags = [
        *_extraction(chain, summary),
        *_patterns(runs),
        *_surges(summary),
        *_refusals(summary, refused),
    ]
    return summary


def _extraction(chain: Chain, summary: Summary) -> list[str]:
    """A model can be solved for from about as many answers as it has trained values (Tramèr et al., 2016)."""
    parameters = max((e["parameters"] for e in chain.entries if e["event"] == "opened"), default=0)
    if not parameters or summary.computed_rows < parameters:
        return []
    return [
        f"{summary.computed_rows} rows were computed and the model has {parameters} trained values: enough "
        "for equation-solving extraction (Tramèr et al., USENIX Security 2016), were the rows chosen for it"
    ]


def _patterns(runs: list[dict[str, Any]]) -> list[str]:
    flags = []
    if len(runs) >= _FEW_RUNS:
        size, count = Counter((e["rows"], e["batch_size"]) for e in runs).most_common(1)[0]
        if count / len(runs) >= _SAME_SIZE_SHARE and size[0] > 1:
            flags.append(
                f"{count} of {len(runs)} batches have exactly {size[0]} rows: a program asks, not people"
            )
    hours: dict[str, set[str]] = {}
    for entry in runs:
        hours.setdefault(entry["time"][:10], set()).add(entry["time"][11:13])
    flags.extend(
        f"{day}: batches in {len(busy)} of 24 hours; nobody sleeps"
        for day, busy in hours.items()
        if len(busy) >= _BUSY_HOURS
    )
    return flags


def _surges(summary: Summary) -> list[str]:
    days = summary.rows_by_day
    flags = []
    for day, rows in days.items():
        others = sorted(other for name, other in days.items() if name != day)
        if len(others) < 3:
            continue
        usual = others[len(others) // 2]
        if rows > _SURGE_FACTOR * usual:
            flags.append(f"{day}: {rows} rows, {rows / max(usual, 1):.1f} times as many as on a usual day")
    return flags


def _refusals(summary: Summary, refused: list[dict[str, Any]]) -> list[str]:
    flags = []
    if refused:
        flags.append(
            f"{len(refused)} batches beyond the data owner's limits were asked for between "
            f"{refused[0]['time']} and {refused[-1]['time']}: a runner that keeps to its terms asks for none"
        )
    total = sum(summary.outcomes.values())
    failed = total - summary.outcomes.get("ok", 0) - summary.outcomes.get("repeated", 0)
    if total >= _FEW_RUNS and failed / total > _REFUSAL_SHARE:
        flags.append(f"{failed} of {total} requests were refused or failed")
    return flags


def _sums(pairs: Any) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, number in pairs:
        sums[name] = sums.get(name, 0) + number
    return sums
