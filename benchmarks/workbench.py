"""Where suites work: a BentoML store of their own, Bentos built once, quick or full runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.load import Load
from benchmarks.models import NamedMlp
from examples.demo import serving
from secure_runner.protocols import ProtocolName
from secure_runner.sessions.environment import PARTY_DEFAULTS

if TYPE_CHECKING:
    # Importing it imports BentoML.
    from secure_runner.runner.deployment import Deployment

__all__ = ["PROTOCOL_NAMES", "Served", "Workbench"]

_LANES_TIMEOUT_S = 180.0
_SETTLE_TIMEOUT_S = 60.0
PROTOCOL_NAMES: tuple[ProtocolName, ...] = ("aby3", "semi2k", "cheetah")
_PROCESSES_A_PARTY = 4
"""In session, in reserve, standing by, and standing by with the runner that does."""


@dataclass(frozen=True)
class Served:
    """A model that is being served."""

    url: str
    server: psutil.Process
    load: Load
    log: Path
    ready_s: float
    """Seconds from ``bentoml serve`` to ready."""

    def parties(self) -> dict[str, int]:
        """Party name to process id, of the parties in session."""
        return serving.parties_of(self.server)

    def cpu_s(self) -> float:
        """Processor seconds so far of all processes that serve, and of the clients'."""
        processes = [self.server, *self.server.children(recursive=True), self.load.process]
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    def settle(self) -> None:
        """Wait until all processes that stand by have done their imports, and nothing computes.

        Raises:
            RuntimeError: that takes too long.
        """
        until = time.monotonic() + _SETTLE_TIMEOUT_S
        while time.monotonic() < until:
            processes = self.server.children(recursive=True)
            parties = [process for process in processes if _is_party(process)]
            wanted = _PROCESSES_A_PARTY * len(self.parties().keys() - {"dealer"})
            if len(parties) == wanted and _are_idle(processes):
                return
            time.sleep(0.2)
        raise RuntimeError(f"no warm standby processes after {_SETTLE_TIMEOUT_S:.0f} s")


@dataclass
class Workbench:
    """One benchmark run. To be made before BentoML is imported, which reads its store's place only then."""

    home: Path
    quick: bool
    protocols: Sequence[ProtocolName] = PROTOCOL_NAMES
    competitors: Sequence[str] = ()
    """Those that may be installed and measured."""
    _bentos: dict[tuple[str, str, tuple[int, ...] | None], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = self.home / "bentoml"
        store.mkdir(parents=True, exist_ok=True)
        os.environ.update(serving.environment_of(store))
        # As the runner does for its parties: bare runtimes must not lose by threads that spin.
        os.environ.update(PARTY_DEFAULTS | os.environ)

    def scale(self, full: int, quick: int) -> int:
        """How often something is measured."""
        return quick if self.quick else full

    def bento(self, model: NamedMlp, protocol: ProtocolName, batch_sizes: Sequence[int] | None = None) -> str:
        """Convert, compile, save and build; once for each model, protocol and ladder."""
        from secure_runner import save_model

        key = (model.name, protocol, None if batch_sizes is None else tuple(batch_sizes))
        if key not in self._bentos:
            ladder = {} if batch_sizes is None else {"batch_sizes": batch_sizes}
            saved = save_model(f"{model.name}-{protocol}", model.converted, protocol=protocol, **ladder)
            self._bentos[key] = serving.build(saved.program, os.environ)
        return self._bentos[key]

    @contextlib.contextmanager
    def serve(
        self,
        model: NamedMlp,
        protocol: ProtocolName,
        *,
        batch_sizes: Sequence[int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Iterator[Served]:
        """``bentoml serve``, embedded: all parties on this machine, as processes of their own."""
        bento = self.bento(model, protocol, batch_sizes)
        log = self.home / f"{model.name}-{protocol}.log"
        started = time.monotonic()
        with serving.serve(bento, os.environ | (environment or {}), log) as (url, server):
            ready_s = time.monotonic() - started
            with Load(url, model.rows, model.expected, self.home) as load:
                load.run(clients=1, requests=3)
                served = Served(url, server, load, log, ready_s)
                served.settle()
                yield served

    @contextlib.asynccontextmanager
    async def deployment(self, tag: str, *, lanes: int = 1) -> AsyncIterator[Deployment]:
        """A saved program embedded in this process, without BentoML and HTTP, once all lanes serve.

        Raises:
            RuntimeError: they do not.
        """
        import bentoml

        from secure_runner.programs.store import PARAMS_FILE, params_tag
        from secure_runner.runner.deployment import Deployment, PartyFiles

        program = Path(bentoml.models.get(tag).path)
        params = Path(bentoml.models.get(params_tag(tag)).path) / PARAMS_FILE
        deployment = Deployment(PartyFiles(program, params), None, lanes=lanes)
        await deployment.start()
        try:
            until = time.monotonic() + _LANES_TIMEOUT_S
            while not all(lane["serving"] for lane in deployment.status()["lanes"]):
                if time.monotonic() > until:
                    raise RuntimeError(f"{lanes} lanes were not serving within {_LANES_TIMEOUT_S:.0f} s")
                await asyncio.sleep(0.2)
            yield deployment
        finally:
            await deployment.stop()


def _is_party(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "secure_runner.party" in process.cmdline()
    return False


def _are_idle(processes: Sequence[psutil.Process]) -> bool:
    def used_s() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    try:
        before = used_s()
        time.sleep(1.0)
        return used_s() - before < 0.25
    except psutil.Error:
        return False
