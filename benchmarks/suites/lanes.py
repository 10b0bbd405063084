"""Two sessions side by side on this machine against one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.workbench import Workbench
from secure_runner.protocols import ProtocolName

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
    import bentoml

    from secure_runner.programs.store import PARAMS_FILE, params_tag
    from secure_runner.runner.deployment import Deployment, PartyFiles

    bench.bento(model, name)
    tag = f"{model.name}-{name}:latest"
    files = PartyFiles(
        Path(bentoml.models.get(tag).path), Path(bentoml.models.get(params_tag(tag)).path) / PARAMS_FILE
    )
    deployment = Deployment(files, None, protocol=name, lanes=lanes)
    await deployment.start()
    try:
        await _until_all_serve(deployment, lanes)
        await _load(deployment, model, seconds / 2)
        return await _load(deployment, model, seconds)
    finally:
        await deployment.stop()


async def _until_all_serve(deployment: object, lanes: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        states = deployment.status()["lanes"]  # type: ignore[attr-defined]
        if sum(state["serving"] for state in states) == lanes:
            return
        await asyncio.sleep(0.2)
    raise RuntimeError(f"{lanes} lanes were not serving within 120 s")


async def _load(deployment: object, model: NamedMlp, seconds: float) -> float:
    """Closed loops of 64 clients; right rows a second."""
    answered, until, started = 0, time.monotonic() + seconds, time.monotonic()
    name = model.converted.inputs[0].name

    async def client(index: int) -> None:
        nonlocal answered
        row = {name: model.rows[index : index + 1]}
        while time.monotonic() < until:
            outputs = await deployment.predict(row, client=str(index), deadline_s=60)  # type: ignore[attr-defined]
            np.testing.assert_allclose(
                next(iter(outputs.values())), model.expected[index : index + 1], atol=2e-2
            )
            answered += 1

    await asyncio.gather(*(client(index) for index in range(_CLIENTS)))
    return answered / (time.monotonic() - started)
