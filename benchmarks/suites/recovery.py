"""How long predictions are away after ``kill -9`` of a party: until the next right answer."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import httpx
import numpy as np

from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.workbench import Served, Workbench

__all__ = ["run"]

SUITE = "recovery"
_TOLERANCE = 2e-2
_GIVE_UP_S = 60.0


def run(bench: Workbench) -> Iterator[Record]:
    """All protocols, one after the other; which party is killed follows a fixed seed."""
    model, kills = mlp(), bench.scale(12, 3)
    for name in bench.protocols:
        chosen = random.Random(0)
        with bench.serve(model, name) as served:
            seconds, refused = [], 0
            for _ in range(kills):
                # A second fault before the next processes are warm would measure their imports.
                served.settle()
                os.kill(served.parties()[chosen.choice(sorted(served.parties()))], signal.SIGKILL)
                took_s, unavailable = _until_right(served, model)
                seconds.append(took_s)
                refused += unavailable
        yield Record.of(
            "recovery_p95_s",
            suite=SUITE,
            protocol=name,
            batch=1,
            value=float(np.percentile(seconds, 95)),
            unit="s",
            n=kills,
            p50_s=round(float(np.median(seconds)), 3),
            longest_s=round(max(seconds), 3),
            refused=refused,
        )


def _until_right(served: Served, model: NamedMlp) -> tuple[float, int]:
    """Seconds until a right answer, and how many requests were refused meanwhile.

    Raises:
        RuntimeError: an answer is wrong, or none comes.
    """
    started, refused = time.monotonic(), 0
    with httpx.Client(base_url=served.url, timeout=_GIVE_UP_S) as client:
        while time.monotonic() - started < _GIVE_UP_S:
            response = client.post("/predict", json={"inputs": model.rows[:1].tolist()})
            if response.status_code == 200:
                outputs = np.asarray(response.json()["outputs"])
                if not np.allclose(outputs, model.expected[:1], atol=_TOLERANCE):
                    raise RuntimeError("a wrong answer after a party was killed")
                return time.monotonic() - started, refused
            if response.status_code != 503:
                raise RuntimeError(f"status {response.status_code} after a party was killed")
            refused += 1
            time.sleep(0.05)
    raise RuntimeError(f"no answer for {_GIVE_UP_S:.0f} s after a party was killed")
