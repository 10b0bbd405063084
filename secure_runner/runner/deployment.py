"""One program deployed at this party: its lanes, its queue, and what clients' rows go through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from converters import LocalStep, apply_steps
from secure_runner.config import PartySettings, embedded_cluster, embedded_settings
from secure_runner.errors import InputError, ProgramError, UnavailableError
from secure_runner.frames import Array
from secure_runner.programs.files import read_program
from secure_runner.programs.manifest import LocalStepSpec, Manifest, TensorSpec
from secure_runner.protocols import ProtocolName
from secure_runner.runner.ladder import Ladder
from secure_runner.runner.queue import Arrays, BatchQueue
from secure_runner.sessions.leader import LaneLeader
from secure_runner.sessions.member import LocalMember

__all__ = ["Deployment", "DeploymentFiles"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeploymentFiles:
    """Where this party's part of the model lies."""

    program_dir: Path
    params_file: Path | None
    """None at every party but the model owner."""


class Deployment:
    """Serves one program.

    Embedded (``settings`` is None) it starts all parties on this machine over loopback: same code, same
    protocol, separate processes.
    """

    def __init__(
        self,
        files: DeploymentFiles,
        settings: PartySettings | None,
        *,
        protocol: ProtocolName | None = None,
        insecure: bool = False,
    ) -> None:
        self.manifest: Manifest = read_program(files.program_dir)
        self._files = files
        self._lane, self._data_owner = self._embedded(protocol or self.manifest.protocol, insecure)
        self._encode = _steps(self.manifest.encode)
        self._decode = _steps(self.manifest.decode)
        self._tasks: list[asyncio.Task[None]] = []
        ladder = Ladder(self.manifest.batch_sizes)
        self._queue = BatchQueue(ladder, self._run, self._session)

    async def start(self) -> None:
        """Begin: sessions are formed in the background, requests wait for them."""
        self._tasks = [asyncio.create_task(self._lane.run()), asyncio.create_task(self._queue.dispatch())]

    async def stop(self) -> None:
        """Refuse what waits and end every process that was started."""
        self._queue.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def predict(
        self, inputs: Mapping[str, Array], *, client: str | None, deadline_s: float | None
    ) -> dict[str, Array]:
        """Answer rows of the manifest's inputs with rows of its outputs.

        Raises:
            InputError: a name is missing or rows differ between inputs.
            OverloadedError, UnavailableError, DeadlineError: as the queue raises them.
        """
        if not self._lane.serving.is_set() and self._lane.epoch == 0:
            raise UnavailableError(f"no session yet: {self._lane.state}", retry_after_s=2.0, code="starting")
        private = self._private(inputs)
        revealed = await self._queue.submit(private, client=client, deadline_s=deadline_s)
        values = apply_steps(self._decode, {**inputs, **revealed})
        return {tensor.name: np.asarray(values[tensor.name]) for tensor in self.manifest.outputs}

    def status(self) -> dict[str, Any]:
        """For readiness and dashboards; holds no value."""
        return {
            "ready": self._lane.serving.is_set(),
            "state": self._lane.state,
            "epoch": self._lane.epoch,
            "recoveries": self._lane.recoveries,
            "waiting_rows": self._queue.waiting_rows,
            "processes": {
                member.party: member.process.pid for member in self._members if member.process is not None
            },
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

    async def _session(self) -> None:
        """Wait for a session whose process at the data owner lives."""
        while True:
            await self._lane.serving.wait()
            process = self._data_owner.process
            if process is not None and process.alive:
                return
            # It has just died, and the lane is about to notice.
            await asyncio.sleep(0.01)

    async def _run(self, batch_size: int, arrays: Arrays) -> tuple[Arrays, float]:
        process = self._data_owner.process
        if process is None:
            raise UnavailableError("no session is serving; the next one is starting", code="session_ended")
        result = await process.run(batch_size, arrays)
        return result.arrays, result.run_s + result.reveal_s

    def _embedded(self, protocol: ProtocolName, insecure: bool) -> tuple[LaneLeader, LocalMember]:
        if self._files.params_file is None:
            raise ProgramError(
                "an embedded deployment plays the model owner too and needs the params of the program"
            )
        cluster = embedded_cluster(protocol, insecure=insecure)
        settings = embedded_settings(cluster)
        self._members = [
            LocalMember(
                settings[party],
                self._files.program_dir,
                self._files.params_file if settings[party].role == "model_owner" else None,
            )
            for party in cluster.ranked_parties
        ]
        data_owner = next(member for member in self._members if settings[member.party].role == "data_owner")
        return LaneLeader(cluster, self._members), data_owner


def _steps(specs: Sequence[LocalStepSpec]) -> tuple[LocalStep, ...]:
    return tuple(LocalStep(spec.op, spec.inputs, spec.outputs, spec.attrs) for spec in specs)


def _as(value: Any, tensor: TensorSpec) -> Array:
    array = np.asarray(value)
    return np.ascontiguousarray(array, dtype=np.dtype(tensor.dtype))
