"""Bare SPU runtimes, each party a process of its own, linked over loopback: the floor to compare with.

No SecretFlow and nothing of this project between the parties. Inputs are shared and outputs are
reconstructed by the caller, so times are those of ``Runtime.run`` alone.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing as mp
import random
import socket
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import relay
from secure_runner.dealer import DealerClient, Relay, Transcript

__all__ = ["PartyError", "RelayedJob", "SpuParties", "compile_function", "free_ports", "runtime_config"]

Array = npt.NDArray[Any]
_START_TIMEOUT_S = 60.0
_PORTS = (10_000, 15_000)


@dataclass(frozen=True)
class RelayedJob:
    """A job whose corrections the adjusting party's process fetches ahead."""

    client: Callable[[], DealerClient]
    """Makes a client towards the dealer, in that process."""
    handle: str
    transcript: Transcript

    def relay(self) -> str:
        """Start a relay in this process; its address. A lost job shows in SPU's next request."""
        return Relay(self.client(), self.handle, self.transcript, lambda reason: None).address


class PartyError(Exception):
    """A party's runtime raised, or its process ended."""


def runtime_config(config: Mapping[str, Any]) -> Any:
    """SPU's ``RuntimeConfig`` from its JSON form."""
    import spu

    parsed = spu.RuntimeConfig()
    parsed.ParseFromJsonString(json.dumps(config))
    return parsed


def compile_function(function: Callable[..., Any], *args: Array) -> tuple[bytes, int]:
    """Compile a JAX function with all arguments secret; returns the executable and its number of outputs."""
    import jax
    import spu
    from spu.utils import frontend

    names = [f"in{index}" for index in range(len(args))]
    executable, output = frontend.compile(
        frontend.Kind.JAX,
        function,
        args,
        {},
        names,
        [spu.Visibility.VIS_SECRET] * len(args),
        lambda outputs: [f"out{index}" for index in range(len(outputs))],
    )
    return executable.SerializeToString(), len(jax.tree_util.tree_leaves(output))


class SpuParties:
    """Linked party processes. Each can hold several runtimes, one after the other or side by side."""

    def __init__(
        self,
        count: int,
        *,
        recv_timeout_ms: int = 30_000,
        without_sequence_ids: bool = False,
        relayed: bool = False,
    ) -> None:
        """Start them; ``relayed`` puts :attr:`relay` between them, which delays what they send."""
        context = mp.get_context("spawn")
        ports = free_ports(2 * count if relayed else count)
        own, seen = ports[:count], ports[-count:]
        self.relay = relay.Relay(relay.on_loopback(dict(zip(seen, own, strict=True)))) if relayed else None
        self._pipes: list[Connection] = []
        self.processes = []
        for rank in range(count):
            addresses = [f"127.0.0.1:{(own if peer == rank else seen)[peer]}" for peer in range(count)]
            pipe, other = context.Pipe()
            process = context.Process(
                target=_serve_party,
                args=(other, addresses, rank, recv_timeout_ms, without_sequence_ids),
                daemon=True,
            )
            process.start()
            other.close()
            self._pipes.append(pipe)
            self.processes.append(process)
        self._collect(_START_TIMEOUT_S)

    def open(
        self,
        name: str,
        configs: Sequence[Mapping[str, Any]],
        relayed: Mapping[int, RelayedJob] | None = None,
    ) -> None:
        """Create a runtime at every party, with the configuration of its rank, on a channel of its own.

        ``relayed`` names the job at the rank whose process relays the dealer's corrections to its runtime.

        Raises:
            PartyError: a party could not.
        """
        relays = relayed or {}
        self._send([("open", name, config, relays.get(rank)) for rank, config in enumerate(configs)])
        self._collect(_START_TIMEOUT_S)

    def run(
        self,
        name: str,
        compiled: tuple[bytes, int],
        inputs: Sequence[Array],
        config: Mapping[str, Any],
        *,
        times: int = 1,
        timeout_s: float = 120.0,
        owners: Sequence[int] | None = None,
    ) -> tuple[list[Array], list[float]]:
        """Share the inputs, run the executable ``times`` times, reconstruct the last outputs.

        ``owners`` are ranks that keep an input as their private value instead; -1 where it is shared.

        Returns the outputs and the milliseconds of each run, the slowest party's.

        Raises:
            PartyError: a party failed, or did not answer in time.
        """
        import spu

        io = spu.Io(len(self._pipes), runtime_config(config))
        shared = [
            io.make_shares(np.asarray(x), spu.Visibility.VIS_SECRET, owner)
            for x, owner in zip(inputs, owners or [-1] * len(inputs), strict=True)
        ]
        executable, output_count = compiled
        self._send(
            [
                (
                    "run",
                    name,
                    executable,
                    [(shares[rank].meta, shares[rank].share_chunks) for shares in shared],
                    output_count,
                    times,
                )
                for rank in range(len(self._pipes))
            ]
        )
        answers = self._collect(timeout_s)
        outputs = []
        for index in range(output_count):
            shares = []
            for answer in answers:
                share = spu.libspu.Share()
                share.meta, share.share_chunks = answer[0][index]
                shares.append(share)
            outputs.append(np.asarray(io.reconstruct(shares)))
        return outputs, [max(durations) for durations in zip(*(answer[1] for answer in answers), strict=True)]

    def close(self) -> None:
        """End all processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        if self.relay is not None:
            self.relay.close()

    def __enter__(self) -> SpuParties:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, commands: Sequence[Any]) -> None:
        for pipe, command in zip(self._pipes, commands, strict=True):
            pipe.send(command)

    def _collect(self, timeout_s: float) -> list[Any]:
        """Everybody's answer; the first failure ends the wait for the others."""
        deadline_s = time.monotonic() + timeout_s
        answers: dict[int, Any] = {}
        while len(answers) < len(self._pipes):
            if time.monotonic() > deadline_s:
                raise PartyError(
                    f"ranks {sorted(set(range(len(self._pipes))) - set(answers))} did not answer"
                )
            waiting = {pipe: rank for rank, pipe in enumerate(self._pipes) if rank not in answers}
            for pipe in mp.connection.wait(list(waiting), 0.5):
                rank = waiting[pipe]  # type: ignore[index]
                try:
                    done, answers[rank] = pipe.recv()  # type: ignore[union-attr]
                except (EOFError, OSError):
                    raise PartyError(f"rank {rank} ended") from None
                if not done:
                    raise PartyError(f"rank {rank}: {answers[rank]}")
        return [answers[rank] for rank in range(len(self._pipes))]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that the kernel gives to no outgoing connection meanwhile: the
    processes take seconds to start."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(*_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in ports:
                ports.append(port)
    return ports


