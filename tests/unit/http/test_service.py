"""The base class of a service: routes, schemas and readiness of its own for each subclass."""

from __future__ import annotations

import asyncio
from typing import Any

import bentoml
import httpx
from _bentoml_impl.server.app import ServiceAppFactory

from secure_runner.http.early import answer_early
from secure_runner.http.service import SERVICE_OPTIONS, PredictionService
from secure_runner.http.settings import HttpSettings

OPEN = HttpSettings(authentication="none")


def _service(name: str) -> Any:
    inner = type(name, (PredictionService,), {})
    return bentoml.service(name=name.lower(), **SERVICE_OPTIONS)(inner)


def test_each_service_has_its_own_predictor(predictor: Any, several_predictor: Any) -> None:
    """Two services in one process do not answer for each other, and describe their own programs."""
    first, second = _service("First"), _service("Second")
    first.inner().open_http(predictor, OPEN)
    second.inner().open_http(several_predictor, OPEN)

    def inputs_of(service: Any) -> Any:
        return service.schema()["routes"][0]["input"]["properties"]["inputs"]

    assert inputs_of(first) == {"type": "tensor", "format": "numpy-array"}
    assert list(inputs_of(second)["properties"]) == ["image", "count", "flag"]
    assert first.inner.http_api.predictor is predictor


def test_readiness_before_and_after_the_start(predictor: Any) -> None:
    """Not ready until there is a predictor that says so; a predictor that fails is not ready."""
    instance = _service("Third").inner()
    assert asyncio.run(instance.__is_ready__()) is False
    instance.open_http(predictor, OPEN)
    assert asyncio.run(instance.__is_ready__()) is True
    predictor.is_ready = (False, "no session")
    assert asyncio.run(instance.__is_ready__()) is False

    async def fail() -> Any:
        raise RuntimeError

    predictor.ready = fail
    assert asyncio.run(instance.__is_ready__()) is False


def test_a_bento_can_be_described_without_a_model() -> None:
    """`bentoml build` reads the schema when no service runs."""
    schema = _service("Fourth").schema()
    assert schema["routes"][0]["name"] == "predict"
    assert "/v2/models/{name}/infer" in schema["paths"]


def test_requests_leave_no_timers_behind(predictor: Any) -> None:
    """BentoML's time limit would keep one of its whole length for each; memory would grow for minutes."""
    service = _service("Fifth")
    answer_early(service)
    service.inner().open_http(predictor, OPEN)
    service.inject_config()
    app = ServiceAppFactory(service, is_main=True)()

    async def main() -> tuple[int, int]:
        loop: Any = asyncio.get_running_loop()
        said: asyncio.Queue[Any] = asyncio.Queue()
        asked: asyncio.Queue[Any] = asyncio.Queue()
        asked.put_nowait({"type": "lifespan.startup"})
        life = asyncio.create_task(app({"type": "lifespan", "app": app}, asked.get, said.put))
        assert (await said.get())["type"] == "lifespan.startup.complete"
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            counts = []
            for _ in range(2):
                for _ in range(20):
                    answer = await client.post("/predict", json={"inputs": [[1.0, 2.0, 3.0]]})
                    assert answer.status_code == 200, answer.text
                counts.append(sum(not timer.cancelled() for timer in loop._scheduled))
        asked.put_nowait({"type": "lifespan.shutdown"})
        await life
        return counts[0], counts[1]

    first, second = asyncio.run(main())
    assert second <= first
