"""What a party registers at the dealer before its SPU runtime starts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secure_runner.dealer.requests import MAX_CIPHERTEXT_TEXT, MAX_PARTIES

__all__ = ["CorrectionsRequest", "Registration"]

_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,128}$")]
_Ciphertext = Annotated[str, Field(min_length=1, max_length=MAX_CIPHERTEXT_TEXT)]


class Registration(BaseModel):
    """One party's word on a job. All parties must give the same, apart from ``rank`` and ``transcript``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: _Name
    """Name of the SPU runtime that the parties are about to start; never used twice."""
    parties: Annotated[tuple[_Name, ...], Field(min_length=2, max_length=MAX_PARTIES)]
    """Names of the parties, in rank order, as in their certificates."""
    rank: Annotated[int, Field(ge=0)]
    """Which of them registers."""
    adjust_rank: Annotated[int, Field(ge=0)]
    """Which of them asks for the corrections."""
    transcript_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of what one run of the executable asks for."""
    transcript: dict[str, Any] | None = None
    """The transcript itself; one party has to give it."""
    wait_s: Annotated[float, Field(ge=0, le=60)] = 0.0
    """How long to wait for the other parties."""

    @model_validator(mode="after")
    def _is_consistent(self) -> Registration:
        if len(set(self.parties)) != len(self.parties):
            raise ValueError("parties: each has a name of its own")
        if max(self.rank, self.adjust_rank) >= len(self.parties):
            raise ValueError(f"rank, adjust_rank: expected less than {len(self.parties)}")
        return self

    @property
    def party(self) -> str:
        """Name of the party that registers."""
        return self.parties[self.rank]

    @property
    def agreed(self) -> tuple[str, tuple[str, ...], int, str]:
        """What must be the same from all parties."""
        return self.job, self.parties, self.adjust_rank, self.transcript_sha256


class CorrectionsRequest(BaseModel):
    """What the adjusting party's relay asks for: the corrections that come next."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: Annotated[int, Field(ge=0)]
    """How many corrections of the session it has got before."""
    encrypted_seeds: Annotated[tuple[_Ciphertext, ...], Field(min_length=2, max_length=MAX_PARTIES)]
    """The parties' seeds under the job's key, base64, in rank order, as SPU's client bears them."""
