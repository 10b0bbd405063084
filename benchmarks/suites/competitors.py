"""CrypTen and Concrete ML on the same models, where they install, against this project over HTTP.

Each lives in an environment of its own under ``.bench/``. That means downloads of several gigabytes on some
machines, hence only with ``--competitor``.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.models import NamedMlp, mlp
from benchmarks.records import Record
from benchmarks.trees import boosted_trees
from benchmarks.workbench import Workbench
from secure_runner.protocols import ProtocolName

__all__ = ["run"]

SUITE = "competitors"
_ROOT = Path(__file__).resolve().parents[2]
_INSTALL_TIMEOUT_S = 600.0
_RUN_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class _Rival:
    record: str
    name: str
    python: str
    packages: tuple[str, ...]
    bare_packages: tuple[str, ...]
    """Installed without what they ask for: CrypTen asks for a package that no longer installs."""
    script: str
    against: ProtocolName
    full: int
    quick: int
    model: Callable[[], NamedMlp] = mlp


_CONCRETE = ("concrete-ml==1.9.0",)
_RIVALS = (
    _Rival(
        record="crypten_over_http",
        name="crypten",
        python="3.11",
        packages=("torch==2.13.0", "numpy<2", "omegaconf", "onnx", "pandas", "pyyaml", "scikit-learn"),
        bare_packages=("crypten==0.4.1",),
        script="crypten_mlp.py",
        against="semi2k",
        full=40,
        quick=5,
    ),
    _Rival(
        record="concrete_over_http",
        name="concrete",
        python="3.10",
        packages=_CONCRETE,
        bare_packages=(),
        script="concrete_mlp.py",
        against="aby3",
        full=5,
        quick=1,
    ),
    _Rival(
        record="concrete_trees_over_http",
        name="concrete",
        python="3.10",
        packages=_CONCRETE,
        bare_packages=(),
        script="concrete_trees.py",
        against="aby3",
        full=5,
        quick=1,
        model=boosted_trees,
    ),
)


def run(bench: Workbench) -> Iterator[Record]:
    """One record a rival and model; it says why, where it was skipped."""
    for rival in _RIVALS:
        if rival.name not in bench.competitors:
            yield _skipped(rival, f"skipped: only with --competitor {rival.name}")
            continue
        try:
            python = _environment(rival)
            yield _compare(bench, rival, python)
        except (subprocess.SubprocessError, OSError) as error:
            reason = getattr(error, "stderr", None) or str(error)
            yield _skipped(rival, f"skipped: {str(reason).strip().splitlines()[-1][:160]}")


def _compare(bench: Workbench, rival: _Rival, python: Path) -> Record:
    model, count = rival.model(), bench.scale(rival.full, rival.quick)
    with bench.serve(model, rival.against) as served:
        http = served.load.run(clients=1, requests=bench.scale(20, 5)).latencies_ms
        times = _run(rival, python, count)
        http += served.load.run(clients=1, requests=bench.scale(20, 5)).latencies_ms
    return Record.of(
        rival.record,
        suite=SUITE,
        protocol=rival.name,
        batch=1,
        value=statistics.median(times),
        unit="ms",
        baseline=statistics.median(http),
        n=len(times),
        against=f"this project over HTTP, {rival.against}",
        model=model.name,
        packages=[*rival.packages, *rival.bare_packages],
    )


def _run(rival: _Rival, python: Path, count: int) -> list[float]:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    script = _ROOT / "benchmarks" / "rivals" / rival.script
    command = [str(python), str(script), str(port), str(count)]
    # Not this project's environment: the rival's packages must not meet ours.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_RUN_TIMEOUT_S, check=True
    )
    times: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return times


def _environment(rival: _Rival) -> Path:
    """A Python with the rival's packages, made once."""
    directory = _ROOT / ".bench" / rival.name
    python = directory / "bin" / "python"
    if not (directory / "ready").exists():
        shutil.rmtree(directory, ignore_errors=True)
        uv = ["uv", "venv", "--quiet", "--seed", "--python", rival.python, str(directory)]
        _call(uv)
        install = [str(python), "-m", "pip", "install", "--quiet"]
        _call([*install, *rival.packages])
        if rival.bare_packages:
            _call([*install, "--no-deps", *rival.bare_packages])
        (directory / "ready").touch()
    return python


def _call(command: list[str]) -> None:
    subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=True)


def _skipped(rival: _Rival, reason: str) -> Record:
    return Record.of(
        rival.record,
        suite=SUITE,
        protocol=rival.name,
        batch=1,
        value=None,
        unit="ms",
        n=0,
        skipped=reason,
    )
