"""Two runners over real sockets and real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time

import pytest
import trustme

from secure_runner.config import Timeouts
from secure_runner.config.tls import client_context, read_tls
from secure_runner.errors import AgreementError
from secure_runner.sessions import greeting
from secure_runner.sessions.coordination import connect_coordination, serve_coordination
from secure_runner.sessions.messages import (
    ClockReply,
    ClockRequest,
    CoordinationError,
    End,
    Hello,
    Ready,
    Start,
    Warm,
)

LEADER, MEMBER = "model-owner", "data-owner"
QUICK = Timeouts(heartbeat_interval_s=0.05, heartbeat_timeout_s=0.3, handshake_timeout_s=2.0).model_dump()


def hello_of(party, cluster, **changes):
    values = {
        "party": party,
        "cluster_name": cluster.name,
        "cluster_digest": cluster.digest,
        "program_name": "credit",
        "program_digest": "a" * 64,
        "protocol_configuration": {"protocol": "aby3", "fraction_bits": 18},
        "versions": {"spu": "1", "jax": "2"},
    }
    return Hello.model_validate(values | changes)


async def keep(peer):
    """A leader that only waits."""
    await peer.closed.wait()


@contextlib.asynccontextmanager
async def both(made, on_peer=keep, leader=None, member=None, progress=None):
    """The server's view and the member's peer, connected."""
    leader = leader or made.settings[LEADER]
    member = member or made.settings[MEMBER]
    async with (
        serve_coordination(leader, hello_of(LEADER, made.cluster), on_peer) as server,
        connect_coordination(member, LEADER, hello_of(MEMBER, made.cluster), progress) as peer,
    ):
        yield server, peer


def limited(awaitable, limit_s=20.0):
    return asyncio.run(asyncio.wait_for(awaitable, limit_s))


@pytest.mark.parametrize("pinned", [False, True], ids=["authority", "pinned"])
def test_messages_pass_both_ways_and_iteration_ends_with_the_connection(tls_cluster, pinned):
    """A session's messages arrive in order at the other side, and leaving ends the other's iteration."""
    made = tls_cluster(pinned=pinned)
    heard = []

    async def lead(peer):
        await peer.send(Start(session_id="s-1", epoch=1, lane=0, slot=1))
        async for message in peer:
            heard.append(message)
        heard.append(peer.reason)

    async def main():
        async with both(made, lead) as (server, peer):
            async for message in peer:
                assert message == Start(session_id="s-1", epoch=1, lane=0, slot=1)
                break
            await peer.send(Warm(lane=0))
            await peer.send(Ready(epoch=1, lane=0))
            while len(heard) < 2:
                await asyncio.sleep(0.01)
            assert server.peers[MEMBER].hello.party == MEMBER
            assert 0 <= peer.round_trip_s < 1
            assert abs(peer.clock_difference_s) < 1
        while len(heard) < 3:
            await asyncio.sleep(0.01)

    limited(main())
    assert heard == [Warm(lane=0), Ready(epoch=1, lane=0), "it took leave: closing"]


def test_a_party_that_comes_later_is_waited_for_with_progress(tls_cluster):
    """Connecting before the leader listens is no error; each failed attempt is reported with its reason."""
    made, reports = tls_cluster(), []

    async def main():
        async def late():
            while not reports:
                await asyncio.sleep(0.01)
            async with serve_coordination(made.settings[LEADER], hello_of(LEADER, made.cluster), keep):
                await asyncio.sleep(5)

        server = asyncio.create_task(late())
        async with connect_coordination(
            made.settings[MEMBER], LEADER, hello_of(MEMBER, made.cluster), reports.append
        ) as peer:
            assert peer.party == LEADER
        server.cancel()

    limited(main())
    assert "waiting for model-owner" in reports[0]
    assert "Connect" in reports[0]


def refused(made, member):
    """Try to connect with these settings; why the leader refused, and what the member was told."""
    reports = []

    async def main():
        async with serve_coordination(made.settings[LEADER], hello_of(LEADER, made.cluster), keep) as server:

            async def attempt():
                async with connect_coordination(
                    member, LEADER, hello_of(MEMBER, made.cluster), reports.append
                ):
                    pytest.fail("connected")

            task = asyncio.create_task(attempt())
            while not reports and not task.done():
                await asyncio.sleep(0.01)
            task.cancel()
            assert server.peers == {}
            return list(server.refusals.values())

    return limited(main()), reports


def test_another_partys_certificate_is_refused(tls_cluster, monkeypatch):
    """The helper cannot say it is the data owner, although the same authority signed its certificate."""
    made = tls_cluster()
    monkeypatch.setattr("secure_runner.config.tls._check_own", lambda material: None)
    refusals, reports = refused(made, made.settings_with(MEMBER, "helper"))
    assert any("'data-owner' and no other party's" in text and "'helper'" in text for text in refusals)
    assert "identity" in reports[0]


def test_a_certificate_that_names_two_parties_is_nobodys(tls_cluster, monkeypatch):
    """A certificate with two parties' names would let one stand for the other."""
    made = tls_cluster()
    made.issue("both", MEMBER, "helper")
    monkeypatch.setattr("secure_runner.config.tls._check_own", lambda material: None)
    refusals, _ = refused(made, made.settings_with(MEMBER, "both"))
    assert any("'data-owner', 'helper'" in text for text in refusals)


