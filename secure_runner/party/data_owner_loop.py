"""The loop of the data owner's party."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from secure_runner.frames import Frame, Kind, array_parts, arrays_of, encode
from secure_runner.party.about import AboutBatch
from secure_runner.party.exit import FailureCode
from secure_runner.party.loop import Batch, Loop
from secure_runner.party.shares import share_message, shares_of
from secure_runner.party.turns import MOST_PREPARING_RUNS, Turns
from secure_runner.protocols import protocol

if TYPE_CHECKING:
    import spu
    from spu.libspu import Share

    from secure_runner.party.resident import ResidentRuntime

__all__ = ["DataOwnerLoop"]

_WARM_UP_S = 3.0
"""After this long, the rest of the ladder is left to its first request."""


class DataOwnerLoop(Loop):
    """Data owner: the only party that sees features and predictions in the clear."""

    def __init__(self, runtime: ResidentRuntime) -> None:
        super().__init__(runtime)
        # No bounds: this party's runner has no more than two batches of a lane under way.
        self.batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self.revealing: queue.SimpleQueue[tuple[Batch, list[Share], float]] = queue.SimpleQueue()
        self.warm_ups: queue.SimpleQueue[float] = queue.SimpleQueue()
        self.sending = threading.Lock()
        self.turns = self.turns_of_rungs()
        stocks = protocol(self.spec.settings.cluster.protocol).stocks_transfers
        self.stocked = set(self.turns.values()) if stocks else set()

    def run(self) -> None:
        """Serve until the session ends."""
        self.watch_runs()
        self.thread(self.reveal_outputs, FailureCode.LINK)
        self.thread(self.keep_link_alive, FailureCode.LINK)
        self.thread(self.run_batches, FailureCode.RUN)
        self.warm_up()
        while True:
            frame = self.pipe.next_frame()
            if frame.kind is Kind.RUN:
                arrays = arrays_of(frame.meta["arrays"], frame.parts)
                self.submit(frame.id, AboutBatch.of_meta(frame.meta, self.runtime.rungs), arrays)

    def turns_of_rungs(self) -> dict[int, Turns]:
        """Batch size → the turns of its runtimes, which it may have in common with others."""
        rungs_of: dict[tuple[spu.Runtime, ...], list[int]] = defaultdict(list)
        for batch_size, rung in self.runtime.rungs.items():
            rungs_of[rung.runtimes].append(batch_size)
        return {
            batch_size: turns
            for runtimes, sizes in rungs_of.items()
            for turns in [Turns(len(runtimes), max(sizes))]
            for batch_size in sizes
        }

    def submit(self, run_id: int, about: AboutBatch, arrays: Mapping[str, Any]) -> None:
        """Share one batch of private inputs and queue it."""
        turn = self.turns[about.batch_size].take(about.batch_size)
        self.batches.put(self.share(Kind.RUN, run_id, about, turn, arrays))

    def share(
        self, kind: Kind, run_id: int, about: AboutBatch, turn: int, arrays: Mapping[str, Any]
    ) -> Batch:
        """Split private inputs, and send each other party its shares of them."""
        started = time.monotonic()
        self.watch.begins()
        sent_bytes = 0
        inputs = [arrays[tensor.name] for tensor in self.runtime.manifest.private_inputs]
        by_rank = self.runtime.share_inputs(inputs)
        for rank in self.peers:
            message = share_message(kind, run_id, by_rank[rank], about.as_meta() | {"turn": turn})
            self.send(rank, message)
            sent_bytes += len(message)
        own, now = by_rank[self.spec.rank], time.monotonic()
        return Batch(run_id, about, own, turn, now, now - started, sent_bytes)

    def send(self, rank: int, message: bytes) -> None:
        """Send to another party, from whichever thread: SPU numbers a link's messages without a lock."""
        with self.sending:
            self.runtime.inputs.send_async(rank, message)

    def run_batches(self) -> None:
        """Run what has been shared, in the order in which the other parties see it."""
        while True:
            batch = self.batches.get()
            started = time.monotonic()
            results, _ = self.compute(batch)
            self.revealing.put((batch, results, started))
            self.watch.ran()
            turns = self.turns[batch.about.batch_size]
            if (due := turns.due()) is not None:
                self.thread(self.prepare, FailureCode.RUN, turns, due)

    def compute(self, batch: Batch, *, behind: bool = False) -> tuple[list[Share], bool]:
        """Run a batch; its output shares, and whether its runtime's stock was made anew."""
        size = batch.about.batch_size
        results, cpu_s = self.runtime.run_batch(size, batch.shares, batch.turn, behind=behind)
        return results, self.turns[size].ran(batch.turn, size, cpu_s)

    def prepare(self, turns: Turns, turn: int) -> None:
        """Have a runtime's stock made anew, behind all else: run zeros until it is."""
        stocked = False
        for _ in range(MOST_PREPARING_RUNS):
            turns.prepare(turn)
            about = AboutBatch(turns.largest)
            batch = self.share(Kind.PREPARE, 0, about, turn, self.zeros(turns.largest))
            _, stocked = self.compute(batch, behind=True)
            self.watch.ends()
            self.tell(batch, time.monotonic() - batch.shared_at, sent_bytes=batch.message_bytes)
            if stocked:
                break
        turns.prepared(turn, stocked=stocked)

    def zeros(self, batch_size: int) -> dict[str, Any]:
        """Private inputs of nobody."""
        return {
            tensor.name: np.zeros(tensor.with_batch(batch_size), tensor.dtype)
            for tensor in self.runtime.manifest.private_inputs
        }

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
            self.watch.ends()
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
                "stocks_ahead": sum(turns.made_ahead for turns in self.stocked),
                "stocks_in_runs": sum(turns.held_up for turns in self.stocked),
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
            self.submit(0, AboutBatch(batch_size), self.zeros(batch_size))
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
                self.send(rank, message)
