"""The request loops of a session: one for the data owner's party, one for every other.

Per batch, the data owner's party splits the private inputs into shares and sends each party its own; all run
the executable; every other party sends its output shares back; the data owner alone puts them together.
Shares of the next batch travel, and the last one is put together, while the present one runs. Nobody waits on
the link meanwhile: all channels of a pair of parties wake whoever waits, with each message of a run.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from secure_runner.errors import OverloadedError
from secure_runner.frames import Frame, FrameError, Kind, array_parts, arrays_of, decode, encode
from secure_runner.heap import settle_heap
from secure_runner.party.about import AboutBatch
from secure_runner.party.exit import FailureCode, end_process
from secure_runner.party.shares import share_message, shares_of
from secure_runner.party.traffic import LinkTraffic

if TYPE_CHECKING:
    from spu.libspu import Share

    from secure_runner.party.resident import ResidentRuntime

__all__ = ["serve"]

_log = logging.getLogger(__name__)
_AHEAD = 2
"""Batches whose shares may travel ahead of the one that runs."""
_TRAFFIC_INTERVAL_S = 1.0
_WARM_UP_S = 3.0
"""After this long, the rest of the ladder is left to its first request."""


@dataclass(frozen=True)
class _Batch:
    run_id: int
    about: AboutBatch
    shares: list[Share]
    shared_at: float = 0.0
    """At the data owner: when they were on their way."""
    share_s: float = 0.0
    message_bytes: int = 0
    """Of its input shares: sent by the data owner, received by any other party."""


def serve(runtime: ResidentRuntime) -> None:
    """Serve the session at this party. Ends the process, never returns."""
    settle_heap()
    is_data_owner = runtime.spec.settings.role == "data_owner"
    loop = DataOwnerLoop(runtime) if is_data_owner else PeerLoop(runtime)
    loop.run()


class _Loop:
    def __init__(self, runtime: ResidentRuntime) -> None:
        self.runtime = runtime
        self.pipe = runtime.pipe
        self.spec = runtime.spec
        self.traffic = {"link_sent_bytes": 0, "link_received_bytes": 0}
        threading.Thread(target=self.count_traffic, name="count_traffic", daemon=True).start()

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


class PeerLoop(_Loop):
    """Model owner and helper: input shares come from the data owner, output shares go to it alone."""

    def run(self) -> None:
        """Serve until the session ends."""
        self.data_owner = self.spec.rank_of("data_owner")
        self.last_run_id = 0
        self.warmed_up: set[int] = set()
        self.pipe.send(Frame(Kind.READY, meta={"stages_s": self.runtime.stages.seconds}))
        while True:
            try:
                batch = self.receive()
            except BaseException as error:
                end_process(self.pipe, FailureCode.LINK, error)
            try:
                self.compute(batch)
            except BaseException as error:
                end_process(self.pipe, FailureCode.RUN, error)

    def receive(self) -> _Batch:
        """Take the next input shares off the link, and check them before SPU sees them."""
        data = self.runtime.inputs.recv(self.data_owner)
        while decode(data).kind is Kind.KEEPALIVE:
            data = self.runtime.inputs.recv(self.data_owner)
        expected = len(self.runtime.manifest.private_inputs)
        frame, shares = shares_of(data, expected=expected)
        if frame.kind is not Kind.RUN:
            raise FrameError("a message on the link asks for nothing that this program can do")
        about = AboutBatch.of_meta(frame.meta, self.runtime.rungs)
        self.check_order(frame.id, about.batch_size)
        if frame.id and self.spec.ask_before_runs:
            self.ask_runner(frame.id, about)
        return _Batch(frame.id, about, shares, message_bytes=len(data))

    def compute(self, batch: _Batch) -> None:
        """Run a batch, send its output shares to the data owner, and tell this party's runner."""
        started = time.monotonic()
        results = self.runtime.run_batch(batch.about.batch_size, batch.shares)
        # A warm-up costs the data owner none of its allowance, so it gives it no prediction either.
        revealed = results if batch.run_id else []
        message = share_message(Kind.RESULT, batch.run_id, revealed, {})
        self.runtime.outputs.send_async(self.data_owner, message)
        times = {"run_s": time.monotonic() - started}
        bytes_ = {"sent_bytes": len(message), "received_bytes": batch.message_bytes}
        meta = batch.about.as_meta() | times | bytes_ | self.traffic
        self.pipe.send(Frame(Kind.RESULT, batch.run_id, meta))

    def check_order(self, run_id: int, batch_size: int) -> None:
        """Each run has an id of its own; warm-ups, once for each batch size, come before all others."""
        if run_id:
            in_order = run_id > self.last_run_id
            self.last_run_id = run_id
        else:
            in_order = not self.last_run_id and batch_size not in self.warmed_up
            self.warmed_up.add(batch_size)
        if not in_order:
            raise FrameError("a message on the link repeats a run or comes out of order")

    def ask_runner(self, run_id: int, about: AboutBatch) -> None:
        """Go on only if the model owner's limits admit the batch; there is no other answer than to end."""
        self.pipe.send(Frame(Kind.ADMIT, run_id, about.as_meta()))
        answer = self.pipe.next_frame()
        if answer.kind is not Kind.ADMIT or answer.id != run_id or answer.meta.get("admitted") is not True:
            error = OverloadedError("a batch beyond the data owner's limits was asked for", code="limit")
            end_process(self.pipe, FailureCode.LIMIT, error)


