"""``limits.yaml``: what the model owner lets each data owner compute. Private to the model owner.

state_directory: /var/lib/secure-runner      # keeps the day's rows through restarts
data_owners:
  bank: {rows_per_day: 200000, batches_per_s: 20, rows_per_batch: 32}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secure_runner.config.settings import PartyName
from secure_runner.config.validation import config_error
from secure_runner.errors import ConfigError

__all__ = ["DataOwnerLimits", "OwnerLimits"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataOwnerLimits(_Frozen):
    """What one data owner may have computed. ``None`` is without limit.

    Rows are counted as computed: all of a batch, padding included, because padding can hold rows too.
    """

    rows_per_day: Annotated[int, Field(ge=1)] | None = None
    """Rows between two midnights UTC. Bounds model extraction: a model has so many trained values."""
    batches_per_s: Annotated[float, Field(gt=0)] | None = None
    """Batches a second, on average."""
    burst: Annotated[int, Field(ge=1)] = 20
    """Batches that may come at once before ``batches_per_s`` applies."""
    rows_per_batch: Annotated[int, Field(ge=1)] | None = None
    """Larger executables of the program are not run."""
    programs: tuple[Digest, ...] | None = None
    """Digests of the programs that may be run for this data owner."""


class OwnerLimits(_Frozen):
    """The whole of ``limits.yaml``."""

    data_owners: dict[PartyName, DataOwnerLimits]
    """By the data owner's party name; a data owner that is not listed gets no session."""
    state_directory: Path | None = None
    """Where the rows of the day are kept; needed with ``rows_per_day``. Survives restarts."""

    @model_validator(mode="after")
    def _keeps_count(self) -> OwnerLimits:
        daily = [name for name, limits in self.data_owners.items() if limits.rows_per_day is not None]
        if daily and self.state_directory is None:
            raise ValueError(
                f"state_directory: missing, although rows_per_day is set for {', '.join(daily)}; "
                "without it a restart would begin the day anew"
            )
        return self

    def of(self, data_owner: str) -> DataOwnerLimits:
        """The limits of one data owner.

        Raises:
            ConfigError: it is not listed.
        """
        if data_owner not in self.data_owners:
            raise ConfigError(
                f"limits.yaml has no entry for {data_owner} under data_owners; add one, "
                "empty ({}) for no limits"
            )
        return self.data_owners[data_owner]

    @classmethod
    def load(cls, path: Path) -> OwnerLimits:
        """Read ``limits.yaml``.

        Raises:
            ConfigError: it is missing or wrong; names every setting at fault.
        """
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}") from error
        try:
            return cls.model_validate({} if document is None else document)
        except ValidationError as error:
            raise config_error(str(path), error) from error
