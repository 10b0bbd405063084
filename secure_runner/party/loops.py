"""The request loops of a session: one for the data owner's party, one for every other.

Per batch, the data owner's party splits the private inputs into shares and sends each party its own; all run
the executable; every other party sends its output shares back; the data owner alone puts them together.
Shares of the next batch travel, and the last one is put together, while the present one runs.
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

from secure_runner.frames import Frame, Kind, array_parts, arrays_of, decode, encode
from secure_runner.party.exit import FailureCode, end_process
from secure_runner.party.shares import share_message, shares_of

if TYPE_CHECKING:
    from spu.libspu import Share

    from secure_runner.party.resident import ResidentRuntime

__all__ = ["serve"]

_log = logging.getLogger(__name__)
_AHEAD = 2
"""Batches whose shares may travel ahead of the one that runs."""
_WARM_UP_S = 3.0
"""After this long, the rest of the ladder is left to its first request."""


@dataclass(frozen=True)
class _Batch:
    run_id: int
    batch_size: int
    shares: list[Share]
    received_at: float


def serve(runtime: ResidentRuntime) -> None:
    """Serve the session at this party. Ends the process, never returns."""
    is_data_owner = runtime.spec.settings.role == "data_owner"
    loop = DataOwnerLoop(runtime) if is_data_owner else PeerLoop(runtime)
    loop.run()


class _Loop:
    def __init__(self, runtime: ResidentRuntime) -> None:
        self.runtime = runtime
        self.pipe = runtime.pipe
        self.spec = runtime.spec
        self.batches: queue.Queue[_Batch] = queue.Queue(maxsize=_AHEAD)

    def thread(self, target: Callable[[], None], code: FailureCode) -> None:
        """Run a part of the loop beside the others; any fault in it ends the process."""

        def guarded() -> None:
            try:
                target()
            except BaseException as error:
                end_process(self.pipe, code, error)

        threading.Thread(target=guarded, name=target.__name__, daemon=True).start()


class PeerLoop(_Loop):
    """Model owner and helper: input shares come from the data owner, output shares go to it, and only to it."""

    def run(self) -> None:
        """Serve until the session ends."""
        self.data_owner = self.spec.rank_of("data_owner")
        self.thread(self.receive_inputs, FailureCode.LINK)
        self.pipe.send(Frame(Kind.READY))
        while True:
            batch = self.batches.get()
            try:
                results = self.runtime.run_batch(batch.batch_size, batch.shares)
                message = share_message(Kind.RESULT, batch.run_id, results, batch_size=batch.batch_size)
                self.runtime.outputs.send_async(self.data_owner, message)
            except BaseException as error:
                end_process(self.pipe, FailureCode.RUN, error)
            meta = {"batch_size": batch.batch_size, "run_s": time.monotonic() - batch.received_at}
            self.pipe.send(Frame(Kind.RESULT, batch.run_id, meta))

    def receive_inputs(self) -> None:
        """Take input shares off the link, in order, and check them before SPU sees them."""
        expected = len(self.runtime.manifest.private_inputs)
        while True:
            data = self.runtime.inputs.recv(self.data_owner)
            if decode(data).kind is Kind.KEEPALIVE:
                continue
            frame, shares = shares_of(data, expected=expected)
            batch_size = frame.meta.get("batch_size")
            if frame.kind is not Kind.RUN or batch_size not in self.runtime.rungs:
                raise ValueError("a message on the link asks for nothing that this program can do")
            self.batches.put(_Batch(frame.id, batch_size, shares, time.monotonic()))


class DataOwnerLoop(_Loop):
    """Data owner: the only party that sees features and predictions in the clear."""

    def run(self) -> None:
        """Serve until the session ends."""
        self.peers = [rank for rank in range(len(self.spec.parties)) if rank != self.spec.rank]
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
                self.submit(frame.id, int(frame.meta["batch_size"]), arrays)

    def submit(self, run_id: int, batch_size: int, arrays: dict[str, Any]) -> None:
        """Share one batch of private inputs and queue it."""
        inputs = [arrays[tensor.name] for tensor in self.runtime.manifest.private_inputs]
        by_rank = self.runtime.share_inputs(inputs)
        for rank in self.peers:
            message = share_message(Kind.RUN, run_id, by_rank[rank], batch_size=batch_size)
            self.runtime.inputs.send_async(rank, message)
        self.batches.put(_Batch(run_id, batch_size, by_rank[self.spec.rank], time.monotonic()))

    def run_batches(self) -> None:
        """Run what has been shared, in the order in which the other parties see it."""
        while True:
            batch = self.batches.get()
            started = time.monotonic()
            results = self.runtime.run_batch(batch.batch_size, batch.shares)
            self.revealing.put((batch, results, started))

    def reveal_outputs(self) -> None:
        """Put output shares together and hand the prediction to this party's runner."""
        expected = len(self.runtime.manifest.private_outputs)
        names = [tensor.name for tensor in self.runtime.manifest.private_outputs]
        while True:
            batch, own, started = self.revealing.get()
            ran = time.monotonic()
            by_rank: dict[int, list[Share]] = {self.spec.rank: own}
            for rank in self.peers:
                frame, shares = shares_of(self.runtime.outputs.recv(rank), expected=expected)
                if frame.kind is not Kind.RESULT or frame.id != batch.run_id:
                    raise ValueError("a party answered another batch than the one that was asked")
                by_rank[rank] = shares
            arrays = self.runtime.reveal([by_rank[rank] for rank in sorted(by_rank)])
            if batch.run_id == 0:
                self.warm_ups.put(time.monotonic() - started)
                continue
            specs, parts = array_parts(
                {name: np.asarray(array) for name, array in zip(names, arrays, strict=True)}
            )
            times = {"run_s": ran - started, "reveal_s": time.monotonic() - ran}
            meta = {"arrays": specs, "batch_size": batch.batch_size, **times}
            self.pipe.send(Frame(Kind.RESULT, batch.run_id, meta, parts))

    def warm_up(self) -> None:
        """Run the ladder once on zeros: the first run of a protocol sets up what later ones use.

        It stops after a few seconds, smallest batch first: set-up that a protocol does once is done by then.
        """
        seconds: dict[str, float] = {}
        for batch_size in self.runtime.manifest.batch_sizes:
            if sum(seconds.values()) > _WARM_UP_S:
                break
            zeros = {
                t.name: np.zeros(t.with_batch(batch_size), t.dtype)
                for t in self.runtime.manifest.private_inputs
            }
            self.submit(0, batch_size, zeros)
            seconds[str(batch_size)] = self.warm_ups.get()
        self.pipe.send(Frame(Kind.READY, meta={"run_s": seconds}))

    def keep_link_alive(self) -> None:
        """Say something now and then, so that peers waiting for work do not time out."""
        message = b"".join(encode(Frame(Kind.KEEPALIVE)))
        interval_s = self.spec.settings.cluster.timeouts.recv_timeout_s / 3
        while True:
            time.sleep(interval_s)
            for rank in self.peers:
                self.runtime.inputs.send_async(rank, message)
