"""A program of one input, one of several, and a predictor that computes them in the clear."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.settings import HttpSettings
from secure_runner.programs.manifest import ExecutableSpec, InputRange, Manifest, NumericSpec, TensorSpec

with warnings.catch_warnings():
    # Starlette asks for a successor of httpx that nothing else here needs.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

DIGEST = "0" * 64


def _manifest(**fields: Any) -> Manifest:
    defaults: dict[str, Any] = {
        "name": "sum",
        "protocol": "aby3",
        "numeric": NumericSpec(),
        "private_inputs": fields["inputs"],
        "private_outputs": fields["outputs"],
        "params": (),
        "executables": (ExecutableSpec(batch_size=1, file="b1", sha256=DIGEST),),
        "versions": {},
    }
    return Manifest(**{**defaults, **fields})


@pytest.fixture(scope="session")
def single() -> Manifest:
    """Rows of three floats; sums."""
    return _manifest(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(None, 3)),),
        outputs=(TensorSpec(name="y", dtype="float32", shape=(None,)),),
        input_ranges={"x": InputRange(low=-1000.0, high=1000.0)},
    )


@pytest.fixture(scope="session")
def several() -> Manifest:
    """An image, a count and a flag for each row; a label and scores."""
    return _manifest(
        name="several",
        inputs=(
            TensorSpec(name="image", dtype="float64", shape=(None, 2, 2)),
            TensorSpec(name="count", dtype="int32", shape=(None,)),
            TensorSpec(name="flag", dtype="bool", shape=(None, 1)),
        ),
        outputs=(
            TensorSpec(name="label", dtype="str", shape=(None,)),
            TensorSpec(name="scores", dtype="float32", shape=(None, 2)),
        ),
    )


class PlainPredictor:
    """Computes in the clear, and remembers what it was asked."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.calls: list[dict[str, Any]] = []
        self.fail_with: Exception | None = None
        self.is_ready: tuple[bool, str] = (True, "")

    async def predict(self, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        self.calls.append({"inputs": inputs, **options})
        if self.fail_with is not None:
            raise self.fail_with
        if "x" in inputs:
            return {"y": inputs["x"].sum(axis=1)}
        rows = len(inputs["count"])
        scores = np.stack([inputs["image"].sum(axis=(1, 2)), inputs["count"]], axis=1)
        return {
            "label": np.array(["benign", "malignant"])[np.arange(rows) % 2],
            "scores": scores.astype("f4"),
        }

    async def ready(self) -> tuple[bool, str]:
        return self.is_ready


@pytest.fixture
def predictor(single: Manifest) -> PlainPredictor:
    return PlainPredictor(single)


@pytest.fixture
def several_predictor(several: Manifest) -> PlainPredictor:
    return PlainPredictor(several)


@pytest.fixture
def client_of() -> Callable[..., TestClient]:
    """A client of a service with the given predictor and settings."""

    def make(predictor: Any, *, observe: Any = None, **settings: Any) -> TestClient:
        settings.setdefault("authentication", "none")
        api = PredictionApi(predictor, HttpSettings(**settings), observe)
        return TestClient(create_app(api), raise_server_exceptions=True)

    return make


@pytest.fixture
def client(predictor: PlainPredictor, client_of: Callable[..., TestClient]) -> TestClient:
    return client_of(predictor)
