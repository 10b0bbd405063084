"""Many requests and no fault: memory and file descriptors of each process must stay where they are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from chaos.clients import Load
from chaos.target import Target

__all__ = ["Trend", "soak"]

_INTERVAL_S = 2.0
_SETTLED_SHARE = 0.3
_ALLOWED_SHARE = 0.05


@dataclass(frozen=True)
class Trend:
    """One process: medians of the stretch after settling, and of the last one."""

    role: str
    early_mb: float
    """Proportional set size: shared pages count once over all processes."""
    late_mb: float
    early_files: float
    late_files: float

    @property
    def growth(self) -> float:
        """Share by which memory grew."""
        return self.late_mb / self.early_mb - 1

    @property
    def flat(self) -> bool:
        """Memory within 5 %, file descriptors within 5 % too."""
        return self.growth <= _ALLOWED_SHARE and self.late_files <= self.early_files * (1 + _ALLOWED_SHARE)


@dataclass(frozen=True)
class _Sample:
    pss_mb: float
    files: int


def soak(
    target: Target, load: Load, *, requests: int, seconds: float, say: Callable[[str], None]
) -> list[Trend]:
    """Let the load run for so many requests or seconds, whichever is over first."""
    samples: dict[tuple[str, int], list[_Sample]] = {}
    began_s, before = time.monotonic(), len(load.events)
    while time.monotonic() - began_s < seconds and len(load.events) - before < requests:
        time.sleep(_INTERVAL_S)
        for role, processes in target.processes().items():
            for process in processes:
                _sample(role, process, samples)
    done = len(load.events) - before
    say(f"  {done} requests in {time.monotonic() - began_s:.0f} s")
    return [_trend(role, found) for (role, _), found in samples.items() if len(found) >= 10]


def _sample(role: str, process: psutil.Process, samples: dict[tuple[str, int], list[_Sample]]) -> None:
    try:
        sample = _Sample(process.memory_full_info().pss / 1e6, process.num_fds())
    except psutil.Error:
        return
    samples.setdefault((role, process.pid), []).append(sample)


def _trend(role: str, samples: list[_Sample]) -> Trend:
    settled = samples[int(_SETTLED_SHARE * len(samples)) :]
    third = max(1, len(settled) // 3)
    early, late = settled[:third], settled[-third:]
    return Trend(
        role,
        statistics.median(s.pss_mb for s in early),
        statistics.median(s.pss_mb for s in late),
        statistics.median(s.files for s in early),
        statistics.median(s.files for s in late),
    )
