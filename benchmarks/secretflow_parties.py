"""SecretFlow's own way, ``spu(predict)(…)``, in production mode: one process a party, gRPC between them.

``python -m benchmarks.secretflow_parties RANK PROTOCOL PORT…`` is one party; :class:`SecretFlowParties`
starts all of them. The data owner's features are shared, the rewritten predict function runs, the answer goes
to the data owner alone: the same work as over HTTP. All settings are SecretFlow's and SPU's own defaults, so
semi2k runs without a dealer.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from secure_runner.protocols import computing_roles
from secure_runner.protocols import protocol as spu_protocol

__all__ = ["SecretFlowParties"]

_NAMES = ("alice", "bob", "carol")
_DATA_OWNER = 1


class SecretFlowParties:
    """Party processes that call ``spu(predict)`` when told so."""

    def __init__(self, protocol: str, log: Path) -> None:
        count = len(computing_roles(protocol))
        ports = [str(port) for port in _free_ports(2 * count)]
        self._log = log.open("wb")
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.secretflow_parties", str(rank), protocol, *ports],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
            for rank in range(count)
        ]
        self._answers()

    def run(self, times: int) -> list[float]:
        """Milliseconds of each call, at the data owner: from its features to its answer.

        Raises:
            RuntimeError: a party ended.
        """
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{times}\n")
            process.stdin.flush()
        return [float(text) for text in self._answers()[_DATA_OWNER].split()]

    def _answers(self) -> list[str]:
        answers = []
        for rank, process in enumerate(self._processes):
            assert process.stdout is not None
            line = process.stdout.readline()
            while line and not line.startswith("done"):
                line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"SecretFlow's party {rank} ended; see {self._log.name}")
            answers.append(line.removeprefix("done"))
        return answers

    def __enter__(self) -> SecretFlowParties:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._log.close()


def main(rank: int, protocol: str, ports: list[str]) -> None:
    """Be one party until standard input ends."""
    import secretflow as sf

    from benchmarks.models import mlp

    names = _NAMES[: len(computing_roles(protocol))]
    control, link = ports[: len(names)], ports[len(names) :]
    sf.init(
        ray_mode=False,
        cluster_config={
            "self_party": names[rank],
            "parties": {
                name: {"address": f"127.0.0.1:{port}", "listen_addr": f"127.0.0.1:{port}"}
                for name, port in zip(names, control, strict=True)
            },
        },
        cross_silo_comm_backend="grpc",
        logging_level="error",
    )
    device = sf.SPU(
        {
            "nodes": [
                {"party": name, "address": f"127.0.0.1:{port}"}
                for name, port in zip(names, link, strict=True)
            ],
            # As in SecretFlow's own examples. Nothing that this project sets: neither inputs that stay with
            # their owner, which halves a run of cheetah, nor a link without sequence ids.
            "runtime_config": {"protocol": spu_protocol(protocol).spu_name, "field": "FM64"},
        }
    )
    model = mlp().converted
    model_owner, data_owner = sf.PYU("alice"), sf.PYU("bob")
    row = mlp().rows[:1]
    params = model_owner(lambda: dict(model.params))().to(device)
    _serve(sf, device, data_owner, model.private_predict, params, row)


def _serve(sf: Any, device: Any, data_owner: Any, private_predict: Any, params: Any, row: Any) -> None:
    """Say ``done``, then run as often as each line of standard input says."""
    answered_s: list[float] = []

    def predict(params: Any, features: Any) -> Any:
        return private_predict(params, features)[0]

    def stamp(_: Any) -> None:
        # Without Ray, tasks are threads of this process; this one runs at the data owner alone.
        answered_s.append(time.perf_counter())

    def call() -> float:
        started_s = time.perf_counter()
        features = data_owner(lambda: row)().to(device)
        answer = device(predict)(params, features).to(data_owner)
        sf.wait(data_owner(stamp)(answer))
        return 1000 * (answered_s[-1] - started_s) if answered_s else 0.0

    call()
    print("done", flush=True)
    for line in sys.stdin:
        print("done", *(f"{call():.3f}" for _ in range(int(line))), flush=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(held.getsockname()[1]) for held in sockets]
    for held in sockets:
        held.close()
    return ports


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
