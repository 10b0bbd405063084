"""A service whose predictor adds up rows in the clear: the HTTP side is what it is for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import bentoml

from secure_runner.http.early import answer_early
from secure_runner.http.service import SERVICE_OPTIONS, PredictionService
from secure_runner.http.settings import HttpSettings
from secure_runner.programs.manifest import Manifest, NumericSpec, TensorSpec

X = TensorSpec(name="x", dtype="float32", shape=(None, 3))
Y = TensorSpec(name="y", dtype="float32", shape=(None,))


class SumPredictor:
    """Hangs, like a runner that is gone, while there is a file named ``hang``."""

    manifest = Manifest(
        name="credit",
        protocol="aby3",
        numeric=NumericSpec(),
        inputs=(X,),
        outputs=(Y,),
        private_inputs=(X,),
        private_outputs=(Y,),
        params=(),
        executables=(),
        versions={},
    )

    async def predict(self, inputs: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"y": inputs["x"].sum(axis=1)}

    async def ready(self) -> tuple[bool, str]:
        if Path("hang").exists():
            await asyncio.sleep(60)
        return True, ""


@bentoml.service(name="sum", **SERVICE_OPTIONS)
class Sum(PredictionService):
    def __init__(self) -> None:
        self.open_http(SumPredictor(), HttpSettings.load(Path("http.yaml"), embedded=False))


answer_early(Sum)
