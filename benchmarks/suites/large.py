"""A model above protobuf's limit of 2 GB, from its ONNX file to answers over HTTP, by three organisations.

Model owner, data owner and dealer are servers of their own on this machine, with the commands of
``docs/deploy.md`` and no session in reserve. It takes 10 GB of disk, and much time and memory: it runs only
where it is asked for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml

from benchmarks.records import Record
from benchmarks.workbench import Workbench
from secure_runner.config import embedded_cluster

__all__ = ["run"]

SUITE = "large"
_FULL = (33, 4096)
_QUICK = (5, 512)
"""Layers, and the width of each: 2.15 GB of float32, or 4 MB."""
_ROLES = {"model-owner": "model_owner", "data-owner": "data_owner", "dealer": "dealer"}
_PATIENCE_S = 3600.0
_TIMEOUTS = {
    "connect_timeout_s": _PATIENCE_S,
    "recv_timeout_s": 600.0,
    "run_timeout_s": _PATIENCE_S,
    "freeze_timeout_s": 30.0,
}
"""Sharing the params is part of a session's start, and a run takes minutes where cores are busy."""
_TOLERANCE = 5e-2


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[bytes]
    log: Path
    url: str


def run(bench: Workbench) -> Iterator[Record]:
    """``large_build_peak`` for each step, ``large_party`` and its peak for each party, ``large_http``."""
    if "semi2k" not in bench.protocols:
        return
    with tempfile.TemporaryDirectory(prefix="secure-runner-large-") as home:
        yield from _measured(bench, Path(home))


def _measured(bench: Workbench, home: Path) -> Iterator[Record]:
    layers, width = _QUICK if bench.quick else _FULL
    environment = dict(os.environ)
    _command(environment, sys.executable, "-m", "benchmarks.large_model", str(home), str(layers), str(width))
    size = (home / "weights.bin").stat().st_size
    for step, command in (
        ("import", ["import", str(home / "large.onnx"), "--name", "large", "--batch-size", "1"]),
        ("build", ["build", "large:latest"]),
    ):
        took_s, peak = _command(environment, str(Path(sys.executable).with_name("secure-runner")), *command)
        yield _record("large_build_peak", peak / size, "B/B of weights", size, step=step, took_s=took_s)
    (home / "weights.bin").unlink()
    rows, expected = np.load(home / "rows.npy"), np.load(home / "expected.npy")
    with _organisations(home, environment) as servers:
        ready_s = _wait_until_ready(servers)
        answers = [_ask(servers["data-owner"].url, rows[i : i + 1], expected[i : i + 1]) for i in (0, 1)]
        for party, process in _parties(servers).items():
            resident, peak = _memory(process.pid)
            for measure, found in (("", resident), ("_peak", peak)):
                yield _record(f"large_party{measure}", found / size, "B/B of weights", size, party=party)
        yield _record("large_ready_s", ready_s, "s", size)
        took_s, errors = zip(*answers, strict=True)
        yield _record("large_http", max(took_s), "s", size, n=len(took_s), largest_error=max(errors))


def _record(name: str, value: float, unit: str, size: int, n: int = 1, **detail: Any) -> Record:
    return Record.of(
        name,
        suite=SUITE,
        protocol="semi2k",
        batch=1,
        value=value,
        unit=unit,
        n=n,
        weights_megabytes=round(size / 1e6),
        **detail,
    )


def _command(environment: Mapping[str, str], *command: str) -> tuple[float, int]:
    """Run to its end; seconds, and the peak bytes of the largest process it was or had as a child.

    Raises:
        RuntimeError: it failed.
    """
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {process.returncode}")
    return round(time.monotonic() - started, 1), usage.ru_maxrss * 1024


