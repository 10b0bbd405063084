"""Settings of the HTTP side, as the data owner writes them in ``http.yaml``.

authentication: tokens          # or mtls, or none
clients:
  - name: scoring-batch
    token_sha256: 9f86d0…       # of a random token of 32 bytes; the token itself is nowhere here
    limits: {requests_per_s: 20, burst: 40, rows_per_day: 200000, rows_per_request: 1024}
limits: {requests_per_s: 50}    # of every client without limits of its own
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from secure_runner.errors import ConfigError

__all__ = ["ClientLimits", "HttpClient", "HttpSettings"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ClientLimits(_Frozen):
    """What one client may ask for. ``None`` is without limit."""

    requests_per_s: float | None = Field(default=None, gt=0)
    """Requests a second, on average."""
    burst: int = Field(default=50, ge=1)
    """Requests that may come at once before ``requests_per_s`` applies."""
    rows_per_day: int | None = Field(default=None, ge=1)
    """Rows between two midnights UTC, counted since the service started."""
    rows_per_request: int = Field(default=4096, ge=1)
    """Rows of one request."""


class HttpClient(_Frozen):
    """One client of the service: its name in logs and audit, and the digest of its token."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    token_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    limits: ClientLimits | None = None


class HttpSettings(_Frozen):
    """Everything that can be set about the HTTP side of the data owner's service."""

    authentication: Literal["tokens", "mtls", "none"] = "tokens"
    """How clients are known: by ``tokens``, by certificate (``mtls``), or not at all (``none``)."""
    clients: tuple[HttpClient, ...] = ()
    """Who may ask: name, token digest and, if they differ from the general ones, limits."""
    limits: ClientLimits = ClientLimits()
    """For every client without limits of its own."""
    max_body_bytes: int = Field(default=16 * 2**20, ge=1)
    """Of a request body, also once a .npz archive is expanded."""
    body_timeout_s: float = Field(default=30.0, gt=0)
    """A whole body must have arrived within this time."""
    default_deadline_s: float = Field(default=30.0, gt=0)
    """For requests without ``X-Request-Timeout-S``."""
    max_deadline_s: float = Field(default=300.0, gt=0)
    """The largest ``X-Request-Timeout-S``. BentoML's ``traffic.timeout`` must be above it."""
    max_requests_in_flight: int = Field(default=1024, ge=1)
    """Beyond this many, requests are refused before their body is read, which bounds memory."""
    max_task_bytes: int = Field(default=64 * 2**20, ge=1)
    """Of a file of rows to score, also once a Parquet file is expanded."""
    max_tasks: int = Field(default=16, ge=1)
    """Scoring tasks held at once, of all clients."""
    max_tasks_per_client: int = Field(default=4, ge=1)
    """Scoring tasks held at once, of one client."""
    task_keep_s: float = Field(default=3600.0, gt=0)
    """How long a scoring task that has ended is held, where its client does not fetch the file."""

    @model_validator(mode="after")
    def _consistent(self) -> HttpSettings:
        if self.authentication == "tokens" and not self.clients:
            raise ValueError("authentication by tokens needs at least one entry under clients")
        for field in ("name", "token_sha256"):
            if len({getattr(client, field) for client in self.clients}) != len(self.clients):
                raise ValueError(f"two clients have the same {field}")
        if self.default_deadline_s > self.max_deadline_s:
            raise ValueError("default_deadline_s is above max_deadline_s")
        return self

    @classmethod
    def load(cls, path: Path | None, *, embedded: bool) -> HttpSettings:
        """Read ``http.yaml``; without one, an embedded deployment asks nobody for a token.

        Raises:
            ConfigError: the file is missing, unreadable or wrong, or a cluster has none.
        """
        if path is None:
            if embedded:
                return cls(authentication="none")
            raise ConfigError(
                "the service of a cluster needs to know its HTTP clients: set SECURE_RUNNER_HTTP to the "
                "path of an http.yaml with tokens, or with the line 'authentication: none' to let anybody in"
            )
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls.model_validate({} if document is None else document)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read: {type(error).__name__}") from error
        except ValidationError as error:
            reasons = "; ".join(
                f"{'.'.join(map(str, item['loc'])) or 'http.yaml'}: {item['msg']}"
                for item in error.errors(include_input=False, include_context=False, include_url=False)
            )
            raise ConfigError(f"{path} is wrong: {reasons}") from None
