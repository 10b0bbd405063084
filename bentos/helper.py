"""The helper's Bento (aby3): the program without the params. It computes on shares and answers nobody."""

from __future__ import annotations

import bentoml

from bentos.arguments import BentoArguments
from secure_runner import SecureRunner
from secure_runner.http.service import SERVICE_OPTIONS
from secure_runner.runner.service import ComputingService

arguments = bentoml.use_arguments(BentoArguments)


@bentoml.service(name="secure-prediction-helper", **SERVICE_OPTIONS)
class Helper(ComputingService, role="helper"):
    """Holds shares of everything and learns nothing, as long as it colludes with nobody."""

    program = bentoml.models.BentoModel(arguments.model)
    runner = bentoml.depends(SecureRunner.for_model(arguments.model, with_params=False))
