"""What can be said when a Bento is built: ``bentoml build --arg model=credit:latest``."""

from __future__ import annotations

from pydantic import BaseModel

from secure_runner.protocols import ProtocolName

__all__ = ["BentoArguments"]


class BentoArguments(BaseModel):
    """Arguments of the services in this folder."""

    model: str = "model:latest"
    """Tag of the program in the BentoML model store; its params have the same version."""
    protocol: ProtocolName | None = None
    """Protocol of an embedded deployment; the program's default if not given."""
    insecure: bool = False
    """Embedded only: admit semi2k without a dealer."""
