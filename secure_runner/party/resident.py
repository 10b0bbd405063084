"""A program that stays: SecretFlow's SPU actor with its executables, params and links resident.

SecretFlow's own path traces, lowers, pickles and ships the executable for each call. Here the actor that
SecretFlow places at each party keeps the compiled executables and the shares of the params, and serves
batches over its own SPU link until the session ends.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import spu
from secretflow.device.device.spu import SPU, SPURuntime
from secretflow.distributed.primitive import remote
from spu.libspu import Share

from secure_runner.errors import UnavailableError
from secure_runner.party.dealing import Dealing
from secure_runner.party.exit import FailureCode, end_process
from secure_runner.party.owned import owner_rank
from secure_runner.party.pieces import Assembly
from secure_runner.party.priority import behind_all
from secure_runner.programs.manifest import Manifest
from secure_runner.programs.names import input_name, output_name, param_name
from secure_runner.protocols import protocol
from secure_runner.spu_config import make_runtime_config, runtime_config_dict, sharing_config_dict

if TYPE_CHECKING:
    from secure_runner.party.link_identity import LinkIdentity
    from secure_runner.party.pipe import Pipe
    from secure_runner.party.spec import SessionSpec
    from secure_runner.party.stages import Stages

__all__ = ["Resident", "ResidentRuntime", "ResidentSpu"]

_CONNECT_RETRY_INTERVAL_MS = 100
_SEND_RETRIES = {
    "max_retry": 15,
    "retry_interval_ms": 50,
    "retry_interval_incr_ms": 50,
    "max_retry_interval_ms": 1000,
}
"""Of one message; 6 s in all. The first message goes to a peer whose socket may open a moment later: SPU's
own second of waiting there was most of the time that a session took to start."""


@dataclass(frozen=True)
class Resident:
    """What the actor of one party needs beside what SecretFlow gives it. It never leaves the process."""

    spec: SessionSpec
    manifest: Manifest
    identity: LinkIdentity
    pipe: Pipe
    stages: Stages


_MOST_TWICE_BYTES = 32 << 20
"""Params that a second runtime holds too: SPU takes some 6 bytes for each of cheetah's at the model owner."""


@dataclass(frozen=True)
class _Rung:
    """One executable, and the SPU runtimes that it runs in, in turns."""

    runtimes: tuple[spu.Runtime, ...]
    executable: spu.Executable


