"""Records of one party: what happens to it, told to its audit log, its metrics, its traces and its log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secure_runner.observe.audit import AuditIdentity, AuditLog, Event
from secure_runner.observe.metrics import Metrics, metrics
from secure_runner.observe.traces import record_span, trace_id_of
from secure_runner.sessions.watch import RunReport

if TYPE_CHECKING:
    from secure_runner.config import Cluster
    from secure_runner.party.about import AboutBatch
    from secure_runner.party.spec import SessionSpec
    from secure_runner.programs.manifest import Manifest

__all__ = ["PartyRecord", "Records", "RequestNote"]

_log = logging.getLogger(__name__)


@dataclass
class RequestNote:
    """What is known of one request of the data owner's, collected while it goes through the queue."""

    request_id: str
    client: str | None
    traceparent: str
    rows: int = 0
    bytes_: int = 0
    """Of its arrays, inputs and outputs."""
    batches: list[tuple[SessionSpec, str]] = field(default_factory=list)
    """Session and batch id of each batch that some of its rows were in."""


class PartyRecord:
    """Keeps the records of one party; see :class:`secure_runner.sessions.watch.PartyWatch`."""

    def __init__(self, party: str, peers: Sequence[str], program_digest: str, audit: AuditLog | None) -> None:
        self._party = party
        self._peers = list(peers)
        self._program_digest = program_digest
        self._audit = audit
        self._metrics: Metrics = metrics()

    def session_started(self, spec: SessionSpec) -> None:
        """The party was put into a session."""
        self._metrics.of("secure_runner_sessions_total", self._party).inc()
        self._metrics.of("secure_runner_epoch", str(spec.lane)).set(spec.epoch)
        self._write("session_start", _place(spec) | {"peers": self._peers}, durable=True)
        _log.info("%s: session %s starts", self._party, spec.session_id, extra=_place(spec))

    def session_ended(self, spec: SessionSpec, reason: str, duration_s: float) -> None:
        """Its part in the session is over."""
        self._metrics.of("secure_runner_session_ends_total", self._party, reason).inc()
        entry = _place(spec) | {"outcome": reason, "duration_s": round(duration_s, 3)}
        self._write("session_end", entry, durable=True)
        _log.info("%s: session %s is over (%s)", self._party, spec.session_id, reason, extra=_place(spec))

    def batch_ran(self, spec: SessionSpec, report: RunReport) -> None:
        """A batch was computed, or failed."""
        self._count(spec.lane, report)
        about = report.about
        entry: dict[str, Any] = {
            **_place(spec),
            "run_id": report.run_id,
            "batch_id": about.batch_id,
            "batch_size": about.batch_size,
            "rows": about.rows,
            "outcome": report.outcome,
            "duration_s": round(report.duration_s, 6),
            "sent_bytes": report.sent_bytes,
            "received_bytes": report.received_bytes,
            "trace_id": trace_id_of(about.traceparent),
        }
        self._write("run", entry | {"peers": self._peers})
        seconds = {f"{name}_s": s for name, s in _phases(report).items()}
        attributes = {f"secure_runner.{name}": value for name, value in (entry | seconds).items()}
        attributes["secure_runner.party"] = self._party
        record_span("secure_runner.batch", about.traceparent, report.duration_s, attributes)

    def batch_refused(self, spec: SessionSpec, about: AboutBatch, reason: str) -> None:
        """The model owner's limits did not admit a batch; the session ends."""
        self._metrics.of("secure_runner_refusals_total", reason).inc()
        entry = _place(spec) | {
            "batch_id": about.batch_id,
            "batch_size": about.batch_size,
            "rows": about.rows,
            "outcome": reason,
            "peers": self._peers,
        }
        self._write("refused", entry, durable=True)
        _log.warning(
            "%s: a batch of %d was refused (%s), which a data owner that keeps to its terms does not ask for",
            self._party,
            about.batch_size,
            reason,
            extra=_place(spec),
        )

    def waited(self, seconds: Sequence[float]) -> None:
        """Rows of requests leave the queue, after these times."""
        phase = self._metrics.of("secure_runner_phase_seconds", self._party, "queue")
        for waited_s in seconds:
            phase.observe(waited_s)

    def request_answered(self, note: RequestNote, outcome: str, duration_s: float) -> None:
        """A request of the data owner's was answered, or refused by the runner."""
        if outcome == "ok":
            self._metrics["secure_runner_rows_total"].inc(note.rows)
        elif outcome == "repeated":
            self._metrics["secure_runner_repeated_requests_total"].inc()
        if self._audit is None:
            return
        places = {(spec.session_id, spec.epoch, spec.lane) for spec, _ in note.batches}
        entry: dict[str, Any] = {
            "request_id": note.request_id,
            "client": note.client,
            "rows": note.rows,
            "outcome": outcome,
            "duration_s": round(duration_s, 6),
            "bytes": note.bytes_,
            "sessions": sorted(session for session, _, _ in places),
            "epoch": max((epoch for _, epoch, _ in places), default=None),
            "lanes": sorted({lane for _, _, lane in places}),
            "batch_ids": [batch_id for _, batch_id in note.batches],
            "trace_id": trace_id_of(note.traceparent),
        }
        self._write("request", entry)

    def close(self) -> None:
        """Bring the audit log to the disk."""
        if self._audit is not None:
            self._audit.close()

    def _write(self, event: str, entry: Event, *, durable: bool = False) -> None:
        if self._audit is None:
            return
        written = self._audit.write(event, {**entry, "program_digest": self._program_digest}, durable=durable)
        if not written:
            self._metrics.of("secure_runner_audit_lost_total", self._party).inc()

    def _count(self, lane: int, report: RunReport) -> None:
        party, about = self._party, report.about
        self._metrics.of("secure_runner_batches_total", party, report.outcome).inc()
        if report.outcome != "ok" or report.run_id == 0:
            return
        self._metrics.of("secure_runner_batch_rows", party).observe(about.rows)
        self._metrics.of("secure_runner_computed_rows_total", party).inc(about.batch_size)
        for phase, seconds in _phases(report).items():
            self._metrics.of("secure_runner_phase_seconds", party, phase).observe(seconds)
        for direction, shares, link in (
            ("sent", report.sent_bytes, report.link_sent_bytes),
            ("received", report.received_bytes, report.link_received_bytes),
        ):
            self._metrics.of("secure_runner_share_bytes_total", party, direction).inc(shares)
            self._metrics.of("secure_runner_link_bytes", party, str(lane), direction).set(link)
        for made, stocks in (("ahead", report.stocks_ahead), ("in_run", report.stocks_in_runs)):
            if stocks:
                self._metrics.of("secure_runner_transfer_stocks", str(lane), made).set(stocks)


