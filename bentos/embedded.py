"""All parties on one machine: what ``bentoml serve`` does on a laptop.

The processes, the protocol and the code are those of a deployment across organisations; that all of them run
under one operator is why this protects nothing and is for trials.
"""

from __future__ import annotations

import os
from pathlib import Path

import bentoml

from bentos.arguments import BentoArguments
from secure_runner import SecureRunner
from secure_runner.http.service import SERVICE_OPTIONS, PredictionService
from secure_runner.http.settings import HttpSettings
from secure_runner.programs.files import read_program
from secure_runner.runner.service import RunnerClient

arguments = bentoml.use_arguments(BentoArguments)


@bentoml.service(name="secure-prediction", **SERVICE_OPTIONS)
class SecurePrediction(PredictionService):
    """Predictions of one model, computed under MPC between processes of this machine."""

    program = bentoml.models.BentoModel(arguments.model)
    runner = bentoml.depends(
        SecureRunner.for_model(arguments.model, protocol=arguments.protocol, insecure=arguments.insecure)
    )

    def __init__(self) -> None:
        settings_path = os.environ.get("SECURE_RUNNER_HTTP")
        settings = HttpSettings.load(Path(settings_path) if settings_path else None, embedded=True)
        self.open_http(RunnerClient(self.runner, read_program(Path(self.program.path))), settings)
