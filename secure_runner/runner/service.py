"""The runner as a BentoML service, for ``bentoml.depends()``."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import bentoml

from secure_runner.config import PartySettings
from secure_runner.errors import ProgramError, SecureRunnerError
from secure_runner.frames import Array
from secure_runner.http.types import Arrays
from secure_runner.programs.manifest import Manifest
from secure_runner.programs.store import PARAMS_FILE, params_tag
from secure_runner.protocols import ProtocolName
from secure_runner.runner.deployment import Deployment, PartyFiles
from secure_runner.runner.exchange import answer_of, failure, request_of, to_answer, to_request

__all__ = ["RunnerClient", "SecureRunner"]

# BentoML closes its session to a runner after 100 requests, with calls in flight, unless told otherwise.
_CONNECTION = {"max_requests": 2**31, "max_age": 1e9}
_TRAFFIC = {"timeout": 330, "max_concurrency": 4096}
_GC_THRESHOLDS = (50_000, 50, 100)


class SecureRunner:
    """Makes runner services."""

    @staticmethod
    def for_model(
        tag: str,
        *,
        with_params: bool = True,
        protocol: ProtocolName | None = None,
        insecure: bool = False,
    ) -> Any:
        """A service that runs a program of the BentoML model store, for ``bentoml.depends()``.

        The Bento that is built with it holds the program and, unless told otherwise, the params.

        Args:
            tag: the program, for example ``credit:latest``.
            with_params: bundle the params too. False for the Bento that other parties receive.
            protocol: for embedded deployments, instead of the program's default.
            insecure: for embedded deployments, admit semi2k without a dealer.
        """
        attributes = {"program": bentoml.models.BentoModel(tag), "protocol": protocol, "insecure": insecure}
        if with_params:
            attributes["params"] = bentoml.models.BentoModel(params_tag(tag))
        inner = type("SecureRunnerService", (_RunnerService,), attributes)
        name = f"secure-runner-{tag.partition(':')[0]}"
        service = bentoml.service(name=name, workers=1, traffic=_TRAFFIC, runner_connection=_CONNECTION)
        return service(inner)


class _RunnerService:
    """The service's inner class: a thin shell around a deployment."""

    program: Any
    params: Any = None
    protocol: ProtocolName | None
    insecure: bool

    @bentoml.on_startup
    async def start(self) -> None:
        """Start the party process or, embedded, all of them."""
        settings = PartySettings.from_environment(os.environ)
        files = PartyFiles(Path(self.program.path), self._params_file())
        self._deployment = Deployment(files, settings, protocol=self.protocol, insecure=self.insecure)
        await self._deployment.start()
        # Collections of a large, old heap are what makes latency jump by 100 ms and more.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """End every process."""
        await self._deployment.stop()

    @bentoml.api
    async def exchange(self, frame: bytes) -> bytes:
        """Answer one request; errors are answers too."""
        try:
            inputs, meta = request_of(frame)
            outputs = await self._deployment.predict(
                inputs, client=meta["client"], deadline_s=meta["deadline_s"]
            )
        except SecureRunnerError as error:
            return failure(error)
        return to_answer(outputs)

    @bentoml.api
    async def status(self) -> dict[str, Any]:
        """What this runner is doing."""
        return self._deployment.status()

    @bentoml.api
    async def manifest(self) -> str:
        """The program's manifest as JSON."""
        return self._deployment.manifest.model_dump_json()

    def _params_file(self) -> Path | None:
        if self.params is None:
            return None
        if self.params.tag.version != self.program.tag.version:
            raise ProgramError(
                f"program {self.program.tag} and params {self.params.tag} are of different versions; "
                "save the model again, or name the version in the service"
            )
        return Path(self.params.path) / PARAMS_FILE


class RunnerClient:
    """The API service's side: a :class:`secure_runner.http.types.Predictor` over the service it depends on."""

    def __init__(self, runner: Any, manifest: Manifest) -> None:
        self._runner = runner
        self.manifest = manifest

    async def predict(
        self, inputs: Arrays, *, request_id: str, deadline_s: float | None, client: str | None
    ) -> dict[str, Array]:
        """See ``Predictor.predict``."""
        frame = to_request(dict(inputs), request_id=request_id, client=client, deadline_s=deadline_s)
        return answer_of(bytes(await self._runner.exchange(frame=frame)))

    async def ready(self) -> tuple[bool, str]:
        """See ``Predictor.ready``."""
        status = await self._runner.status()
        return bool(status["ready"]), str(status["state"])
