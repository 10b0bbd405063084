"""The data owner's Bento: the program without the params, and the only service that answers predictions."""

from __future__ import annotations

import bentoml

from bentos.arguments import BentoArguments
from secure_runner import SecureRunner
from secure_runner.http.early import answer_early
from secure_runner.http.service import SERVICE_OPTIONS, PredictionService
from secure_runner.runner.service import open_predictions

arguments = bentoml.use_arguments(BentoArguments)


@bentoml.service(name="secure-prediction-data-owner", **SERVICE_OPTIONS)
class DataOwner(PredictionService):
    """Takes features from the data owner's own applications; they leave this organisation as shares."""

    program = bentoml.models.BentoModel(arguments.model)
    runner = bentoml.depends(SecureRunner.for_model(arguments.model, with_params=False))

    def __init__(self) -> None:
        open_predictions(self, self.runner, self.program)


answer_early(DataOwner)