class DataOwnerLoop(_Loop):
    """Data owner: the only party that sees features and predictions in the clear."""

    def run(self) -> None:
        """Serve until the session ends."""
        self.peers = [rank for rank in range(len(self.spec.parties)) if rank != self.spec.rank]
        self.batches: queue.Queue[_Batch] = queue.Queue(maxsize=_AHEAD)
        self.revealing: queue.Queue[tuple[_Batch, list[Share], float]] = queue.Queue(maxsize=_AHEAD)
        self.warm_ups: queue.Queue[float] = queue.Queue()
        self.thread(self.reveal_outputs, FailureCode.LINK)
        self.thread(self.keep_link_alive, FailureCode.LINK)
        self.thread(self.run_batches, FailureCode.RUN)
        self.warm_up()
        while True:
            frame = self.pipe.next_frame()
            if frame.kind is Kind.RUN:
                arrays = arrays_of(frame.meta["arrays"], frame.parts)
                self.submit(frame.id, AboutBatch.of_meta(frame.meta, self.runtime.rungs), arrays)

    def thread(self, target: Callable[[], None], code: FailureCode) -> None:
        """Run a part of the loop beside the others; any fault in it ends the process."""

        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                end_process(self.pipe, code, error)

        threading.Thread(target=guarded, name=target.__name__, daemon=True).start()

    def submit(self, run_id: int, about: AboutBatch, arrays: dict[str, Any]) -> None:
        """Share one batch of private inputs and queue it."""
        started = time.monotonic()
        sent_bytes = 0
        inputs = [arrays[tensor.name] for tensor in self.runtime.manifest.private_inputs]
        by_rank = self.runtime.share_inputs(inputs)
        for rank in self.peers:
            message = share_message(Kind.RUN, run_id, by_rank[rank], about.as_meta())
            self.runtime.inputs.send_async(rank, message)
            sent_bytes += len(message)
        own, now = by_rank[self.spec.rank], time.monotonic()
        self.batches.put(_Batch(run_id, about, own, now, now - started, sent_bytes))

    def run_batches(self) -> None:
        """Run what has been shared, in the order in which the other parties see it."""
        while True:
            batch = self.batches.get()
            started = time.monotonic()
            results = self.runtime.run_batch(batch.about.batch_size, batch.shares)
            self.revealing.put((batch, results, started))

    def reveal_outputs(self) -> None:
        """Put output shares together and hand the prediction to this party's runner."""
        names = [tensor.name for tensor in self.runtime.manifest.private_outputs]
        while True:
            batch, own, started = self.revealing.get()
            ran = time.monotonic()
            by_rank: dict[int, list[Share]] = {self.spec.rank: own}
            received_bytes = 0
            for rank in self.peers:
                message = self.runtime.outputs.recv(rank)
                received_bytes += len(message)
                frame, shares = shares_of(message, expected=len(names) if batch.run_id else 0)
                if frame.kind is not Kind.RESULT or frame.id != batch.run_id:
                    raise ValueError("a party answered another batch than the one that was asked")
                by_rank[rank] = shares
            if batch.run_id == 0:
                self.warm_ups.put(time.monotonic() - started)
                continue
            arrays = self.runtime.reveal([by_rank[rank] for rank in sorted(by_rank)])
            specs, parts = array_parts(
                {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}
            )
            meta = {
                "arrays": specs,
                "share_s": batch.share_s,
                "wait_s": started - batch.shared_at,
                "run_s": ran - started,
                "reveal_s": time.monotonic() - ran,
                "sent_bytes": batch.message_bytes,
                "received_bytes": received_bytes,
                **self.traffic,
            }
            self.pipe.send(Frame(Kind.RESULT, batch.run_id, meta, parts))

    def warm_up(self) -> None:
        """Run the ladder once on zeros: the first run of a protocol sets up what later ones use.

        It stops after a few seconds, smallest batch first: set-up that a protocol does once is done by then,
        in the runtime of the rungs that pack their products as in that of the others.
        """
        seconds: dict[str, float] = {}
        set_up: set[bool] = set()
        for entry in sorted(self.runtime.manifest.executables, key=lambda one: one.batch_size):
            batch_size = entry.batch_size
            if sum(seconds.values()) > _WARM_UP_S and entry.packed_products in set_up:
                continue
            set_up.add(entry.packed_products)
            zeros = {
                t.name: np.zeros(t.with_batch(batch_size), t.dtype)
                for t in self.runtime.manifest.private_inputs
            }
            self.submit(0, AboutBatch(batch_size), zeros)
            seconds[str(batch_size)] = self.warm_ups.get()
        self.runtime.stages.done("warm_up")
        self.pipe.send(Frame(Kind.READY, meta={"run_s": seconds, "stages_s": self.runtime.stages.seconds}))

    def keep_link_alive(self) -> None:
        """Say something now and then, so that peers waiting for work do not time out."""
        message = b"".join(encode(Frame(Kind.KEEPALIVE)))
        interval_s = self.spec.settings.cluster.timeouts.recv_timeout_s / 3
        while True:
            time.sleep(interval_s)
            for rank in self.peers:
                self.runtime.inputs.send_async(rank, message)
