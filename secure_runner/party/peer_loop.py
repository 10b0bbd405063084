"""The loop of every party but the data owner's."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secure_runner.errors import OverloadedError
from secure_runner.frames import Frame, FrameError, Kind, decode
from secure_runner.party.about import AboutBatch
from secure_runner.party.exit import FailureCode, end_process, faults_end
from secure_runner.party.loop import Batch, Loop
from secure_runner.party.shares import share_message, shares_of
from secure_runner.party.turns import MOST_PREPARING_RUNS

if TYPE_CHECKING:
    import spu

    from secure_runner.party.resident import ResidentRuntime

__all__ = ["PeerLoop"]


@dataclass
class _Preparation:
    """Of one runtime: how often it ran for its own sake since it served, and the thread in which it does."""

    runs: int = 0
    thread: threading.Thread | None = None

    def wait(self) -> None:
        """Until the runtime is free."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None


class PeerLoop(Loop):
    """Model owner and helper: input shares come from the data owner, output shares go to it alone."""

    def __init__(self, runtime: ResidentRuntime) -> None:
        super().__init__(runtime)
        self.data_owner = self.spec.rank_of("data_owner")
        self.last_run_id = 0
        self.warmed_up: set[int] = set()
        self.preparations: dict[spu.Runtime, _Preparation] = defaultdict(_Preparation)

    def run(self) -> None:
        """Serve until the session ends."""
        self.watch_runs()
        self.pipe.send(Frame(Kind.READY, meta={"stages_s": self.runtime.stages.seconds}))
        while True:
            with faults_end(self.pipe, FailureCode.LINK):
                kind, batch = self.receive()
            with faults_end(self.pipe, FailureCode.RUN):
                if kind is Kind.PREPARE:
                    self.prepare(batch)
                else:
                    self.compute(batch)

    def receive(self) -> tuple[Kind, Batch]:
        """Take the next input shares off the link, and check them before SPU sees them."""
        data = self.runtime.inputs.recv(self.data_owner)
        while decode(data).kind is Kind.KEEPALIVE:
            data = self.runtime.inputs.recv(self.data_owner)
        expected = len(self.runtime.manifest.private_inputs)
        frame, shares = shares_of(data, expected=expected)
        if frame.kind not in (Kind.RUN, Kind.PREPARE):
            raise FrameError("a message on the link asks for nothing that this program can do")
        about = AboutBatch.of_meta(frame.meta, self.runtime.rungs)
        turn = self.turn_of(frame.meta, about.batch_size)
        batch = Batch(frame.id, about, shares, turn, message_bytes=len(data))
        if frame.kind is Kind.PREPARE:
            self.check_preparation(batch)
        else:
            self.check_order(frame.id, about.batch_size)
            if frame.id and self.spec.ask_before_runs:
                self.ask_runner(frame.id, about)
        return frame.kind, batch

    def turn_of(self, meta: Mapping[str, Any], batch_size: int) -> int:
        """Which of an executable's runtimes a message asks for."""
        turn = meta.get("turn")
        if type(turn) is not int or not 0 <= turn < len(self.runtime.rungs[batch_size].runtimes):
            raise FrameError("a message on the link asks for a runtime that its batch does not have")
        return turn

    def prepare(self, batch: Batch) -> None:
        """Have a runtime make a new stock, behind all else. It gives the data owner no prediction."""
        preparation = self.preparation_of(batch)
        preparation.wait()
        preparation.thread = self.thread(self.run_behind, FailureCode.RUN, batch)

    def run_behind(self, batch: Batch) -> None:
        """A run that nobody waits for."""
        started = time.monotonic()
        self.watch.begins()
        self.runtime.run_batch(batch.about.batch_size, batch.shares, batch.turn, behind=True)
        self.watch.ends()
        self.tell(batch, time.monotonic() - started, received_bytes=batch.message_bytes)

    def preparation_of(self, batch: Batch) -> _Preparation:
        """Of the runtime that a batch runs in."""
        return self.preparations[self.runtime.rungs[batch.about.batch_size].runtimes[batch.turn]]

    def compute(self, batch: Batch) -> None:
        """Run a batch, send its output shares to the data owner, and tell this party's runner."""
        started = time.monotonic()
        self.watch.begins()
        preparation = self.preparation_of(batch)
        preparation.wait()
        preparation.runs = 0
        results, _ = self.runtime.run_batch(batch.about.batch_size, batch.shares, batch.turn)
        # A warm-up costs the data owner none of its allowance, so it gives it no prediction either.
        revealed = results if batch.run_id else []
        message = share_message(Kind.RESULT, batch.run_id, revealed, {})
        self.runtime.outputs.send_async(self.data_owner, message)
        run_s = time.monotonic() - started
        self.tell(batch, run_s, sent_bytes=len(message), received_bytes=batch.message_bytes)
        self.watch.ran()
        self.watch.ends()

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

    def check_preparation(self, batch: Batch) -> None:
        """No more often than it takes: such runs cost the data owner none of its allowance."""
        preparation = self.preparation_of(batch)
        preparation.runs += 1
        takes_turns = len(self.runtime.rungs[batch.about.batch_size].runtimes) > 1
        if batch.run_id or not takes_turns or preparation.runs > MOST_PREPARING_RUNS:
            raise FrameError("a message on the link asks for more preparation than a runtime needs")

    def ask_runner(self, run_id: int, about: AboutBatch) -> None:
        """Go on only if the model owner's limits admit the batch; there is no other answer than to end."""
        self.pipe.send(Frame(Kind.ADMIT, run_id, about.as_meta()))
        answer = self.pipe.next_frame()
        if answer.kind is not Kind.ADMIT or answer.id != run_id or answer.meta.get("admitted") is not True:
            error = OverloadedError("a batch beyond the data owner's limits was asked for", code="limit")
            end_process(self.pipe, FailureCode.LIMIT, error)
