"""The dealer as a BentoML service: a dealer process, looked after by the service's worker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import bentoml

from secure_runner.config import PartySettings, timeouts_of
from secure_runner.dealer.config import DealerConfig, TlsFiles
from secure_runner.dealer.process import DealerProcess
from secure_runner.errors import ConfigError, UnavailableError
from secure_runner.standby import SupervisedService, stand_by

__all__ = ["IDENTITY_VARIABLE", "DealerService", "dealer_config"]

_log = logging.getLogger(__name__)
IDENTITY_VARIABLE = "SECURE_RUNNER_DEALER_IDENTITY"
"""Path of the dealer's private identity key (PEM, Ed25519). The parties pin its public half."""
_PAUSE_S = 1.0


def dealer_config(environment: Mapping[str, str]) -> DealerConfig:
    """The dealer's configuration from its party's environment.

    Raises:
        ConfigError: a variable is missing or wrong, or this party is no dealer.
    """
    settings = PartySettings.from_environment(environment)
    if settings is None or settings.role != "dealer":
        raise ConfigError(
            "a dealer needs SECURE_RUNNER_CLUSTER and, in SECURE_RUNNER_PARTY, the name of the party "
            "with role dealer"
        )
    identity_file = environment.get(IDENTITY_VARIABLE)
    if not identity_file:
        raise ConfigError(
            f"{IDENTITY_VARIABLE}: missing; it names the dealer's identity key, whose public half the "
            "parties pin; docs/dealer.md shows how to make one"
        )
    tls = None
    if settings.cluster.tls is not None:
        assert settings.tls_certificate_file is not None
        assert settings.tls_key_file is not None
        tls = TlsFiles(
            certificate_file=settings.tls_certificate_file,
            key_file=settings.tls_key_file,
            ca_file=_authority(settings),
        )
    address = settings.cluster.dealing(listen=True)
    return DealerConfig(
        host=address.host,
        port=address.port,
        tls=tls,
        identity_key_file=Path(identity_file),
        ignore_signals=True,
    )


def _authority(settings: PartySettings) -> Path:
    files = {settings.trust_file(party) for party in settings.cluster.ranked_parties}
    if len(files) > 1:
        raise ConfigError(
            "tls.ca_file: missing; a cluster with a dealer needs one authority for all parties, because "
            "SPU's client of the dealer takes one file"
        )
    return files.pop()


class DealerService(SupervisedService):
    """Base class of a dealer's service: starts the dealer, and starts it again whenever it ends."""

    _process: DealerProcess | None = None
    _keeping: asyncio.Task[None] | None = None

    @bentoml.on_startup
    async def start(self) -> None:
        """Start the dealer; a wrong configuration ends the service with its reason."""
        config = dealer_config(os.environ)
        turn = await stand_by()
        self._process = DealerProcess(config)
        _log.info("dealer at %s, identity %s", self._process.address, self._process.public_key)
        self._keeping = asyncio.create_task(self._keep(config))
        turn.serves()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """End the dealer."""
        if self._keeping is not None:
            self._keeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeping
        if self._process is not None:
            self._process.close()

    async def __is_ready__(self) -> bool:
        """Whether the dealer's process runs."""
        return self._process is not None and self._process.is_running

    async def _keep(self, config: DealerConfig) -> None:
        timeouts = timeouts_of(PartySettings.from_environment(os.environ))
        while True:
            if self._process is not None:
                await self._process.ended(timeouts.stopped_timeout_s)
            _log.error("the dealer's process ended; starting it again")
            try:
                self._process = DealerProcess(config)
            except UnavailableError as error:
                _log.error("%s", error)
                await asyncio.sleep(_PAUSE_S)
