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
    reader = _Reader()
    for path in files:
        # An audit log may be larger than memory would like: line by line.
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                reader.take(f"{path.name}:{number}", line)
    return reader.chain


class _Reader:
    """Follows a chain line by line."""

    def __init__(self) -> None:
        self.chain = Chain(party="", role="")
        self._previous: str | None = None
        self._sequence = -1
        self._opened: Entry = {}

    def take(self, where: str, line: bytes) -> None:
        """Check the next line against the one before."""
        content = line.rstrip(b"\n")
        if len(content) == len(line):
            self._problem(where, "is cut off")
        try:
            entry = json.loads(content)
            said, place, event = entry["previous"], int(entry["sequence"]), str(entry["event"])
            str(entry["time"])
        except (ValueError, KeyError, TypeError):
            self._problem(where, "is no entry")
        else:
            self._follow(where, said, place)
            self._take_entry(where, entry, event)
            self._sequence = place
        self._previous = self.chain.head = line_digest(content)

    def _follow(self, where: str, said: str, place: int) -> None:
        if self._previous is None:
            self.chain.complete = said == FIRST and place == 0
            return
        if said != self._previous:
            self._problem(where, "does not follow from the line before it")
        if place != self._sequence + 1:
            self._problem(where, f"entry {self._sequence + 1} is expected, {place} came")

    def _take_entry(self, where: str, entry: Entry, event: str) -> None:
        if event == "opened":
            self._opened = entry
            self.chain.party, self.chain.role = str(entry.get("party")), str(entry.get("role"))
        elif not self._opened:
            self._problem(where, "comes before any entry that says whose log it is")
        if entry.get("lost_entries"):
            self._problem(where, f"{entry['lost_entries']} entries are missing before it")
        self.chain.entries.append({**entry, "cluster_digest": self._opened.get("cluster_digest")})

    def _problem(self, where: str, what: str) -> None:
        self.chain.problems.append(f"{where}: {what}")


def compare(ours: Chain, theirs: Chain) -> Comparison:
    """Match the batches of two parties of the same sessions, one by one.

    A batch that one party alone knows is a finding, unless it was among the last of a session that ended:
    then it may have been under way. Sessions that one of the logs does not know at all (because it begins
    later, or files were left out) are compared like any other, so give logs of the same time.
    """
    found = Comparison()
    own, other = _Runs(ours), _Runs(theirs)
    for key in sorted(own.by_key.keys() | other.by_key.keys()):
        mine, yours = own.by_key.get(key), other.by_key.get(key)
        if mine is None:
            _judge_missing(key, other, own, found)
        elif yours is None:
            _judge_missing(key, own, other, found)
        else:
            found.matched += min(len(mine), len(yours))
            if len(mine) != len(yours):
                found.problems.append(
                    f"{_name(key)}: {len(mine)} times at {ours.party}, {len(yours)} times at {theirs.party}"
                )
            _judge_fields(key, mine[0], yours[0], ours, theirs, found)
    return found


class _Runs:
    """Batches of one party by session, run id and, for warm-ups, which all have run id 0, batch size."""

    def __init__(self, chain: Chain) -> None:
        self.party = chain.party
        self.by_key: dict[_RunKey, list[Entry]] = {}
        self.last_of: dict[str, int] = {}
        self.ended: set[str] = set()
        for entry in chain.entries:
            if entry["event"] == "session_end":
                self.ended.add(entry["session_id"])
            elif entry["event"] == "run":
                session, run_id = entry["session_id"], entry["run_id"]
                size = entry["batch_size"] if run_id == 0 else 0
                self.by_key.setdefault((session, run_id, size), []).append(entry)
                self.last_of[session] = max(run_id, self.last_of.get(session, 0))


def _judge_missing(key: _RunKey, known: _Runs, unaware: _Runs, found: Comparison) -> None:
    session, run_id, _ = key
    outcome = known.by_key[key][0]["outcome"]
    sentence = f"{_name(key)}: {outcome} at {known.party}, unknown at {unaware.party}"
    last = unaware.last_of.get(session, 0)
    at_the_end = session in known.ended | unaware.ended and last <= run_id <= last + _SHARES_AHEAD
    if outcome != "ok" or at_the_end:
        found.under_way.append(sentence)
    else:
        found.problems.append(sentence)


def _judge_fields(
    key: _RunKey, mine: Entry, yours: Entry, ours: Chain, theirs: Chain, found: Comparison
) -> None:
    for name in _COMPARED:
        if mine.get(name) != yours.get(name):
            found.problems.append(
                f"{_name(key)}: {name} is {mine.get(name)} at {ours.party}, "
                f"{yours.get(name)} at {theirs.party}"
            )


def _name(key: _RunKey) -> str:
    session, run_id, batch_size = key
    return f"session {session}, " + (f"warm-up of {batch_size}" if run_id == 0 else f"run {run_id}")
