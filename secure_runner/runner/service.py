"""The runner as a BentoML service, for ``bentoml.depends()``."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

import bentoml
from starlette.applications import Starlette

from secure_runner.config import PartySettings
from secure_runner.config.owner_limits import OwnerLimits
from secure_runner.errors import ProgramError, SecureRunnerError
from secure_runner.frames import Array
from secure_runner.heap import settle_heap
from secure_runner.http.refusal import create_refusing_app
from secure_runner.http.service import PredictionService
from secure_runner.http.settings import HttpSettings
from secure_runner.http.types import Arrays
from secure_runner.observe import settings as observe
from secure_runner.observe.requests import observe_requests
from secure_runner.observe.traces import current_traceparent
from secure_runner.programs.files import read_program
from secure_runner.programs.manifest import Manifest
from secure_runner.programs.store import PARAMS_FILE, params_tag
from secure_runner.protocols import ProtocolName, Role
from secure_runner.runner.calls import CallClient, CallServer
from secure_runner.runner.deployment import Deployment, PartyFiles
from secure_runner.runner.exchange import answer_of, failure, request_of, to_answer, to_request
from secure_runner.sessions.keeper import parties_here
from secure_runner.sessions.warm import WarmProcesses
from secure_runner.standby import SupervisedService, Turn, stand_by

__all__ = ["ComputingService", "RunnerClient", "SecureRunner", "open_predictions"]

_log = logging.getLogger(__name__)

# BentoML closes its session to a runner after 100 requests, with calls in flight, unless told otherwise.
_CONNECTION = {"max_requests": 2**31, "max_age": 1e9}
_TRAFFIC = {"timeout": 330, "max_concurrency": 4096}
_READY_TIMEOUT_S = 1.5


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


class _RunnerService(SupervisedService):
    """The service's inner class: a thin shell around a deployment."""

    program: Any
    params: Any = None
    protocol: ProtocolName | None
    insecure: bool
    _saying: asyncio.Task[None]

    @bentoml.on_startup
    async def start(self) -> None:
        """Start the party process or, embedded, all of them, once it is this worker's turn."""
        settings = PartySettings.from_environment(os.environ)
        files = PartyFiles(Path(self.program.path), self._params_file())
        limits = os.environ.get("SECURE_RUNNER_LIMITS")
        observe.set_up(os.environ, "secure-runner" if settings is None else settings.party)
        warm = WarmProcesses()
        turn = await stand_by(lambda: warm.keep(*parties_here(files, settings, self.protocol)))
        self._deployment = Deployment(
            files,
            settings,
            protocol=self.protocol,
            insecure=self.insecure,
            audit_directory=observe.audit_directory(os.environ, embedded=settings is None),
            limits=OwnerLimits.load(Path(limits)) if limits else None,
            warm_processes=warm,
        )
        await self._deployment.start()
        self._saying = asyncio.create_task(self._say_when_serving(turn))
        self._calls = CallServer(self._exchange)
        self._calls_path = await self._calls.open()
        settle_heap()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """End every process."""
        self._saying.cancel()
        await self._deployment.stop()
        await self._calls.close()

    @bentoml.api
    async def calls_path(self) -> str:
        """Where this runner takes predictions: a Unix socket, apart from BentoML's."""
        return str(self._calls_path)

    async def _exchange(self, frame: bytes) -> bytes:
        """Answer one request; errors are answers too."""
        try:
            inputs, meta = request_of(frame)
            outputs = await self._deployment.predict(inputs, **meta)
        except SecureRunnerError as error:
            return failure(error)
        except Exception as error:
            # The message of an error that nobody foresaw may hold anything.
            _log.error("a request failed: %s", type(error).__name__)
            return failure(SecureRunnerError("the request could not be answered"))
        return to_answer(outputs)

    @bentoml.api
    async def status(self) -> dict[str, Any]:
        """What this runner is doing."""
        return self._deployment.status()

    async def _say_when_serving(self, turn: Turn) -> None:
        await self._deployment.until_serving()
        turn.serves()

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
    """The API service's side: a predictor (:mod:`secure_runner.http.types`) over the runner it depends on."""

    def __init__(self, runner: Any, manifest: Manifest) -> None:
        self._runner = runner
        self._calls = CallClient(lambda: self._runner.calls_path())
        self.manifest = manifest

    async def predict(
        self,
        inputs: Arrays,
        *,
        request_id: str,
        deadline_s: float | None,
        client: str | None,
        repeatable: bool,
    ) -> dict[str, Array]:
        """See ``Predictor.predict``."""
        frame = to_request(
            dict(inputs),
            request_id=request_id,
            client=client,
            deadline_s=deadline_s,
            repeatable=repeatable,
            traceparent=current_traceparent(),
        )
        return answer_of(await self._calls.call(frame))

    async def ready(self) -> tuple[bool, str]:
        """See ``Predictor.ready``."""
        status = await self._runner.status()
        return bool(status["ready"]), str(status["state"])


def open_predictions(service: PredictionService, runner: Any, program: Any) -> None:
    """Open a data owner's HTTP side over its runner.

    Called by a service in its ``__init__``. ``http.yaml`` is read from where ``SECURE_RUNNER_HTTP`` says;
    without it only an embedded deployment opens, and asks nobody for a token.

    Args:
        service: the data owner's service.
        runner: what it depends on, from :meth:`SecureRunner.for_model`.
        program: the same program as a BentoML model.

    Raises:
        ConfigError: the HTTP settings are missing or wrong.
    """
    path = os.environ.get("SECURE_RUNNER_HTTP")
    embedded = not os.environ.get("SECURE_RUNNER_CLUSTER")
    settings = HttpSettings.load(Path(path) if path else None, embedded=embedded)
    observe.set_up(os.environ, "secure-prediction")
    client = RunnerClient(runner, read_program(Path(program.path)))
    service.open_http(client, settings, observe_requests())


class ComputingService(SupervisedService):
    """Base class of the services of parties that compute but answer no predictions.

    A subclass has ``program`` and ``runner``, and names its role:
    ``class Helper(ComputingService, role="helper")``.
    """

    runner: Any
    program: Any
    _app: ClassVar[Starlette]
    _role: ClassVar[Role]

    def __init_subclass__(cls, role: Role, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._role = role
        cls._app = Starlette()
        bentoml.asgi_app(cls._app, path="/", name="secure-runner")(cls)

    def __init__(self) -> None:
        manifest = read_program(Path(self.program.path))
        self._app.mount("/", create_refusing_app(manifest, self._role))

    @bentoml.on_startup
    async def wait_for_turn(self) -> None:
        """Of two workers, let one answer."""
        (await stand_by()).serves()

    async def __is_ready__(self) -> bool:
        """Whether a session is serving, within 1.5 s whatever state the runner is in."""
        try:
            status = await asyncio.wait_for(self.runner.status(), _READY_TIMEOUT_S)
        except Exception:
            return False
        return bool(status["ready"])
