"""Many requests and no fault: memory and file descriptors of each process must stay where they are.

Memory is what a process has asked for itself: anonymous and shared-memory pages, in memory or swapped out.
Files that are mapped, such as libraries, cannot leak, and how much of them counts for a process (PSS, RSS)
depends on which other processes of the machine map them and on what the kernel evicts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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

    protocol: str
    role: str
    early_mb: float
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
    memory_mb: float
    files: int


def soak(
    target: Target, load: Load, protocol: str, *, requests: int, seconds: float, say: Callable[[str], None]
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
    say(
        f"  {done} requests in {time.monotonic() - began_s:.0f} s: "
        f"as many as in an hour of {done / 3600:.1f} a second"
    )
    return [_trend(protocol, role, found) for (role, _), found in samples.items() if len(found) >= 10]


def _sample(role: str, process: psutil.Process, samples: dict[tuple[str, int], list[_Sample]]) -> None:
    try:
        sample = _Sample(_memory_mb(process.pid), process.num_fds())
    except (psutil.Error, OSError):
        return
    samples.setdefault((role, process.pid), []).append(sample)


def _memory_mb(pid: int) -> float:
    words = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    kilobytes = {line[0]: int(line[1]) for line in words if line[-1] == "kB"}
    return sum(kilobytes.get(name, 0) for name in ("RssAnon:", "RssShmem:", "VmSwap:")) * 1024 / 1e6


def _trend(protocol: str, role: str, samples: list[_Sample]) -> Trend:
    settled = samples[int(_SETTLED_SHARE * len(samples)) :]
    third = max(1, len(settled) // 3)
    early, late = settled[:third], settled[-third:]
    return Trend(
        protocol,
        role,
        statistics.median(s.memory_mb for s in early),
        statistics.median(s.memory_mb for s in late),
        statistics.median(s.files for s in early),
        statistics.median(s.files for s in late),
    )
