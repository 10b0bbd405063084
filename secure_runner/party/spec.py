"""What a party process is told about the one session it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from secure_runner.config import PartySettings
from secure_runner.protocols import Role

__all__ = ["SessionSpec"]


class SessionSpec(BaseModel):
    """One session as one party sees it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: PartySettings
    """The cluster, and which party this is."""
    session_id: str
    """Unique for each epoch, the same at all parties; names SecretFlow's job and the link, so that
    messages of two sessions never mix."""
    epoch: Annotated[int, Field(ge=1)]
    lane: Annotated[int, Field(ge=0)] = 0
    slot: Annotated[int, Field(ge=0)] = 0
    program_dir: Path
    """The program: manifest and executables."""
    params_file: Path | None = None
    """The params; set at the model owner alone."""
    ask_before_runs: bool = False
    """Whether this party asks its runner before it runs a batch; where the model owner has set limits."""

    @property
    def parties(self) -> tuple[str, ...]:
        """Names of the computing parties, in rank order."""
        return self.settings.cluster.ranked_parties

    @property
    def rank(self) -> int:
        """This party's rank."""
        return self.parties.index(self.settings.party)

    def rank_of(self, role: Role) -> int:
        """Rank of the party with the role."""
        return self.parties.index(self.settings.cluster.party_with(role))
