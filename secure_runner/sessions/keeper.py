"""Keeps a deployment's lanes in session: embedded, as the leader of a cluster, or as a follower."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_runner.config import Cluster, PartySettings, Timeouts, embedded_settings, timeouts_of
from secure_runner.config.embedded import EMBEDDED_NAMES
from secure_runner.programs.files import read_program
from secure_runner.programs.manifest import Manifest
from secure_runner.protocols import PROTOCOLS, ProtocolName
from secure_runner.sessions.agreement import make_hello
from secure_runner.sessions.coordination import serve_coordination
from secure_runner.sessions.dealer import LocalDealer
from secure_runner.sessions.follower import Follower, FollowerLane
from secure_runner.sessions.lane import LaneState
from secure_runner.sessions.leader import LaneLeader
from secure_runner.sessions.limits import Allowance, BatchLimits
from secure_runner.sessions.member import LocalMember, Member
from secure_runner.sessions.remote import RemoteMember, attend
from secure_runner.sessions.rotation import watch_certificates
from secure_runner.sessions.warm import WarmProcesses
from secure_runner.sessions.watch import IDLE_WATCH, PartyWatch

__all__ = [
    "Keeper",
    "Lane",
    "Oversight",
    "PartyFiles",
    "embedded_keeper",
    "follower_keeper",
    "leader_keeper",
    "parties_here",
]


@dataclass(frozen=True)
class PartyFiles:
    """Where this party's part of the model lies."""

    program_dir: Path
    params_file: Path | None
    """None at every party but the model owner."""


@dataclass(frozen=True)
class Lane:
    """A lane at this runner: where it is, and the parties that this runner looks after."""

    state: LaneState
    members: Sequence[LocalMember]


@dataclass(frozen=True)
class Keeper:
    """The lanes, and what keeps them in session until it is cancelled."""

    lanes: Sequence[Lane]
    work: Sequence[Coroutine[Any, Any, None]]

    async def run(self) -> None:
        """Keep all lanes in session until cancelled; then end every process."""
        tasks = [asyncio.create_task(work) for work in self.work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
        finally:
            # Once: gather would have done so before, and a second time cuts their clean-up short.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Oversight:
    """Who watches a runner's parties, and what limits them."""

    watch_of: Callable[[str], PartyWatch] = lambda _: IDLE_WATCH
    """Party name → who keeps its records."""
    limits: BatchLimits | None = None
    """Of the model owner, for the data owner."""
    allowance: Allowance = field(default_factory=Allowance)
    """At the data owner: what it may ask for."""
    warm_processes: WarmProcesses = field(default_factory=WarmProcesses)
    """Started before this runner's turn came."""


def parties_here(
    files: PartyFiles, settings: PartySettings | None, protocol: ProtocolName | None = None
) -> tuple[list[str], Timeouts]:
    """The parties whose processes a deployment of this starts, once for each lane, and their timeouts."""
    timeouts = timeouts_of(settings)
    if settings is not None:
        return [settings.party] * settings.cluster.lanes, timeouts
    chosen = read_program(files.program_dir).protocol if protocol is None else protocol
    return [EMBEDDED_NAMES[role] for role in PROTOCOLS[chosen].roles], timeouts


def embedded_keeper(cluster: Cluster, files: PartyFiles, oversight: Oversight) -> Keeper:
    """All parties on this machine, each in a process of its own."""
    dealer = LocalDealer(cluster) if cluster.dealer is not None else None
    settings = embedded_settings(cluster, None if dealer is None else dealer.public_key)
    lanes, leaders = [], []
    for lane in range(cluster.lanes):
        parties = [_local(settings[party], files, oversight) for party in cluster.ranked_parties]
        # The dealer serves all lanes and is looked after by the first.
        members: list[Member] = [*([dealer] if dealer is not None and lane == 0 else []), *parties]
        leader = LaneLeader(cluster, members, lane, oversight.limits)
        leaders.append(leader)
        lanes.append(Lane(leader.state, parties))
    return Keeper(lanes, [leader.run() for leader in leaders])


def leader_keeper(
    settings: PartySettings, manifest: Manifest, files: PartyFiles, oversight: Oversight
) -> Keeper:
    """The model owner's runner: it orders the sessions."""
    cluster = settings.cluster
    others = [party for party in cluster.ranked_parties if party != settings.party]
    data_owner = cluster.party_with("data_owner")
    remote = {
        (party, lane): RemoteMember(party, lane, is_data_owner=party == data_owner)
        for party in others
        for lane in range(cluster.lanes)
    }
    lanes, leaders = [], []
    for lane in range(cluster.lanes):
        own = _local(settings, files, oversight)
        members: list[Member] = [own, *(remote[party, lane] for party in others)]
        leader = LaneLeader(cluster, members, lane, oversight.limits)
        leader.state.waits(f"waiting for {' and '.join(others)}")
        leaders.append(leader)
        lanes.append(Lane(leader.state, [own]))

    def renew() -> None:
        for leader in leaders:
            leader.renew()

    async def listen() -> None:
        hello = make_hello(settings, manifest)
        async with serve_coordination(settings, hello, lambda peer: attend(peer, remote, renew)):
            await watch_certificates(settings, renew)
            await asyncio.Event().wait()

    return Keeper(lanes, [listen(), *(leader.run() for leader in leaders)])


def follower_keeper(
    settings: PartySettings, manifest: Manifest, files: PartyFiles, oversight: Oversight
) -> Keeper:
    """Every other computing party's runner: it joins the sessions that are ordered."""
    lanes = [FollowerLane(_local(settings, files, oversight), lane) for lane in range(settings.cluster.lanes)]
    follower = Follower(settings, make_hello(settings, manifest), lanes)
    work = [follower.run(), watch_certificates(settings, follower.renew)]
    return Keeper([Lane(lane.state, [lane.member]) for lane in lanes], work)


def _local(settings: PartySettings, files: PartyFiles, oversight: Oversight) -> LocalMember:
    leads = settings.role == "model_owner"
    return LocalMember(
        settings,
        files.program_dir,
        files.params_file if leads else None,
        oversight.watch_of(settings.party),
        oversight.limits if leads else None,
        oversight.allowance if settings.role == "data_owner" else None,
        oversight.warm_processes,
    )