def _serve_party(
    pipe: Connection, addresses: list[str], rank: int, recv_timeout_ms: int, without_sequence_ids: bool
) -> None:
    """One party's process."""
    import spu
    from spu.libspu import link

    desc = link.Desc()
    desc.recv_timeout_ms = recv_timeout_ms
    desc.disable_msg_seq_id = without_sequence_ids
    desc.connect_retry_times = 100
    desc.connect_retry_interval_ms = 200
    for index, address in enumerate(addresses):
        desc.add_party(f"party{index}", address)
    context = link.create_brpc(desc, rank)
    runtimes: dict[str, Any] = {}
    pipe.send((True, None))
    while True:
        try:
            command = pipe.recv()
        except EOFError:
            return
        try:
            if command[0] == "open":
                runtimes[command[1]] = spu.Runtime(context.spawn(), _configured(*command[2:]))
                pipe.send((True, None))
            else:
                pipe.send((True, _run(runtimes[command[1]], *command[2:])))
        except Exception:
            pipe.send((False, traceback.format_exc()))


def _configured(config: Mapping[str, Any], relayed: RelayedJob | None) -> Any:
    if relayed is None:
        return runtime_config(config)
    beaver = {**config["ttp_beaver_config"], "server_host": relayed.relay()}
    beaver.pop("ssl_config", None)
    return runtime_config({**config, "ttp_beaver_config": beaver})


def _run(
    runtime: Any, serialized: bytes, inputs: list[tuple[bytes, list[bytes]]], output_count: int, times: int
) -> tuple[list[tuple[bytes, list[bytes]]], list[float]]:
    import spu

    executable = spu.Executable()
    executable.ParseFromString(serialized)
    for index, (meta, chunks) in enumerate(inputs):
        share = spu.libspu.Share()
        share.meta, share.share_chunks = meta, chunks
        runtime.set_var(f"in{index}", share)
    durations = []
    for _ in range(times):
        start_s = time.perf_counter()
        runtime.run(executable)
        durations.append(1000 * (time.perf_counter() - start_s))
    outputs = []
    for index in range(output_count):
        share = runtime.get_var(f"out{index}")
        outputs.append((share.meta, share.share_chunks))
    return outputs, durations