def test_another_authoritys_certificate_is_refused(tls_cluster):
    """A right name signed by a stranger's authority gets nowhere."""
    made = tls_cluster()
    made.issue("stranger", MEMBER, authority=trustme.CA())
    refusals, reports = refused(made, made.settings_with(MEMBER, "stranger"))
    assert refusals == []  # TLS itself ended it
    assert reports


def test_a_certificate_beside_the_pinned_one_is_refused(tls_cluster):
    """With pinned certificates a newer one of the same name and authority is refused until it is pinned."""
    made = tls_cluster(pinned=True)
    made.issue("newer", MEMBER)
    member = made.settings_with(MEMBER, "newer")
    _, reports = refused(made, member)
    assert reports
    made.directory.joinpath(f"{MEMBER}.pem").write_bytes(
        made.directory.joinpath(f"{MEMBER}.pem").read_bytes()
        + made.directory.joinpath("newer.pem").read_bytes()
    )

    async def main():
        async with both(made, member=member) as (_, peer):
            assert peer.party == LEADER

    limited(main())


def test_a_leader_with_another_partys_certificate_is_refused_by_the_member(tls_cluster, monkeypatch):
    """The member checks the listening side too: the helper cannot stand for the model owner."""
    made = tls_cluster()
    monkeypatch.setattr("secure_runner.config.tls._check_own", lambda material: None)
    impostor = made.settings_with(LEADER, "helper")
    reports = []

    async def main():
        async with serve_coordination(impostor, hello_of(LEADER, made.cluster), keep):
            task = asyncio.create_task(
                connect_coordination(
                    made.settings[MEMBER], LEADER, hello_of(MEMBER, made.cluster), reports.append
                ).__aenter__()
            )
            while not reports and not task.done():
                await asyncio.sleep(0.01)
            task.cancel()

    limited(main())
    assert "certificate" in reports[0]


def test_no_certificate_is_refused(tls_cluster):
    """A client without a certificate cannot finish the handshake, and cannot speak plainly either."""
    made = tls_cluster()
    address = made.cluster.coordination(LEADER)

    async def main():
        async with serve_coordination(made.settings[LEADER], hello_of(LEADER, made.cluster), keep) as server:
            plain_reader, plain_writer = await asyncio.open_connection(*address)
            plain_writer.write(struct.pack(">I", 2) + b"{}")
            with contextlib.suppress(ConnectionError):
                assert b"{" not in await plain_reader.read()
            context = client_context(read_tls(made.settings[MEMBER]), LEADER)
            bare = type(context)(context.protocol)
            bare.load_verify_locations(made.directory / "ca.pem")
            with pytest.raises((OSError, asyncio.IncompleteReadError)):  # noqa: PT012
                reader, _ = await asyncio.open_connection(*address, ssl=bare, server_hostname=LEADER)
                await reader.readexactly(1)
            assert server.peers == {}

    limited(main())


