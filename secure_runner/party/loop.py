"""What the request loops of all parties have in common."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secure_runner.frames import Frame, Kind
from secure_runner.party.exit import FailureCode, faults_end
from secure_runner.party.run_watch import RunWatch
from secure_runner.party.traffic import LinkTraffic

if TYPE_CHECKING:
    from spu.libspu import Share

    from secure_runner.party.about import AboutBatch
    from secure_runner.party.resident import ResidentRuntime

__all__ = ["Batch", "Loop"]

_TRAFFIC_INTERVAL_S = 1.0


@dataclass(frozen=True)
class Batch:
    """One batch on its way, at one party."""

    run_id: int
    """0 for a warm-up or a preparation."""
    about: AboutBatch
    shares: list[Share]
    """This party's, of its inputs."""
    turn: int = 0
    """Which of its executable's runtimes it runs in."""
    shared_at: float = 0.0
    """At the data owner: when they were on their way."""
    share_s: float = 0.0
    message_bytes: int = 0
    """Of its input shares: sent by the data owner, received by any other party."""


class Loop:
    """Counts the link's traffic, watches the runs, and starts what goes on beside the loop itself."""

    def __init__(self, runtime: ResidentRuntime) -> None:
        self.runtime = runtime
        self.pipe = runtime.pipe
        self.spec = runtime.spec
        cluster = self.spec.settings.cluster
        self.peers = [rank for rank in range(len(self.spec.parties)) if rank != self.spec.rank]
        nudged = self.peers if cluster.tls else []
        self.watch = RunWatch(runtime.nudges, nudged, cluster.timeouts.run_timeout_s)
        self.traffic = {"link_sent_bytes": 0, "link_received_bytes": 0}
        threading.Thread(target=self.count_traffic, name="count_traffic", daemon=True).start()

    def watch_runs(self) -> None:
        """Meet the other parties, and watch from here on."""
        with faults_end(self.pipe, FailureCode.LINK):
            self.watch.meet()
        self.thread(self.watch.run, FailureCode.RUN)

    def count_traffic(self) -> None:
        """Read the link's byte counts now and then, apart from the batches."""
        cluster = self.spec.settings.cluster
        traffic = LinkTraffic(
            {
                cluster.addresses(party, self.spec.lane, self.spec.slot, listen=listen).link.port
                for party in self.spec.parties
                for listen in (False, True)
            }
        )
        while True:
            sent, received = traffic.read()
            self.traffic = {"link_sent_bytes": sent, "link_received_bytes": received}
            time.sleep(_TRAFFIC_INTERVAL_S)

    def thread(self, target: Callable[..., None], code: FailureCode, *args: Any) -> threading.Thread:
        """Run a part of the loop beside the others; any fault in it ends the process."""

        def guarded() -> None:
            with faults_end(self.pipe, code):
                target(*args)

        thread = threading.Thread(target=guarded, name=target.__name__, daemon=True)
        thread.start()
        return thread

    def tell(self, batch: Batch, run_s: float, **bytes_: int) -> None:
        """Tell this party's runner, for its records, of a batch that it gets no answer of."""
        meta = batch.about.as_meta() | {"run_s": run_s} | bytes_ | self.traffic
        self.pipe.send(Frame(Kind.RESULT, batch.run_id, meta))
