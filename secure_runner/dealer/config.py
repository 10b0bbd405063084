"""The dealer's configuration."""

from __future__ import annotations

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from secure_runner.errors import ConfigError

__all__ = ["DealerConfig", "DealerLimits", "TlsFiles"]

_PositiveInt = Annotated[int, Field(gt=0)]
_PositiveSeconds = Annotated[float, Field(gt=0)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TlsFiles(_Settings):
    """Mutual TLS: PEM files of one side."""

    certificate_file: Path
    """Own certificate, with intermediate ones if there are any."""
    key_file: Path = Field(repr=False)
    """Own private key."""
    ca_file: Path
    """Authority that the other side's certificate must come from, used for this deployment alone; or the
    other sides' certificates themselves."""

    def server_context(self) -> ssl.SSLContext:
        """For the dealer: only clients with a certificate of the authority get in.

        Raises:
            ConfigError: a file is missing or wrong.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._load(context)

    def client_context(self) -> ssl.SSLContext:
        """For a party: the dealer's certificate must come from the authority and bear the name asked for.

        Raises:
            ConfigError: a file is missing or wrong.
        """
        return self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # The CA file may also hold the other sides' own certificates, pinned one by one.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_cert_chain(self.certificate_file, self.key_file)
            context.load_verify_locations(self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"cannot use certificate {self.certificate_file} with its key and CA {self.ca_file}: "
                f"{type(error).__name__}"
            ) from None
        return context


class DealerLimits(_Settings):
    """What the dealer gives at most. Going over one ends in a refusal that names it."""

    connections: _PositiveInt = 512
    """Open connections of all clients."""
    connections_per_client: _PositiveInt = 128
    """Open connections of one certificate, or of one address without TLS."""
    jobs: _PositiveInt = 512
    """Registered jobs; each stands for one SPU runtime."""
    jobs_per_client: _PositiveInt = 128
    """Jobs that one client has registered first."""
    request_bytes: _PositiveInt = 64 << 10
    """Body of a request for corrections."""
    registration_bytes: _PositiveInt = 16 << 20
    """Body of a registration."""
    transcript_steps: _PositiveInt = 200_000
    """Corrections of one run."""
    step_bytes: _PositiveInt = 512 << 20
    """Masks of one correction, per party."""
    step_multiplications: _PositiveInt = 1 << 40
    """Ring multiplications of one correction."""
    lookahead_bytes: _PositiveInt = 32 << 20
    """Answers of one session that wait, computed ahead."""
    request_timeout_s: _PositiveSeconds = 10.0
    """A connection that has begun a request, or not sent any yet, must complete one within this."""
    lease_s: _PositiveSeconds = 30.0
    """A job ends when one of its parties has not asked after it for so long."""


class DealerConfig(_Settings):
    """How a dealer process runs. Holds paths of keys, never keys."""

    host: str = "127.0.0.1"
    """IP address to listen on. Without TLS: loopback only."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on; 0 takes a free one."""
    tls: TlsFiles | None = None
    """Mutual TLS; may be missing on loopback only."""
    identity_key_file: Path | None = Field(default=None, repr=False)
    """PEM of the Ed25519 key whose public half the parties pin. None makes one for the process's lifetime,
    which fits where the process's parent starts the parties too."""
    ignore_signals: bool = False
    """Leave SIGTERM and SIGINT to the parent process, which ends this one by closing its standard input."""
    limits: DealerLimits = DealerLimits()

    @model_validator(mode="after")
    def _is_safe(self) -> DealerConfig:
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise ValueError(f"host: expected an IP address, got {self.host!r}") from None
        if self.tls is None and not loopback:
            raise ValueError("tls: missing, although the dealer does not listen on loopback")
        return self
