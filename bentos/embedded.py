"""All parties on one machine: what ``bentoml serve`` does on a laptop.

The processes, the protocol and the code are those of a deployment across organisations; that all of them run
under one operator is why this protects nothing and is for trials.
"""

from __future__ import annotations

import bentoml

from bentos.arguments import BentoArguments
from secure_runner import SecureRunner
from secure_runner.http.early import answer_early
from secure_runner.http.service import SERVICE_OPTIONS, PredictionService
from secure_runner.runner.service import open_predictions

arguments = bentoml.use_arguments(BentoArguments)


@bentoml.service(name="secure-prediction", **SERVICE_OPTIONS)
class SecurePrediction(PredictionService):
    """Predictions of one model, computed under MPC between processes of this machine."""

    program = bentoml.models.BentoModel(arguments.model)
    runner = bentoml.depends(
        SecureRunner.for_model(arguments.model, protocol=arguments.protocol, insecure=arguments.insecure)
    )

    def __init__(self) -> None:
        open_predictions(self, self.runner, self.program)


answer_early(SecurePrediction)
