"""Where suites work: a BentoML store of their own, Bentos built once, quick or full runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.load import Load
from benchmarks.models import NamedMlp
from examples.demo import serving
from secure_runner.protocols import ProtocolName

__all__ = ["PROTOCOL_NAMES", "Served", "Workbench"]

PROTOCOL_NAMES: tuple[ProtocolName, ...] = ("aby3", "semi2k", "cheetah")


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


@dataclass
class Workbench:
    """One benchmark run. To be made before BentoML is imported, which reads its store's place only then."""

    home: Path
    quick: bool
    protocols: Sequence[ProtocolName] = PROTOCOL_NAMES
    _bentos: dict[tuple[str, str, tuple[int, ...] | None], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        store = self.home / "bentoml"
        store.mkdir(parents=True, exist_ok=True)
        os.environ.update(serving.environment_of(store))

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

    @contextmanager
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
                yield Served(url, server, load, log, ready_s)
