"""Forming the cluster: SecretFlow in production mode, one resident SPU over all computing parties."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import secretflow as sf
import secretflow.distributed as sfd

from secure_runner.observe.logs import LOG_FORMAT, set_up_logs
from secure_runner.party import control
from secure_runner.party.link_identity import agree_on_link
from secure_runner.party.owned import owner_rank, to_device
from secure_runner.party.params_file import ParamsFile
from secure_runner.party.pieces import PIECE_BYTES, in_groups
from secure_runner.party.resident import Resident, ResidentSpu

if TYPE_CHECKING:
    from secure_runner.party.pipe import Pipe
    from secure_runner.party.spec import SessionSpec
    from secure_runner.party.stages import Stages
    from secure_runner.programs.manifest import Manifest

__all__ = ["run_session"]

_log = logging.getLogger(__name__)


def run_session(spec: SessionSpec, manifest: Manifest, pipe: Pipe, stages: Stages) -> None:
    """Form the cluster, share the params once, and serve. Every party runs this same code.

    SecretFlow's calls belong on the main thread. The params are read by a PYU at the model owner, the only
    party that has the file, and leave it as shares.

    Does not return while the session lives.
    """
    channel = control.install(spec.settings)
    sf.init(job_name=spec.session_id, **control.sf_init_arguments(spec.settings, spec.lane, spec.slot))
    # SecretFlow has put handlers of its own in place of ours.
    place = {"session_id": spec.session_id, "epoch": spec.epoch, "lane": spec.lane}
    fields = {"party": spec.settings.party, **place}
    set_up_logs(os.environ, logging.getLogger(), plain=LOG_FORMAT, fields=fields)
    identity = agree_on_link(channel, spec.settings, spec.session_id)
    stages.done("cluster")
    device = ResidentSpu(Resident(spec, manifest, identity, pipe, stages))
    model_owner = sf.PYU(spec.settings.cluster.party_with("model_owner"))
    params = ParamsFile(spec.params_file)
    shared: list[list[Any]] = []
    for pieces in in_groups(manifest.params, PIECE_BYTES):
        if shared:
            sfd.get(shared[-1])  # every party has these: the next ones take their room
        values = model_owner(params.read)(pieces)
        shared.append(to_device(values, device, owner_rank(spec, "model_owner")))
    served = [
        actor.serve.remote([done[rank] for done in shared])
        for rank, actor in enumerate(device.actors.values())
    ]
    _log.info("session %s: cluster is formed, params are shared", spec.session_id)
    sf.reveal(sf.PYUObject(sf.PYU(spec.settings.party), served[spec.rank]))