class ResidentRuntime(SPURuntime):  # type: ignore[misc]
    """One party's SPU runtime with a resident program.

    ``link`` carries SPU's own rounds; ``inputs`` and ``outputs`` are channels beside it, so that shares of
    the next batch can travel while the present one runs. ``nudges`` keep all of them going.
    """

    def __init__(self, rank: int, cluster_def: Mapping[str, Any], resident: Resident) -> None:
        # Not the parent's constructor: it can set neither the link's id nor drop message sequence ids.
        options = spu.logging.LogOptions()
        options.log_level = spu.logging.LogLevel.WARN
        # To standard error alone: SPU would also open a file where the process was started, and fail if it
        # cannot, as in a container whose root file system is read-only.
        options.system_log_path = os.devnull
        spu.logging.setup_logging(options)
        self.spec, self.manifest, self.pipe = resident.spec, resident.manifest, resident.pipe
        self.stages = resident.stages
        self.rank = rank
        self.party = self.spec.parties[rank]
        self.cluster_def = cluster_def
        self.id = self.spec.session_id
        self.share_seq_id = 0
        description = _link_desc(self.spec)
        resident.identity.secure(description)
        self.link = spu.link.create_brpc(description, rank)
        resident.identity.prove(self.link)
        self.inputs = self.link.spawn()
        self.outputs = self.link.spawn()
        self.nudges = self.link.spawn()
        cluster = self.spec.settings.cluster
        self.conf = make_runtime_config(sharing_config_dict(cluster.protocol, self.manifest.numeric))
        self.io = spu.Io(len(self.spec.parties), self.conf)
        self._runtimes = self._make_runtimes()
        self._assembly = Assembly(self.manifest.params)

    def infeed_share(self, io_info: Any, *chunks: bytes) -> None:
        """Take this party's shares of the next pieces of the params, from SecretFlow.

        Not the parent's: it puts every piece into one runtime, from where whole params would have to be read
        and written again. Here they are put together first.

        Args:
            io_info: key of each piece → where its share lies in ``chunks``, and SPU's description of it.
            chunks: of the shares of all pieces.
        """
        shares = {}
        for key, info in io_info.items():
            shares[key] = share = Share()
            share.meta = info.meta
            share.share_chunks = list(chunks[info.start_chunk_index : info.end_chunk_index])
        del chunks
        for name, whole in self._assembly.add(shares):
            for runtimes in dict.fromkeys(self._runtimes.values()):
                for runtime in runtimes:
                    runtime.set_var(param_name(name), whole)

    def load_program(self) -> None:
        """Make the ladder of executables resident."""
        self.rungs: dict[int, _Rung] = {}
        for entry in self.manifest.executables:
            executable = spu.Executable()
            executable.ParseFromString((Path(self.spec.program_dir) / entry.file).read_bytes())
            self.rungs[entry.batch_size] = _Rung(self._runtimes[entry.batch_size], executable)

    def _make_runtimes(self) -> dict[int, tuple[spu.Runtime, ...]]:
        """Batch size → SPU runtimes: one or two for all of the same settings, or, where a dealer pins
        transcripts, one for each."""
        cluster, numeric = self.spec.settings.cluster, self.manifest.numeric
        runtimes: dict[int, tuple[spu.Runtime, ...]] = {}
        if cluster.dealer is None:
            for packed in (True, False):
                rungs = [one.batch_size for one in self.manifest.executables if one.packed_products is packed]
                if rungs:
                    config = runtime_config_dict(
                        cluster.protocol, numeric, insecure=cluster.insecure, packed_products=packed
                    )
                    made = [
                        spu.Runtime(self.link.spawn(), make_runtime_config(config))
                        for _ in range(self._turns())
                    ]
                    runtimes |= dict.fromkeys(rungs, tuple(made))
            return runtimes
        self._dealing = Dealing(self.spec, self._lose_dealer)
        for entry in self.manifest.executables:
            beaver = self._dealing.register(entry)
            config = runtime_config_dict(cluster.protocol, numeric, beaver=beaver)
            runtimes[entry.batch_size] = (spu.Runtime(self.link.spawn(), make_runtime_config(config)),)
        return runtimes

    def _turns(self) -> int:
        """How many runtimes of the same settings take turns; all parties come to the same number."""
        params = self.manifest.params
        params_bytes = sum(math.prod(p.with_batch(1)) * np.dtype(p.dtype).itemsize for p in params)
        stocks = protocol(self.spec.settings.cluster.protocol).stocks_transfers
        return 2 if stocks and params_bytes <= _MOST_TWICE_BYTES else 1

    def _lose_dealer(self, reason: str) -> None:
        end_process(self.pipe, FailureCode.DEALER, UnavailableError(reason))

    def share_inputs(self, arrays: Sequence[Any]) -> list[list[Share]]:
        """Split private inputs into shares; ``result[rank]`` belongs to the party with that rank."""
        owner = owner_rank(self.spec, "data_owner")
        split = [self.io.make_shares(array, spu.Visibility.VIS_SECRET, owner) for array in arrays]
        return [[shares[rank] for shares in split] for rank in range(len(self.spec.parties))]

    def run_batch(
        self, batch_size: int, shares: Sequence[Share], turn: int, *, behind: bool = False
    ) -> tuple[list[Share], float]:
        """Run one batch: this party's input shares in, its output shares out. All parties run together.

        Args:
            batch_size: which executable.
            shares: one of each private input.
            turn: in which of the executable's runtimes; one runs one batch at a time.
            behind: whether all other work of this machine goes first.

        Returns:
            The outputs' shares, and the seconds of processor time of the thread that ran.
        """
        input_names = [input_name(tensor.name) for tensor in self.manifest.private_inputs]
        output_names = [output_name(tensor.name) for tensor in self.manifest.private_outputs]
        rung = self.rungs[batch_size]
        runtime = rung.runtimes[turn]
        for name, share in zip(input_names, shares, strict=True):
            runtime.set_var(name, share)

        def run() -> float:
            began_s = time.thread_time()
            runtime.run(rung.executable)
            return time.thread_time() - began_s

        cpu_s = behind_all(run) if behind else run()
        results = [runtime.get_var(name) for name in output_names]
        for name in (*input_names, *output_names):
            runtime.del_var(name)
        return results, cpu_s

    def reveal(self, shares: Sequence[Sequence[Share]]) -> list[Any]:
        """Reconstruct outputs from all parties' shares. Called at the data owner alone."""
        return [self.io.reconstruct(list(by_party)) for by_party in zip(*shares, strict=True)]

    def serve(self, shared: Sequence[None]) -> None:
        """Serve batches until the session ends. It never returns: the process ends with the session.

        Args:
            shared: what each :meth:`infeed_share` returned, so that this comes after them.
        """
        from secure_runner.party.loops import serve

        self.stages.done("link_and_params")
        try:
            self.load_program()
        except Exception as error:
            end_process(self.pipe, FailureCode.PROGRAM, error)
        serve(self)


class ResidentSpu(SPU):  # type: ignore[misc]
    """SecretFlow's SPU device, whose actors are :class:`ResidentRuntime`."""

    def __init__(self, resident: Resident) -> None:
        self._resident = resident
        spec = resident.spec
        cluster = spec.settings.cluster
        addresses = {party: cluster.addresses(party, spec.lane, spec.slot).link for party in spec.parties}
        cluster_def = {
            "nodes": [{"party": party, "address": str(address)} for party, address in addresses.items()],
            "runtime_config": sharing_config_dict(cluster.protocol, resident.manifest.numeric),
        }
        super().__init__(cluster_def, id=spec.session_id)

    def init(self) -> None:
        """Place one actor at each party, by rank.

        SecretFlow has sorted the nodes by party name, so ranks would follow the alphabet. Ranks matter: they
        follow roles here.
        """
        parties = self._resident.spec.parties
        self.cluster_def["nodes"].sort(key=lambda node: parties.index(node["party"]))
        for rank, party in enumerate(parties):
            actor = remote(ResidentRuntime).party(party)
            self.actors[party] = actor.remote(rank, self.cluster_def, self._resident)


def _link_desc(spec: SessionSpec) -> spu.link.Desc:
    cluster = spec.settings.cluster
    desc = spu.link.Desc()
    desc.id = spec.session_id
    for party in spec.parties:
        own = party == spec.settings.party
        desc.add_party(party, str(cluster.addresses(party, spec.lane, spec.slot, listen=own).link))
    desc.connect_retry_interval_ms = _CONNECT_RETRY_INTERVAL_MS
    desc.connect_retry_times = max(
        1, int(cluster.timeouts.connect_timeout_s * 1000 / _CONNECT_RETRY_INTERVAL_MS)
    )
    for name, value in _SEND_RETRIES.items():
        setattr(desc.retry_opts, name, value)
    desc.recv_timeout_ms = int(cluster.timeouts.run_timeout_s * 1000)
    desc.http_timeout_ms = int(cluster.timeouts.recv_timeout_s * 1000)
    desc.disable_msg_seq_id = protocol(cluster.protocol).link_without_sequence_ids
    return desc