class Records:
    """Records of every party that a runner looks after: one, or in an embedded deployment all.

    Args:
        cluster: what the parties agree on.
        manifest: of the program.
        audit_directory: where audit logs are kept; None keeps none.
    """

    def __init__(self, cluster: Cluster, manifest: Manifest, audit_directory: Path | None) -> None:
        self._cluster = cluster
        self._manifest = manifest
        self._digest = manifest.digest
        self._audit_directory = audit_directory
        self._records: dict[str, PartyRecord] = {}

    def of(self, party: str) -> PartyRecord:
        """Of one party, over all lanes.

        Raises:
            ConfigError: its audit log cannot be written.
        """
        if party not in self._records:
            peers = [name for name in self._cluster.ranked_parties if name != party]
            self._records[party] = PartyRecord(party, peers, self._digest, self._audit_of(party))
        return self._records[party]

    def close(self) -> None:
        """Bring the audit logs to the disk."""
        for record in self._records.values():
            record.close()

    def _audit_of(self, party: str) -> AuditLog | None:
        if self._audit_directory is None:
            return None
        identity = AuditIdentity(
            party=party,
            role=self._cluster.parties[party].role,
            cluster=self._cluster.name,
            cluster_digest=self._cluster.digest,
            program=self._manifest.name,
            program_digest=self._digest,
            parameters=_parameters(self._manifest),
        )
        return AuditLog(self._audit_directory, identity)


def _place(spec: SessionSpec) -> dict[str, Any]:
    return {"session_id": spec.session_id, "epoch": spec.epoch, "lane": spec.lane}


def _phases(report: RunReport) -> dict[str, float]:
    named = {
        "share": report.share_s,
        "wait": report.wait_s,
        "compute": report.run_s,
        "reveal": report.reveal_s,
    }
    return {name: seconds for name, seconds in named.items() if seconds > 0}


def _parameters(manifest: Manifest) -> int:
    """Trained values: the elements of all params."""
    total = 0
    for tensor in manifest.params:
        elements = 1
        for dim in tensor.shape:
            elements *= dim or 1
        total += elements
    return total
