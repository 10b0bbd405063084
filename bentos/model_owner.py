"""The model owner's Bento: the program and the params. It computes, and answers no predictions itself."""

from __future__ import annotations

import bentoml

from bentos.arguments import BentoArguments
from secure_runner import SecureRunner
from secure_runner.http.service import SERVICE_OPTIONS
from secure_runner.runner.service import ComputingService

arguments = bentoml.use_arguments(BentoArguments)


@bentoml.service(name="secure-prediction-model-owner", **SERVICE_OPTIONS)
class ModelOwner(ComputingService, role="model_owner"):
    """Shares the weights once for each session, and never sees a feature or a prediction."""

    program = bentoml.models.BentoModel(arguments.model)
    runner = bentoml.depends(SecureRunner.for_model(arguments.model))
