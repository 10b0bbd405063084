"""How much each client may ask for: a token bucket of requests and a count of the day's rows.

Counted in this process: with several workers of a service each has its own counts, and a restart begins anew.
The model owner's limits, which hold against a dishonest data owner, are enforced by its own party.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from secure_runner.errors import OverloadedError
from secure_runner.http.settings import ClientLimits, HttpSettings

__all__ = ["Limiter"]

_DAY_S = 86_400


@dataclass
class _Usage:
    tokens: float
    refilled_s: float
    day: int
    rows: int


class Limiter:
    """Admits requests and rows of each client, or says when to come back."""

    def __init__(
        self,
        settings: HttpSettings,
        *,
        monotonic_s: Callable[[], float] = time.monotonic,
        utc_s: Callable[[], float] = time.time,
    ) -> None:
        self._limits = {
            client.name: client.limits for client in settings.clients if client.limits is not None
        }
        self._default = settings.limits
        self._monotonic_s = monotonic_s
        self._utc_s = utc_s
        self._usage: dict[str | None, _Usage] = {}

    def limits_of(self, client: str | None) -> ClientLimits:
        """The limits that apply to a client."""
        return self._default if client is None else self._limits.get(client, self._default)

    def admit_request(self, client: str | None) -> None:
        """Take one request from the client's bucket.

        Raises:
            OverloadedError: ``rate_limited``.
        """
        limits = self.limits_of(client)
        if limits.requests_per_s is None:
            return
        usage = self._usage_of(client, limits)
        now_s = self._monotonic_s()
        refill = (now_s - usage.refilled_s) * limits.requests_per_s
        usage.tokens = min(float(limits.burst), usage.tokens + refill)
        usage.refilled_s = now_s
        if usage.tokens < 1.0:
            raise OverloadedError(
                f"this client may send {limits.requests_per_s:g} requests a second",
                retry_after_s=(1.0 - usage.tokens) / limits.requests_per_s,
                code="rate_limited",
            )
        usage.tokens -= 1.0

    def admit_rows(self, client: str | None, rows: int) -> None:
        """Take a batch's rows from the client's day. A refused batch takes none.

        Raises:
            OverloadedError: ``daily_rows``.
        """
        limits = self.limits_of(client)
        if limits.rows_per_day is None:
            return
        usage = self._usage_of(client, limits)
        now_s = self._utc_s()
        day = int(now_s // _DAY_S)
        if day != usage.day:
            usage.day, usage.rows = day, 0
        if usage.rows + rows > limits.rows_per_day:
            raise OverloadedError(
                f"this client may ask for {limits.rows_per_day} rows a day (UTC), of which "
                f"{limits.rows_per_day - usage.rows} are left",
                retry_after_s=(day + 1) * _DAY_S - now_s,
                code="daily_rows",
            )
        usage.rows += rows

    def return_rows(self, client: str | None, rows: int) -> None:
        """Give back the rows of a batch that was admitted and then not computed."""
        usage = self._usage.get(client)
        if usage is not None:
            usage.rows = max(0, usage.rows - rows)

    def _usage_of(self, client: str | None, limits: ClientLimits) -> _Usage:
        usage = self._usage.get(client)
        if usage is None:
            day = int(self._utc_s() // _DAY_S)
            usage = self._usage[client] = _Usage(float(limits.burst), self._monotonic_s(), day, 0)
        return usage