@contextlib.contextmanager
def _organisations(home: Path, environment: Mapping[str, str]) -> Iterator[dict[str, _Server]]:
    """The three servers; ended with the block."""
    settings = _settings(home)
    servers: dict[str, _Server] = {}
    try:
        for index, party in enumerate(_ROLES):
            port = settings["first_http_port"] + index
            log = home / f"{party}.log"
            command = ["serve", f"large-{party}:latest", "--port", str(port)]
            with log.open("wb") as output:
                process = subprocess.Popen(
                    [sys.executable, "-m", "bentoml", *command, "--timeout-graceful-shutdown", "5"],
                    cwd=home,
                    env={**environment, **settings["environment"], "SECURE_RUNNER_PARTY": party},
                    stdout=output,
                    stderr=output,
                )
            servers[party] = _Server(process, log, f"http://127.0.0.1:{port}")
        yield servers
    finally:
        for server in servers.values():
            server.process.send_signal(signal.SIGTERM)
        for server in servers.values():
            server.process.wait(60)


def _settings(home: Path) -> dict[str, Any]:
    """``cluster.yaml``, ``http.yaml`` and the dealer's identity; the variables that name them."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    from secure_runner.dealer import Identity

    # For its free ports: of each party, and three more for HTTP after the last.
    free = embedded_cluster("semi2k")
    first = min(party.port for party in free.parties.values())
    parties = {
        name: {"role": role, "address": "127.0.0.1", "port": first + 8 * index}
        for index, (name, role) in enumerate(_ROLES.items())
    }
    cluster = {"name": "large", "protocol": "semi2k", "parties": parties, "insecure": True}
    (home / "cluster.yaml").write_text(
        yaml.safe_dump({**cluster, "reserve": False, "timeouts": _TIMEOUTS}, sort_keys=False)
    )
    deadline = {"default_deadline_s": _PATIENCE_S, "max_deadline_s": _PATIENCE_S}
    (home / "http.yaml").write_text(yaml.safe_dump({"authentication": "none", **deadline}))
    identity = home / "identity.pem"
    identity.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    return {
        "first_http_port": first + 8 * len(parties),
        "environment": {
            "SECURE_RUNNER_CLUSTER": str(home / "cluster.yaml"),
            "SECURE_RUNNER_HTTP": str(home / "http.yaml"),
            "SECURE_RUNNER_DEALER_IDENTITY": str(identity),
            "SECURE_RUNNER_DEALER_KEY": Identity.from_file(identity).public_key,
        },
    }


def _wait_until_ready(servers: Mapping[str, _Server]) -> float:
    """Seconds until the data owner says that it is ready.

    Raises:
        RuntimeError: a server ended, or it takes too long; with the last lines of the logs.
    """
    started = time.monotonic()
    while time.monotonic() - started < _PATIENCE_S:
        if any(server.process.poll() is not None for server in servers.values()):
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{servers['data-owner'].url}/readyz", timeout=3).status_code == 200:
                return time.monotonic() - started
        time.sleep(0.5)
    raise RuntimeError("not ready; the logs end:\n" + "\n".join(map(_tail, servers.values())))


def _tail(server: _Server) -> str:
    return "\n".join(server.log.read_text(errors="replace").splitlines()[-15:])


def _ask(url: str, rows: Any, expected: Any) -> tuple[float, float]:
    """Seconds until the answer, and by how much it differs from onnxruntime's.

    Raises:
        RuntimeError: there is none. AssertionError: it is wrong.
    """
    started = time.monotonic()
    answer = httpx.post(f"{url}/predict", json={"inputs": rows.tolist()}, timeout=_PATIENCE_S)
    took_s = time.monotonic() - started
    if answer.status_code != 200:
        raise RuntimeError(f"answered with {answer.status_code}: {answer.text}")
    outputs = np.asarray(answer.json()["outputs"])
    np.testing.assert_allclose(outputs, expected, atol=_TOLERANCE)
    return took_s, float(np.abs(outputs - expected).max())


def _parties(servers: Mapping[str, _Server]) -> dict[str, psutil.Process]:
    """The largest process below each server: the party in session, not the one that stands by."""
    found = {}
    for party, server in servers.items():
        below = psutil.Process(server.process.pid).children(recursive=True)
        found[party] = max(below, key=lambda process: process.memory_info().rss)
    return found


def _memory(pid: int) -> tuple[int, int]:
    """Bytes resident now, and at most so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, peak = (int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return resident, peak
