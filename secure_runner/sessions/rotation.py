"""Notices that a party's certificates on disk have been replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from secure_runner.config import PartySettings
from secure_runner.config.tls import read_tls
from secure_runner.errors import ConfigError

__all__ = ["watch_certificates"]

_log = logging.getLogger(__name__)
_LOOK_INTERVAL_S = 2.0


async def watch_certificates(settings: PartySettings, replaced: Callable[[], None]) -> None:
    """Call ``replaced`` whenever this party's certificate, key or trust files have changed and are usable.

    Runs until cancelled. Files that are wrong, as halfway through a replacement, are logged once and looked
    at again.
    """
    present, complaint = read_tls(settings), ""
    while present is not None:
        await asyncio.sleep(_LOOK_INTERVAL_S)
        try:
            latest = read_tls(settings)
        except ConfigError as error:
            if str(error) != complaint:
                complaint = str(error)
                _log.warning("certificates on disk are not usable, sessions keep the earlier ones: %s", error)
            continue
        complaint = ""
        if latest != present:
            present = latest
            _log.info("certificates have been replaced; a new session takes them up")
            replaced()
