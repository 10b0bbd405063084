"""One program deployed at this party: its lanes, its queue, and what clients' rows go through."""

from __future__ import annotations

import asyncio
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters import LocalStep, apply_steps
from secure_runner.config import Cluster, PartySettings, embedded_cluster
from secure_runner.config.owner_limits import OwnerLimits
from secure_runner.errors import (
    AgreementError,
    InputError,
    ProgramError,
    SecureRunnerError,
    UnavailableError,
)
from secure_runner.frames import Array
from secure_runner.observe.metrics import metrics
from secure_runner.observe.record import Records, RequestNote
from secure_runner.observe.traces import current_traceparent, span
from secure_runner.party.about import AboutBatch
from secure_runner.programs.files import read_program
from secure_runner.programs.manifest import LocalStepSpec, Manifest, TensorSpec
from secure_runner.protocols import ProtocolName
from secure_runner.runner.dedup import RecentRequests
from secure_runner.runner.ladder import Ladder
from secure_runner.runner.lanes import LanePool
from secure_runner.runner.queue import BatchQueue
from secure_runner.runner.slices import Arrays, Part
from secure_runner.sessions.keeper import (
    Oversight,
    PartyFiles,
    embedded_keeper,
    follower_keeper,
    leader_keeper,
)
from secure_runner.sessions.limits import batch_limits
from secure_runner.sessions.warm import WarmProcesses

__all__ = ["Deployment", "PartyFiles"]

_SHOWN_EVERY_S = 1.0


