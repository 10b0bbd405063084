"""The dealer's Bento (semi2k): no program and no params, randomness only."""

from __future__ import annotations

import bentoml

from secure_runner.dealer.service import DealerService
from secure_runner.http.service import SERVICE_OPTIONS


@bentoml.service(name="secure-prediction-dealer", **SERVICE_OPTIONS)
class Dealer(DealerService):
    """Corrects pseudo-random shares; sees no feature, weight, share or prediction."""
