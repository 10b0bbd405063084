"""What a runner tells those who keep records of its party: sessions, batches, refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from secure_runner.party.about import AboutBatch
    from secure_runner.party.spec import SessionSpec

__all__ = ["IDLE_WATCH", "PartyWatch", "RunReport"]


@dataclass(frozen=True)
class RunReport:
    """One batch at one party. Times in seconds; phases that a party has no part in are 0."""

    run_id: int
    """0 for a warm-up."""
    about: AboutBatch
    outcome: str = "ok"
    """Or the code of the error that ended it."""
    share_s: float = 0.0
    wait_s: float = 0.0
    """From its shares being there until its run began."""
    run_s: float = 0.0
    reveal_s: float = 0.0
    sent_bytes: int = 0
    """Of input and output shares; the protocol's own rounds are not in it."""
    received_bytes: int = 0
    link_sent_bytes: int = 0
    """On the SPU link since the session began, as of a second ago."""
    link_received_bytes: int = 0
    stocks_ahead: int = 0
    """At the data owner, stocks of oblivious transfers that were made beside runs since the session began."""
    stocks_in_runs: int = 0
    """Those that a run had to wait for."""

    @property
    def duration_s(self) -> float:
        """From sharing to revealing."""
        return self.share_s + self.wait_s + self.run_s + self.reveal_s


class PartyWatch(Protocol):
    """Keeps records of one party. Its methods return at once and raise nothing."""

    def session_started(self, spec: SessionSpec) -> None:
        """The party was put into a session."""

    def session_ended(self, spec: SessionSpec, reason: str, duration_s: float) -> None:
        """Its part in the session is over."""

    def batch_ran(self, spec: SessionSpec, report: RunReport) -> None:
        """A batch was computed, or failed."""

    def batch_refused(self, spec: SessionSpec, about: AboutBatch, reason: str) -> None:
        """The model owner's limits did not admit a batch; the session ends."""


class _IdleWatch:
    """Keeps no records."""

    def session_started(self, spec: SessionSpec) -> None: ...

    def session_ended(self, spec: SessionSpec, reason: str, duration_s: float) -> None: ...

    def batch_ran(self, spec: SessionSpec, report: RunReport) -> None: ...

    def batch_refused(self, spec: SessionSpec, about: AboutBatch, reason: str) -> None: ...


IDLE_WATCH: PartyWatch = _IdleWatch()
