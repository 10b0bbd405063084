"""A program that stays: SecretFlow's SPU actor with its executables, params and links resident.

SecretFlow's own path traces, lowers, pickles and ships the executable for each call. Here the actor that
SecretFlow places at each party keeps the compiled executables and the shares of the params, and serves
batches over its own SPU link until the session ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import spu
from secretflow.device.device.spu import SPU, SPURuntime
from secretflow.distributed.primitive import remote

from secure_runner.programs.manifest import Manifest
from secure_runner.programs.names import input_name, output_name, param_name
from secure_runner.protocols import protocol
from secure_runner.spu_config import make_runtime_config

if TYPE_CHECKING:
    from spu.libspu import Share

    from secure_runner.party.spec import SessionSpec

__all__ = ["ResidentRuntime", "ResidentSpu"]

_CONNECT_RETRY_INTERVAL_MS = 100


class ResidentRuntime(SPURuntime):  # type: ignore[misc]
    """One party's SPU runtime with a resident program.

    ``link`` carries SPU's own rounds; ``inputs`` and ``outputs`` are channels beside it, so that shares of
    the next batch can travel while the present one runs.
    """

    def __init__(self, rank: int, cluster_def: Mapping[str, Any], spec: SessionSpec) -> None:
        # Not the parent's constructor: it can set neither the link's id nor drop message sequence ids.
        self.rank = rank
        self.party = spec.parties[rank]
        self.cluster_def = cluster_def
        self.id = spec.session_id
        self.share_seq_id = 0
        self.spec = spec
        self.link = spu.link.create_brpc(_link_desc(spec), rank)
        self.inputs = self.link.spawn()
        self.outputs = self.link.spawn()
        self.conf = make_runtime_config(cluster_def["runtime_config"])
        self.runtime = spu.Runtime(self.link, self.conf)
        self.io = spu.Io(len(spec.parties), self.conf)

    def load_program(self, manifest: Manifest, params: Mapping[str, str]) -> None:
        """Make the ladder of executables resident.

        Args:
            manifest: the agreed program.
            params: name of each param → name of its share in this runtime.
        """
        self.manifest = manifest
        self.executables = {}
        renamed = {param_name(name): share for name, share in params.items()}
        for entry in manifest.executables:
            executable = spu.Executable()
            executable.ParseFromString((Path(self.spec.program_dir) / entry.file).read_bytes())
            executable.input_names = [renamed.get(name, name) for name in executable.input_names]
            self.executables[entry.batch_size] = executable

    def share_inputs(self, arrays: Sequence[Any]) -> list[list[Share]]:
        """Split private inputs into shares; ``result[rank]`` belongs to the party with that rank."""
        split = [self.io.make_shares(array, spu.Visibility.VIS_SECRET) for array in arrays]
        return [[shares[rank] for shares in split] for rank in range(len(self.spec.parties))]

    def run_batch(self, batch_size: int, shares: Sequence[Share]) -> list[Share]:
        """Run one batch: this party's input shares in, its output shares out. All parties run together."""
        input_names = [input_name(tensor.name) for tensor in self.manifest.private_inputs]
        output_names = [output_name(tensor.name) for tensor in self.manifest.private_outputs]
        for name, share in zip(input_names, shares, strict=True):
            self.runtime.set_var(name, share)
        self.runtime.run(self.executables[batch_size])
        results = [self.runtime.get_var(name) for name in output_names]
        for name in (*input_names, *output_names):
            self.runtime.del_var(name)
        return results

    def reveal(self, shares: Sequence[Sequence[Share]]) -> list[Any]:
        """Reconstruct outputs from all parties' shares. Called at the data owner alone."""
        return [self.io.reconstruct(list(by_party)) for by_party in zip(*shares, strict=True)]

    def serve(self, pipe: Any, manifest: Manifest, params: Mapping[str, str]) -> None:
        """Serve batches until the session ends. It never returns: the process ends with the session."""
        from secure_runner.party.loops import serve

        self.load_program(manifest, params)
        serve(self, pipe)


class ResidentSpu(SPU):  # type: ignore[misc]
    """SecretFlow's SPU device, whose actors are :class:`ResidentRuntime`."""

    def __init__(self, cluster_def: dict[str, Any], spec: SessionSpec) -> None:
        self._spec = spec
        super().__init__(cluster_def, id=spec.session_id)

    def init(self) -> None:
        """Place one actor at each party, by rank.

        SecretFlow has sorted the nodes by party name, so ranks would follow the alphabet. Ranks matter: they
        follow roles here.
        """
        self.cluster_def["nodes"].sort(key=lambda node: self._spec.parties.index(node["party"]))
        for rank, node in enumerate(self.cluster_def["nodes"]):
            actor = remote(ResidentRuntime).party(node["party"])
            self.actors[node["party"]] = actor.remote(rank, self.cluster_def, self._spec)


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
    desc.recv_timeout_ms = int(cluster.timeouts.run_timeout_s * 1000)
    desc.http_timeout_ms = int(cluster.timeouts.recv_timeout_s * 1000)
    desc.disable_msg_seq_id = protocol(cluster.protocol).link_without_sequence_ids
    return desc