class Deployment:
    """Serves one program at one party or, embedded, at all of them.

    Args:
        files: this party's part of the model.
        settings: which party of which cluster this is. None is embedded: all parties on this machine over
            loopback, same code, same protocol, separate processes.
        protocol: embedded only; instead of the program's default.
        insecure: embedded only; admits semi2k without a dealer.
        lanes: embedded only; sessions side by side.
        audit_directory: where audit logs are kept; None keeps none.
        limits: at the model owner, what it lets each data owner compute.
        warm_processes: of ``parties_here``, started ahead.
    """

    def __init__(
        self,
        files: PartyFiles,
        settings: PartySettings | None,
        *,
        protocol: ProtocolName | None = None,
        insecure: bool = False,
        lanes: int = 1,
        audit_directory: Path | None = None,
        limits: OwnerLimits | None = None,
        warm_processes: WarmProcesses | None = None,
    ) -> None:
        self._warm_processes = WarmProcesses() if warm_processes is None else warm_processes
        self.manifest: Manifest = read_program(files.program_dir)
        if settings is None:
            chosen = self.manifest.protocol if protocol is None else protocol
            self.cluster = _embedded(files, chosen, insecure=insecure, lanes=lanes)
            self._oversee(audit_directory, limits)
            self._keeper = embedded_keeper(self.cluster, files, self._oversight)
        else:
            self.cluster = settings.cluster
            _check_pin(settings, self.manifest)
            leads = settings.role == "model_owner"
            self._oversee(audit_directory, limits if leads else None)
            make_keeper = leader_keeper if leads else follower_keeper
            self._keeper = make_keeper(settings, self.manifest, files, self._oversight)
        self._encode = _steps(self.manifest.encode)
        self._decode = _steps(self.manifest.decode)
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: BatchQueue | None = None
        if settings is None or settings.role == "data_owner":
            self._pool = LanePool(self._keeper.lanes, self.cluster.party_with("data_owner"))
            self._record = self._records.of(self.cluster.party_with("data_owner"))
            self._ladder = Ladder(self.manifest.batch_sizes)
            self._recent = RecentRequests()
            self._queue = BatchQueue(
                self._ladder,
                self._run,
                self._pool.wait_for_session,
                lanes=len(self._keeper.lanes),
            )

    async def start(self) -> None:
        """Begin: sessions are formed in the background, requests wait for them."""
        self._tasks = [asyncio.create_task(self._keeper.run()), asyncio.create_task(self._show())]
        if self._queue is not None:
            self._tasks.append(asyncio.create_task(self._queue.dispatch()))

    async def until_serving(self) -> None:
        """Wait until a lane serves."""
        tasks = [asyncio.create_task(lane.state.serving.wait()) for lane in self._keeper.lanes]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def stop(self) -> None:
        """Refuse what waits and end every process that was started."""
        if self._queue is not None:
            self._queue.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._queue is not None:
            await self._recent.drained()
        if self._oversight.limits is not None:
            self._oversight.limits.close()
        self._records.close()

    async def predict(
        self,
        inputs: Mapping[str, Array],
        *,
        client: str | None,
        deadline_s: float | None,
        request_id: str | None = None,
        repeatable: bool = True,
        traceparent: str = "",
    ) -> dict[str, Array]:
        """Answer rows of the manifest's inputs with rows of its outputs.

        Args:
            inputs: by name.
            client: who asks.
            deadline_s: seconds from now.
            request_id: in records.
            repeatable: asked again by the same client under its id, with equal inputs, it is computed once.
            traceparent: W3C Trace Context of the request.

        Raises:
            InputError: a name is missing, rows differ between inputs, this party takes no predictions, or the
                request id has just been used with other inputs.
            OverloadedError: the queue is full, or the model owner's limits are reached.
            UnavailableError, DeadlineError: as the queue raises them.
        """
        if self._queue is None:
            raise InputError(
                "predictions are asked for at the data owner's own service; this party never sees features",
                code="wrong_party",
                http_status=403,
            )
        with span("secure_runner.predict", traceparent):
            note = RequestNote(request_id or uuid.uuid4().hex, client, current_traceparent())
            started, outcome = time.monotonic(), "cancelled"
            try:
                key = (client, request_id) if repeatable and request_id is not None else None
                outputs, repeated = await self._recent.once(
                    key, inputs, lambda: self._answer(inputs, note, deadline_s)
                )
                outcome = "repeated" if repeated else "ok"
                return outputs
            except SecureRunnerError as error:
                outcome = error.code
                raise
            finally:
                self._record.request_answered(note, outcome, time.monotonic() - started)

    async def _answer(
        self, inputs: Mapping[str, Array], note: RequestNote, deadline_s: float | None
    ) -> dict[str, Array]:
        assert self._queue is not None, "asked at the data owner alone"
        states = [lane.state for lane in self._keeper.lanes]
        if not self._pool.any_serving() and not any(state.epoch for state in states):
            raise UnavailableError(f"no session yet: {states[0].doing}", retry_after_s=2.0, code="starting")
        private = self._private(inputs)
        note.rows = len(next(iter(private.values())))
        self._oversight.allowance.check(note.rows)
        self._ladder.allow_up_to(self._oversight.allowance.rows_per_batch)
        revealed = await self._queue.submit(private, client=note.client, deadline_s=deadline_s, about=note)
        values = apply_steps(self._decode, {**inputs, **revealed})
        outputs = {tensor.name: np.asarray(values[tensor.name]) for tensor in self.manifest.outputs}
        note.bytes_ = sum(array.nbytes for array in (*inputs.values(), *outputs.values()))
        return outputs

    def status(self) -> dict[str, Any]:
        """For readiness and dashboards; holds no value."""
        states = [lane.state for lane in self._keeper.lanes]
        return {
            "ready": any(state.serving.is_set() for state in states),
            "state": "; ".join(dict.fromkeys(state.doing for state in states)),
            "lanes": [
                {
                    "epoch": lane.state.epoch,
                    "serving": lane.state.serving.is_set(),
                    "recoveries": lane.state.recoveries,
                    "reserve": all(member.has_reserve for member in lane.members),
                    "stages_s": {m.party: m.started.get("stages_s", {}) for m in lane.members},
                    "processes": {m.party: m.process.pid for m in lane.members if m.process is not None},
                }
                for lane in self._keeper.lanes
            ],
            "waiting_rows": 0 if self._queue is None else self._queue.waiting_rows,
        }

    def _private(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """What will be shared: inputs after the data owner's own steps, in the program's dtypes."""
        missing = [tensor.name for tensor in self.manifest.inputs if tensor.name not in inputs]
        if missing:
            raise InputError(
                f"inputs {missing} are missing; expected {[t.name for t in self.manifest.inputs]}"
            )
        values = apply_steps(self._encode, dict(inputs))
        private = {t.name: _as(values[t.name], t) for t in self.manifest.private_inputs}
        rows = {len(array) for array in private.values()}
        if len(rows) != 1 or 0 in rows:
            raise InputError(f"all inputs must have the same number of rows, at least 1; got {sorted(rows)}")
        return private

    async def _run(self, batch_size: int, arrays: Arrays, parts: Sequence[Part]) -> tuple[Arrays, float]:
        await self._oversight.allowance.take(batch_size)
        notes: list[RequestNote] = [part.about for part in parts]
        about = AboutBatch(
            batch_size,
            rows=sum(part.rows for part in parts),
            batch_id=secrets.token_hex(8),
            # A batch of several requests is in the trace of its first.
            traceparent=notes[0].traceparent,
        )
        async with self._pool.process() as process:
            self._record.waited([part.waited_s for part in parts])
            if process.spec is not None:
                for note in notes:
                    note.batches.append((process.spec, about.batch_id))
            result = await process.run(about, arrays)
        return result.arrays, result.report.run_s + result.report.reveal_s

    def _oversee(self, audit_directory: Path | None, limits: OwnerLimits | None) -> None:
        self._records = Records(self.cluster, self.manifest, audit_directory)
        self._oversight = Oversight(
            self._records.of,
            None if limits is None else batch_limits(limits, self.cluster, self.manifest),
            warm_processes=self._warm_processes,
        )

    async def _show(self) -> None:
        """Keep the gauges of this runner."""
        shown = metrics()
        recoveries = [0] * len(self._keeper.lanes)
        while True:
            for index, lane in enumerate(self._keeper.lanes):
                new = lane.state.recoveries - recoveries[index]
                shown.of("secure_runner_recoveries_total", str(lane.state.lane)).inc(new)
                recoveries[index] += new
            serving = any(lane.state.serving.is_set() for lane in self._keeper.lanes)
            shown["secure_runner_ready"].set(int(serving))
            if self._queue is not None:
                shown["secure_runner_queue_rows"].set(self._queue.waiting_rows)
            limits = self._oversight.limits
            if limits is not None and (left := limits.terms().rows_left) is not None:
                shown["secure_runner_owner_rows_left"].set(left)
            await asyncio.sleep(_SHOWN_EVERY_S)


def _embedded(files: PartyFiles, protocol: ProtocolName, *, insecure: bool, lanes: int) -> Cluster:
    if files.params_file is None:
        raise ProgramError(
            "an embedded deployment plays the model owner too and needs the params of the program; "
            "a Bento without params needs SECURE_RUNNER_CLUSTER"
        )
    return embedded_cluster(protocol, insecure=insecure, lanes=lanes)


def _check_pin(settings: PartySettings, manifest: Manifest) -> None:
    pinned = settings.program_digest
    if pinned is not None and pinned != manifest.digest:
        raise AgreementError(
            f"{settings.party} has audited the program {pinned}, but this Bento holds {manifest.digest}; "
            "audit it with `secure-runner inspect` and pin its digest, or serve the audited one"
        )


def _steps(specs: Sequence[LocalStepSpec]) -> tuple[LocalStep, ...]:
    return tuple(LocalStep(spec.op, spec.inputs, spec.outputs, spec.attrs) for spec in specs)


def _as(value: Any, tensor: TensorSpec) -> Array:
    array = np.asarray(value)
    return np.ascontiguousarray(array, dtype=np.dtype(tensor.dtype))
