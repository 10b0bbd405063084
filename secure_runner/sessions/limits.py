"""The model owner's limits, at both ends.

The model owner's runner decides before each batch whether its party runs it (:class:`BatchLimits`); where it
does not, the session ends, for a batch that another party has begun cannot be answered in any other way. So
that this never meets an honest data owner, each session begins with the terms, and the data owner's runner
keeps to them (:class:`Allowance`): its clients get 429 and the time after which to try again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from secure_runner.config import Cluster
from secure_runner.config.owner_limits import DataOwnerLimits, OwnerLimits
from secure_runner.errors import ConfigError, OverloadedError
from secure_runner.programs.manifest import Manifest
from secure_runner.sessions.messages import Terms
from secure_runner.sessions.usage import DailyRows

__all__ = ["Allowance", "BatchLimits", "batch_limits"]

_SLACK_BATCHES = 4.0
"""Batches that the model owner admits above the burst: those sent at a steady pace may arrive together."""
_LONGEST_PACE_S = 1.0
_DAY_S = 86_400


class _Bucket:
    """A token bucket; one token is one batch."""

    def __init__(self, per_s: float, burst: float, clock_s: Callable[[], float]) -> None:
        self._per_s = per_s
        self._burst = burst
        self._clock_s = clock_s
        self._tokens = burst
        self._at_s = clock_s()

    def wait_s(self) -> float:
        """Seconds until a token is there; 0 if one is."""
        now_s = self._clock_s()
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return max(0.0, (1.0 - self._tokens) / self._per_s)

    def take(self) -> None:
        self._tokens -= 1.0


class BatchLimits:
    """At the model owner: admits batches of one data owner, over all lanes.

    Args:
        limits: of this data owner.
        usage_file: where the day's rows are kept; needed with ``rows_per_day``.
        clock_s: a monotonic clock.

    Raises:
        ConfigError: the usage file cannot be read or written.
    """

    def __init__(
        self,
        limits: DataOwnerLimits,
        usage_file: Path | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._bucket: _Bucket | None = None
        self._rows: DailyRows | None = None
        if limits.batches_per_s is not None:
            self._bucket = _Bucket(limits.batches_per_s, limits.burst + _SLACK_BATCHES, clock_s)
        if limits.rows_per_day is not None:
            assert usage_file is not None, "settings with rows_per_day have a state directory"
            self._rows = DailyRows(usage_file, limits.rows_per_day)

    def take(self, batch_size: int) -> str:
        """Count one batch; or, without counting it, why it is not admitted, as a code for the audit log."""
        if self._limits.rows_per_batch is not None and batch_size > self._limits.rows_per_batch:
            return "batch_size"
        if self._bucket is not None and self._bucket.wait_s() > 0:
            return "rate"
        if self._rows is not None and not self._rows.take(batch_size):
            return "daily_rows"
        if self._bucket is not None:
            self._bucket.take()
        return ""

    def terms(self) -> Terms:
        """What the data owner's runner is told at the start of a session."""
        return Terms(
            batches_per_s=self._limits.batches_per_s,
            burst=self._limits.burst,
            rows_per_day=self._limits.rows_per_day,
            rows_left=None if self._rows is None else self._rows.left,
            rows_per_batch=self._limits.rows_per_batch,
        )

    def close(self) -> None:
        """Write the day's count down exactly."""
        if self._rows is not None:
            self._rows.close()


def batch_limits(limits: OwnerLimits, cluster: Cluster, manifest: Manifest) -> BatchLimits:
    """The model owner's limits for the cluster's data owner and this program.

    Raises:
        ConfigError: the data owner is not listed, the program not allowed, or no executable small enough.
    """
    data_owner = cluster.party_with("data_owner")
    own = limits.of(data_owner)
    if own.programs is not None and manifest.digest not in own.programs:
        raise ConfigError(
            f"limits.yaml does not let {data_owner} use the program {manifest.name} ({manifest.digest}); "
            f"add its digest under data_owners.{data_owner}.programs, or serve another"
        )
    smallest = manifest.batch_sizes[0]
    if own.rows_per_batch is not None and own.rows_per_batch < smallest:
        raise ConfigError(
            f"limits.yaml: data_owners.{data_owner}.rows_per_batch is {own.rows_per_batch}, but the smallest "
            f"executable of {manifest.name} has {smallest} rows"
        )
    file = None
    if limits.state_directory is not None:
        file = limits.state_directory / f"{cluster.name}-{data_owner}-rows.json"
    return BatchLimits(own, file)


class Allowance:
    """At the data owner: keeps to the model owner's terms, so that its clients are told and no session ends.

    Args:
        clock_s: a monotonic clock.
        utc_s: seconds since 1970 UTC.
    """

    def __init__(
        self, *, clock_s: Callable[[], float] = time.monotonic, utc_s: Callable[[], float] = time.time
    ) -> None:
        self._clock_s = clock_s
        self._utc_s = utc_s
        self._terms: Terms | None = None
        self._bucket: _Bucket | None = None
        self._rows_left = 0
        self._day = 0

    def update(self, terms: Terms | None) -> None:
        """A session begins; these are its terms, or there are none."""
        before, self._terms = self._terms, terms
        if terms is None or terms.batches_per_s is None:
            self._bucket = None
        elif self._bucket is None or before is None or before.batches_per_s != terms.batches_per_s:
            self._bucket = _Bucket(terms.batches_per_s, terms.burst, self._clock_s)
        if terms is not None and terms.rows_left is not None:
            self._rows_left, self._day = terms.rows_left, self._today()

    @property
    def rows_per_batch(self) -> int | None:
        """The largest batch that may be asked for; None is without limit."""
        return None if self._terms is None else self._terms.rows_per_batch

    def check(self, rows: int) -> None:
        """Refuse rows that could not be computed anyway.

        Raises:
            OverloadedError: ``owner_daily_rows`` or ``owner_rate``.
        """
        if not self._has_rows(rows):
            raise self._no_rows()
        if self._bucket is not None and self._bucket.wait_s() > _LONGEST_PACE_S:
            raise OverloadedError(
                "the model owner admits no more batches at the moment",
                retry_after_s=self._bucket.wait_s(),
                code="owner_rate",
            )

    async def take(self, batch_size: int) -> None:
        """Count one batch, at the pace that the terms allow.

        Raises:
            OverloadedError: ``owner_daily_rows``.
        """
        while self._bucket is not None and (wait_s := self._bucket.wait_s()) > 0:
            await asyncio.sleep(wait_s)
        if not self._has_rows(batch_size):
            raise self._no_rows()
        self._rows_left -= batch_size
        if self._bucket is not None:
            self._bucket.take()

    def _has_rows(self, rows: int) -> bool:
        terms = self._terms
        if terms is None or terms.rows_per_day is None:
            return True
        if self._today() > self._day:
            self._rows_left, self._day = terms.rows_per_day, self._today()
        return rows <= self._rows_left

    def _no_rows(self) -> OverloadedError:
        return OverloadedError(
            "the rows that the model owner allows for this day (UTC), padding of batches included, "
            "are used up",
            retry_after_s=_DAY_S - self._utc_s() % _DAY_S,
            code="owner_daily_rows",
        )

    def _today(self) -> int:
        return int(self._utc_s() // _DAY_S)
