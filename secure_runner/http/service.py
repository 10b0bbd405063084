"""The HTTP side as the base class of a BentoML service.

    @bentoml.service(**SERVICE_OPTIONS, name="credit")
    class Credit(PredictionService):
        runner = bentoml.depends(SecureRunner.for_model("credit:latest"))

        @bentoml.on_startup
        def open(self) -> None:
            self.open_http(predictor, settings)

``POST /predict`` is a BentoML API: it is in the OpenAPI page and in the schema that BentoML's clients read.
Its request, though, reaches us unread, because BentoML's own reading reshapes arrays, lets NaN pass and logs
the values of what it refuses. The other routes are a mounted application.
"""

from __future__ import annotations

from typing import Any, ClassVar

import bentoml
from _bentoml_sdk.io_models import IODescriptor
from starlette.requests import Request
from starlette.responses import Response

from secure_runner.heap import settle_heap
from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.schemas import inputs_schema, outputs_schema
from secure_runner.http.settings import HttpSettings
from secure_runner.http.tasks import ScoringTasks
from secure_runner.http.types import Observer, Predictor
from secure_runner.standby import SupervisedService, stand_by

__all__ = ["SERVICE_OPTIONS", "PredictionService"]

SERVICE_OPTIONS: dict[str, Any] = {
    "workers": 1,
    "traffic": {"timeout": 330},
    # BentoML's own probe of the runner hangs up to the traffic timeout where the runner is dead or starting.
    "runner_probe": {"enabled": False, "timeout": 1, "period": 10},
    # A recorded span and a line of log for each prediction take as much processor time as all else here does,
    # and say nothing that this service's own traces and audit log do not say.
    "tracing": {"excluded_urls": ["/predict", "/v2/"]},
    "logging": {
        "access": {"skip_paths": ["/predict", "/v2/", "/metrics", "/healthz", "/livez", "/readyz"]},
    },
}


def _specs(api: PredictionApi) -> tuple[type[IODescriptor], type[IODescriptor]]:
    """Input and output specs of one service; their schemas follow the manifest once there is one."""

    class PredictInput(IODescriptor):  # type: ignore[misc]  # BentoML has no types
        """Rows of one input, or an object of input name to rows."""

        inputs: Any

        @classmethod
        async def from_http_request(cls, request: Request, serde: Any) -> Any:
            """Leave the body unread; whoever answers reads it within bounds."""
            return cls.model_construct(inputs=request)

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """For people in mode ``serialization``, for BentoML's clients otherwise."""
            schema: dict[str, Any] = super().model_json_schema(*args, **kwargs)
            if api.bound:
                for_client = kwargs.get("mode", "validation") == "validation"
                manifest = api.predictor.manifest
                schema["properties"]["inputs"] = inputs_schema(manifest, for_bentoml_client=for_client)
            return schema

    class PredictOutput(IODescriptor):  # type: ignore[misc]
        """Rows of one output, or an object of output name to rows."""

        outputs: Any

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """The same for everybody."""
            schema: dict[str, Any] = super().model_json_schema(*args, **kwargs)
            if api.bound:
                schema["properties"]["outputs"] = outputs_schema(api.predictor.manifest)
            return schema

    return PredictInput, PredictOutput


class PredictionService(SupervisedService):
    """Base class of a data owner's service; each subclass gets the routes and a readiness of its own."""

    http_api: ClassVar[PredictionApi]
    scoring_tasks: ClassVar[ScoringTasks]
    predict: Any
    """``POST /predict``, as a BentoML API method."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        api = PredictionApi()
        cls.http_api, cls.scoring_tasks = api, ScoringTasks(api)
        bentoml.asgi_app(create_app(api, cls.scoring_tasks), path="/", name="secure-runner")(cls)

        async def predict(self: Any, inputs: Any) -> Any:
            """Predict privately: neither the rows nor the answer leave the data owner in the clear."""
            response: Response = await api.predict(inputs)
            return response

        input_spec, output_spec = _specs(api)
        cls.predict = bentoml.api(predict, input_spec=input_spec, output_spec=output_spec)

    def open_http(
        self, predictor: Predictor, settings: HttpSettings, observe: Observer | None = None
    ) -> None:
        """Start answering predictions; before this call they get 503."""
        self.http_api.bind(predictor, settings, observe)

    @bentoml.on_startup
    async def settle(self) -> None:
        """Keep the garbage collector away from what imports have left; then wait for this worker's turn."""
        settle_heap()
        (await stand_by()).serves()

    @bentoml.on_shutdown
    def forget_tasks(self) -> None:
        """Leave no file of a scoring task behind."""
        self.scoring_tasks.close()

    async def __is_ready__(self) -> bool:
        """What ``/readyz`` says, within 1.5 s whatever state the runner is in."""
        ready, _ = await self.http_api.ready()
        return ready
