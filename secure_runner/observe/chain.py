"""Reading audit logs: is the chain whole, and do the logs of two parties tell of the same batches?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_runner.observe.audit import FIRST, line_digest

__all__ = ["Chain", "Comparison", "compare", "read_chain", "read_chains"]

Entry = dict[str, Any]
_RunKey = tuple[str, int, int]
_COMPARED = ("batch_id", "batch_size", "rows", "epoch", "lane", "program_digest", "cluster_digest")
_SHARES_AHEAD = 4
"""Batches that may be under way when a session ends: known to one party, not yet to the other."""


@dataclass
class Chain:
    """One series of files of one party."""

    party: str
    role: str
    entries: list[Entry] = field(default_factory=list)
    """In order; each has the ``cluster_digest`` that its file or restart names."""
    problems: list[str] = field(default_factory=list)
    head: str = FIRST
    """SHA-256 (hex) of the last line."""
    complete: bool = True
    """Whether it begins with the chain's first entry; earlier files may have been left out."""


@dataclass
class Comparison:
    """Batches of two parties, matched one by one."""

    matched: int = 0
    under_way: list[str] = field(default_factory=list)
    """Known to one party alone, because the session ended under them."""
    problems: list[str] = field(default_factory=list)


def read_chains(files: Iterable[Path]) -> list[Chain]:
    """Read files of any number of parties and series; those of a series belong together by their names."""
    series: dict[str, list[Path]] = {}
    for path in files:
        series.setdefault(f"{path.resolve().parent}/{path.stem.rpartition('-')[0]}", []).append(path)
    return [read_chain(sorted(paths)) for paths in series.values()]


def read_chain(files: Sequence[Path]) -> Chain:
    """Read the files of one series, in order, and check every link of the chain."""
    chain = Chain(party="", role="")
    previous: str | None = None
    sequence: int | None = None
    opened: Entry = {}
    for path in files:
        for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
            where = f"{path.name}:{number}"
            if not line:
                continue
            try:
                entry = json.loads(line)
                said, place, event = entry["previous"], entry["sequence"], entry["event"]
            except (ValueError, KeyError, TypeError):
                chain.problems.append(f"{where}: is no entry")
                previous = line_digest(line)
                continue
            if previous is None:
                chain.complete = said == FIRST and place == 0
            elif said != previous:
                chain.problems.append(f"{where}: does not follow from the line before it")
            if sequence is not None and place != sequence + 1:
                chain.problems.append(f"{where}: entry {sequence + 1} is expected, {place} came")
            if event == "opened":
                opened = entry
                chain.party, chain.role = str(entry.get("party")), str(entry.get("role"))
            elif not opened:
                chain.problems.append(f"{where}: comes before any entry that says whose log it is")
            if entry.get("lost_entries"):
                chain.problems.append(f"{where}: {entry['lost_entries']} entries are missing before it")
            chain.entries.append({**entry, "cluster_digest": opened.get("cluster_digest")})
            previous, sequence = line_digest(line), place
    chain.head = FIRST if previous is None else previous
    return chain


def compare(ours: Chain, theirs: Chain) -> Comparison:
    """Match the batches of two parties of the same sessions, one by one.

    A batch that one party alone knows is a finding, unless it was among the last of a session that ended:
    then it may have been under way. Sessions that one of the logs does not know at all (because it begins
    later, or files were left out) are compared like any other, so give logs of the same time.
    """
    found = Comparison()
    own, other = _runs(ours), _runs(theirs)
    for key in sorted(own.keys() | other.keys()):
        mine, yours = own.get(key), other.get(key)
        if mine is None or yours is None:
            known, unaware = (ours, theirs) if mine is not None else (theirs, ours)
            _judge_missing(key, (mine or yours or [])[0], known, unaware, found)
            continue
        found.matched += min(len(mine), len(yours))
        if len(mine) != len(yours):
            found.problems.append(
                f"{_name(key)}: {len(mine)} times at {ours.party}, {len(yours)} times at {theirs.party}"
            )
        _judge_fields(key, mine[0], yours[0], ours, theirs, found)
    return found


def _judge_missing(key: _RunKey, entry: Entry, known: Chain, unaware: Chain, found: Comparison) -> None:
    session, run_id, _ = key
    last = max((k[1] for k in _runs(unaware) if k[0] == session), default=0)
    sentence = f"{_name(key)}: {entry['outcome']} at {known.party}, unknown at {unaware.party}"
    ended = _has_ended(known, session) or _has_ended(unaware, session)
    if ended and last < run_id <= last + _SHARES_AHEAD:
        found.under_way.append(sentence)
    elif entry["outcome"] == "ok":
        found.problems.append(sentence)
    else:
        found.under_way.append(sentence)


def _judge_fields(
    key: _RunKey, mine: Entry, yours: Entry, ours: Chain, theirs: Chain, found: Comparison
) -> None:
    for name in _COMPARED:
        if mine.get(name) != yours.get(name):
            found.problems.append(
                f"{_name(key)}: {name} is {mine.get(name)} at {ours.party}, "
                f"{yours.get(name)} at {theirs.party}"
            )


def _runs(chain: Chain) -> dict[_RunKey, list[Entry]]:
    """Batches by session, run id and, for warm-ups, which all have run id 0, batch size."""
    runs: dict[_RunKey, list[Entry]] = {}
    for entry in chain.entries:
        if entry["event"] == "run":
            size = entry["batch_size"] if entry["run_id"] == 0 else 0
            runs.setdefault((entry["session_id"], entry["run_id"], size), []).append(entry)
    return runs


def _has_ended(chain: Chain, session: str) -> bool:
    return any(e["event"] == "session_end" and e["session_id"] == session for e in chain.entries)


def _name(key: _RunKey) -> str:
    session, run_id, batch_size = key
    return f"session {session}, " + (f"warm-up of {batch_size}" if run_id == 0 else f"run {run_id}")
