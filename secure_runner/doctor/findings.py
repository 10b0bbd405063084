"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "fault", "good", "headline", "note"]

Level = Literal["good", "note", "fault"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    """What was looked at, for example ``lender: TLS identity``."""
    detail: str
    """What was found, in a sentence."""
    remedy: str = ""
    """What to do about it."""


def good(subject: str, detail: str) -> Finding:
    """All is well."""
    return Finding("good", subject, detail)


def note(subject: str, detail: str, remedy: str = "") -> Finding:
    """Not wrong, or not to be told from here; worth knowing."""
    return Finding("note", subject, detail, remedy)


def fault(subject: str, detail: str, remedy: str) -> Finding:
    """Wrong: requests will not be served like this."""
    return Finding("fault", subject, detail, remedy)


def headline(findings: list[Finding]) -> str:
    """The first line of a report: the first fault, since later ones often follow from it."""
    faults = [finding for finding in findings if finding.level == "fault"]
    if not faults:
        return f"OK: {len(findings)} checks, no fault"
    more = f" (and {len(faults) - 1} more below)" if len(faults) > 1 else ""
    detail = " ".join(faults[0].detail.split())
    return f"FAULT: {faults[0].subject}: {detail}{more}"