def test_every_difference_is_named_at_both_sides(tls_cluster):
    """Cluster, program, ring and versions: one attempt tells all that differs, with both values."""
    made = tls_cluster()
    other = hello_of(
        MEMBER,
        made.cluster,
        cluster_digest="b" * 64,
        program_digest="c" * 64,
        protocol_configuration={"protocol": "aby3", "fraction_bits": 16},
        versions={"spu": "1", "jax": "3"},
    )

    async def main():
        async with serve_coordination(made.settings[LEADER], hello_of(LEADER, made.cluster), keep) as server:
            with pytest.raises(AgreementError) as caught:
                async with connect_coordination(made.settings[MEMBER], LEADER, other):
                    pass
            while not server.refusals:
                await asyncio.sleep(0.01)
            return str(caught.value), next(iter(server.refusals.values()))

    for text in limited(main()):
        assert "cluster digest: " in text
        assert made.cluster.digest in text
        assert "b" * 64 in text
        assert "c" * 64 in text
        assert "fraction_bits: " in text
        assert "has 16" in text
        assert "version of jax: " in text
        assert "version of spu" not in text
        assert MEMBER in text
        assert LEADER in text


def test_a_program_other_than_the_pinned_one_is_refused(tls_cluster):
    """The data owner joins with the program it audited, and with no other."""
    made = tls_cluster()
    member = made.settings_with(MEMBER, MEMBER, program_digest="d" * 64)

    async def main():
        with pytest.raises(AgreementError, match=r"has audited d+, model-owner has a+"):
            async with both(made, member=member):
                pass

    limited(main())


def test_a_clock_that_is_off_is_refused(tls_cluster, monkeypatch):
    """Clocks are compared through the connection, and the difference is named."""
    made = tls_cluster()

    async def answer_late(wire):
        assert isinstance(await wire.receive_greeting(), ClockRequest)
        await wire.send(ClockReply(clock_s=time.time() - 60))

    monkeypatch.setattr(greeting, "_answer_clock", answer_late)

    async def main():
        with pytest.raises(AgreementError, match=r"clock: that of model-owner is 60\.0 s behind"):
            async with both(made):
                pass

    limited(main())


def test_a_frozen_peer_is_noticed_by_its_silence(tls_cluster):
    """A peer that stops sending counts as dead after the configured silence, though its socket stays open."""
    made = tls_cluster(timeouts=QUICK)
    seen = {}

    async def lead(peer):
        await peer.closed.wait()
        seen["leader"] = peer.reason

    async def main():
        async with both(made, lead) as (_, peer):
            peer._tasks[1].cancel()  # its heartbeats
            started_s = asyncio.get_running_loop().time()
            while "leader" not in seen:
                await asyncio.sleep(0.01)
            assert 0.1 < asyncio.get_running_loop().time() - started_s < 1.0
            await peer.closed.wait()

    limited(main())
    assert seen["leader"] == "silent for 0.3 s"


def test_a_quiet_but_living_peer_stays(tls_cluster):
    """Heartbeats keep an idle connection up, well past the silence that would end it."""
    made = tls_cluster(timeouts=QUICK)

    async def main():
        async with both(made) as (_, peer):
            await asyncio.sleep(1.0)
            assert not peer.closed.is_set()

    limited(main())


