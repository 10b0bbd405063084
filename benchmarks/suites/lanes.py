"""Two sessions side by side on this machine against one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench
from secure_runner.protocols import ProtocolName

if TYPE_CHECKING:
    from secure_runner.runner.deployment import Deployment

__all__ = ["run"]

SUITE = "lanes"
_CLIENTS = 64
_LANES = (1, 2)


def run(bench: Workbench) -> Iterator[Record]:
    """``lanes_throughput``: rows a second of 64 clients with 1 and 2 lanes, without HTTP."""
    model, seconds = mlp(), float(bench.scale(8, 3))
    for name in bench.protocols:
        rates = {lanes: asyncio.run(_rate(bench, model, name, lanes, seconds)) for lanes in _LANES}
        yield Record.of(
            "lanes_throughput",
            suite=SUITE,
            protocol=name,
            batch=1,
            value=rates[2],
            unit="rows/s",
            baseline=rates[1],
            n=round(rates[2] * seconds),
            lanes=2,
            against="one lane",
        )


async def _rate(bench: Workbench, model: NamedMlp, name: ProtocolName, lanes: int, seconds: float) -> float:
    bench.bento(model, name)
    async with bench.deployment(f"{model.name}-{name}:latest", lanes=lanes) as deployment:
        await _load(deployment, model, seconds / 2)
        return await _load(deployment, model, seconds)


async def _load(deployment: Deployment, model: NamedMlp, seconds: float) -> float:
    """Closed loops of 64 clients; right rows a second."""
    answered, until, started = 0, time.monotonic() + seconds, time.monotonic()
    name = model.converted.inputs[0].name

    async def client(index: int) -> None:
        nonlocal answered
        row = {name: model.rows[index : index + 1]}
        while time.monotonic() < until:
            outputs = await deployment.predict(row, client=str(index), deadline_s=60)
            np.testing.assert_allclose(
                next(iter(outputs.values())), model.expected[index : index + 1], atol=2e-2
            )
            answered += 1

    await asyncio.gather(*(client(index) for index in range(_CLIENTS)))
    return answered / (time.monotonic() - started)