def test_a_pause_of_ones_own_process_is_no_silence_of_the_peer(tls_cluster):
    """A blocked event loop does not make the others look dead."""
    made = tls_cluster(timeouts=Timeouts(heartbeat_interval_s=0.2, heartbeat_timeout_s=0.5).model_dump())

    async def main():
        async with both(made) as (_, peer):
            await asyncio.sleep(0.2)
            time.sleep(1.5)  # blocks both sides, as a long garbage collection would
            await asyncio.sleep(0.5)
            assert not peer.closed.is_set()

    limited(main())


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack(">I", 2**31),
        struct.pack(">I", 5) + b"hello",
        struct.pack(">I", 22) + json.dumps({"type": "goodbye2"}).encode(),
        struct.pack(">I", len(Start(session_id="s", epoch=1, lane=0, slot=0).model_dump_json()) + 1)
        + b'{"type":"start","session_id":"s","epoch":1,"lane":0,"slot":7,"x":0}',
    ],
    ids=["oversized", "no-json", "unknown", "out-of-range"],
)
def test_malformed_messages_close_that_connection_and_nothing_else(tls_cluster, garbage):
    """What is no message ends the connection it came on; another party's goes on."""
    made = tls_cluster()
    seen = {}

    async def lead(peer):
        await peer.closed.wait()
        seen[peer.party] = peer.reason

    async def main():
        async with (
            both(made, lead) as (server, bad),
            connect_coordination(made.settings["helper"], LEADER, hello_of("helper", made.cluster)) as good,
        ):
            bad._wire.writer.write(garbage)
            while MEMBER not in seen:
                await asyncio.sleep(0.01)
            await good.send(Warm(lane=0))
            await asyncio.sleep(0.1)
            assert not good.closed.is_set()
            assert "helper" in server.peers

    limited(main())
    assert "message" in seen[MEMBER]


def test_a_flood_of_unread_messages_ends_the_connection(tls_cluster):
    """A peer cannot fill this process's memory with messages that nobody reads."""
    made = tls_cluster()
    seen = {}

    async def lead(peer):
        await peer.closed.wait()
        seen["reason"] = peer.reason

    async def main():
        async with both(made, lead) as (_, peer):
            with contextlib.suppress(CoordinationError):
                for epoch in range(5000):
                    await peer.send(End(epoch=epoch, lane=0))
            while not seen:
                await asyncio.sleep(0.01)

    limited(main())
    assert "wait to be read" in seen["reason"]


def test_a_client_that_does_not_greet_is_dropped(tls_cluster):
    """A connection that says nothing is closed after the handshake timeout."""
    made = tls_cluster(timeouts=Timeouts(handshake_timeout_s=0.3).model_dump())

    async def main():
        async with serve_coordination(made.settings[LEADER], hello_of(LEADER, made.cluster), keep) as server:
            context = client_context(read_tls(made.settings[MEMBER]), LEADER)
            reader, _ = await asyncio.open_connection(
                *made.cluster.coordination(LEADER), ssl=context, server_hostname=LEADER
            )
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert list(server.refusals.values()) == ["it did not greet in time"]

    limited(main())


def test_a_party_that_connects_again_replaces_its_older_connection(tls_cluster):
    """After a restart the member need not wait for the leader to notice that the old one is dead."""
    made = tls_cluster()

    async def main():
        async with (
            both(made) as (server, older),
            connect_coordination(made.settings[MEMBER], LEADER, hello_of(MEMBER, made.cluster)) as newer,
        ):
            await asyncio.wait_for(older.closed.wait(), 2)
            await newer.send(Warm(lane=0))
            assert not newer.closed.is_set()
            assert MEMBER in server.peers

    limited(main())


def test_replaced_certificates_count_without_a_restart(tls_cluster):
    """Both sides' certificates, from a new authority, are taken up by the listening runner as it runs."""
    made = tls_cluster()

    async def main():
        async with both(made) as (_, first):
            assert first.party == LEADER
            newer = trustme.CA()
            newer.cert_pem.write_to_path(str(made.directory / "ca.pem"))
            for name in (LEADER, MEMBER):
                made.issue(name, authority=newer)
            for _ in range(2):
                async with connect_coordination(
                    made.settings[MEMBER], LEADER, hello_of(MEMBER, made.cluster)
                ) as again:
                    assert again.party == LEADER

    limited(main())


def test_without_tls_on_loopback_the_same_greeting_applies(tls_cluster):
    """An insecure cluster on loopback compares as strictly; only identity is not proved."""
    made = tls_cluster(tls=None, insecure=True)

    async def main():
        async with both(made) as (_, peer):
            assert peer.party == LEADER

    limited(main())
