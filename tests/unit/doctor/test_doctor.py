"""``secure-runner doctor`` against broken set-ups: its first line names the fault. Real sockets, real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
import yaml

from secure_runner.cli.doctor import examine
from secure_runner.config import PartySettings, Timeouts
from secure_runner.doctor.findings import headline
from secure_runner.errors import AgreementError
from secure_runner.programs.manifest import ExecutableSpec, Manifest, NumericSpec, RunCost, TensorSpec
from secure_runner.sessions import greeting
from secure_runner.sessions.agreement import make_hello
from secure_runner.sessions.coordination import connect_coordination, serve_coordination
from secure_runner.sessions.messages import ClockReply, ClockRequest

LEADER, MEMBER = "model-owner", "data-owner"
DOCS = Path(__file__).parents[3] / "docs" / "doctor.md"
QUICK = Timeouts(handshake_timeout_s=1.0).model_dump()


def manifest(name="credit", fraction_bits=18):
    tensor = TensorSpec(name="x", dtype="float32", shape=(None, 4))
    return Manifest(
        name=name,
        protocol="cheetah",
        numeric=NumericSpec(fraction_bits=fraction_bits),
        inputs=(tensor,),
        outputs=(tensor,),
        private_inputs=(tensor,),
        private_outputs=(tensor,),
        params=(),
        executables=(ExecutableSpec(batch_size=1, file="x", sha256="0" * 64),),
        cost=RunCost(batch_size=1, rounds=40, sent_bytes=250_000, compute_s=0.3),
        versions={},
    )


class Site:
    """A data owner's machine, on which doctor runs, and the model owner's runner it talks to."""

    def __init__(self, made):
        self.made = made
        self.program = manifest()
        self.leader = made.settings[LEADER]
        self.leader_hello = make_hello(self.leader, self.program)
        self.leader_runs = True
        self.stack = contextlib.ExitStack()
        self.environment = {
            "SECURE_RUNNER_CLUSTER": str(made.directory / "cluster.yaml"),
            "SECURE_RUNNER_PARTY": MEMBER,
            "SECURE_RUNNER_TLS_CERT": str(made.directory / f"{MEMBER}.pem"),
            "SECURE_RUNNER_TLS_KEY": str(made.directory / f"{MEMBER}.key"),
        }
        self.write(made.cluster.model_dump(exclude={"embedded"}, exclude_none=True))

    def write(self, cluster):
        (self.made.directory / "cluster.yaml").write_text(yaml.safe_dump(cluster))

    def change(self, change):
        """Change this side's cluster file."""
        cluster = yaml.safe_load((self.made.directory / "cluster.yaml").read_text())
        change(cluster)
        self.write(cluster)

    def listen(self, address, *, answers=True):
        """Another program on a port; one that does not answer is as a firewall that drops packets."""
        listener = self.stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(5 if answers else 0)
        for _ in range(0 if answers else 4):
            filler = self.stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)

    async def findings(self):
        async with contextlib.AsyncExitStack() as stack:
            if self.leader_runs:
                serving = serve_coordination(self.leader, self.leader_hello, lambda peer: peer.closed.wait())
                await stack.enter_async_context(serving)
            return await examine(self.environment, self.program)

    def diagnose(self):
        with self.stack:
            return asyncio.run(asyncio.wait_for(self.findings(), 30))


@pytest.fixture
def site(tls_cluster):
    return Site(tls_cluster("cheetah", timeouts=QUICK))


def misspelt(site, _):
    site.change(lambda cluster: cluster["timeouts"].update(recv_timeout=3))


def no_party(site, _):
    del site.environment["SECURE_RUNNER_PARTY"]


def no_key(site, _):
    (site.made.directory / f"{MEMBER}.key").unlink()


def wrong_key(site, _):
    site.environment["SECURE_RUNNER_TLS_KEY"] = str(site.made.directory / f"{LEADER}.key")


def own_certificate_of_another(site, _):
    for variable, end in (("CERT", "pem"), ("KEY", "key")):
        site.environment[f"SECURE_RUNNER_TLS_{variable}"] = str(site.made.directory / f"{LEADER}.{end}")


def expired(site, patch):
    from secure_runner.config import certificates

    patch.setattr(certificates, "_CLOCK_ALLOWANCE", timedelta(days=400))
    patch.setattr(certificates, "timedelta", lambda days: timedelta(days=-1))
    certificates.self_sign(site.made.directory, MEMBER, [], 1, replace=True)


def port_taken(site, _):
    site.listen(site.made.cluster.addresses(MEMBER, 0, 0).control)


def unknown_name(site, _):
    site.change(lambda cluster: cluster["parties"][LEADER].update(address="lender.invalid"))


def not_started(site, _):
    site.leader_runs = False


def firewall(site, _):
    site.leader_runs = False
    site.listen(site.made.cluster.coordination(LEADER), answers=False)


def other_program_on_the_port(site, _):
    site.leader_runs = False
    site.listen(site.made.cluster.coordination(LEADER))


def session_port_filtered(site, _):
    site.listen(site.made.cluster.addresses(LEADER, 0, 1).link, answers=False)


def peer_shows_anothers_certificate(site, patch):
    patch.setattr("secure_runner.config.tls._check_own", lambda material: None)
    site.leader = site.made.settings_with(LEADER, MEMBER)


def peer_of_another_authority(site, _):
    site.made.issue("elsewhere", LEADER, authority=trustme.CA())
    site.leader = site.made.settings_with(LEADER, "elsewhere")


def not_trusted_by_the_peer(site, _):
    trustme.CA().cert_pem.write_to_path(str(site.made.directory / "other-ca.pem"))
    site.leader = site.made.settings_with(LEADER, LEADER, tls_ca_file=site.made.directory / "other-ca.pem")


def other_cluster_file(site, _):
    site.change(lambda cluster: cluster["timeouts"].update(recv_timeout_s=31.0))


def other_program(site, _):
    site.program = manifest(fraction_bits=16)


def unaudited_program(site, _):
    site.environment["SECURE_RUNNER_PROGRAM_DIGEST"] = "d" * 64


def other_version(site, _):
    versions = site.leader_hello.versions | {"spu": "0.9.3"}
    site.leader_hello = site.leader_hello.model_copy(update={"versions": versions})


def wrong_clock(_, patch):
    async def answer_late(wire):
        assert isinstance(await wire.receive_greeting(), ClockRequest)
        await wire.send(ClockReply(clock_s=time.time() - 60))

    patch.setattr(greeting, "_answer_clock", answer_late)


BROKEN = {
    misspelt: "timeouts.recv_timeout: there is no such setting",
    no_party: "SECURE_RUNNER_PARTY is not set; expected one of",
    no_key: "cannot be read: No such file or directory",
    wrong_key: "the key of SECURE_RUNNER_TLS_KEY does not belong to certificate",
    own_certificate_of_another: "must bear the DNS name",
    expired: "is valid from",
    port_taken: "own ports: cannot listen on",
    unknown_name: "cannot be resolved",
    not_started: "cannot connect to",
    firewall: "in time",
    other_program_on_the_port: "no TLS at",
    session_port_filtered: "session ports: 1 of 4 cannot be reached",
    peer_shows_anothers_certificate: "is not that of model-owner",
    peer_of_another_authority: "unable to get local issuer certificate",
    not_trusted_by_the_peer: "greeting: ",
    other_cluster_file: "cluster digest: ",
    other_program: "program digest: ",
    unaudited_program: "pinned program digest: ",
    other_version: "version of spu: ",
    wrong_clock: "clock: that of model-owner is 60.0 s behind",
}


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_the_first_line_names_the_fault(site, breakage, monkeypatch):
    """Whatever is broken, the report starts with it, and every fault has a remedy."""
    breakage(site, monkeypatch)
    found = site.diagnose()
    first = headline(found)
    assert first.startswith("FAULT: ")
    assert BROKEN[breakage] in first, first
    assert "\n" not in first
    assert all(finding.remedy for finding in found if finding.level == "fault")


@pytest.mark.parametrize("breakage", BROKEN, ids=lambda breakage: breakage.__name__)
def test_every_fault_is_in_the_docs(breakage):
    """The table of docs/doctor.md has what the first line says of each of these faults."""
    fragment = BROKEN[breakage].replace(LEADER, "lender")
    assert fragment in DOCS.read_text().replace("`", "")


def test_a_sound_set_up_has_no_fault(site):
    """All checks pass, and the report has round trip, bandwidth and clock."""
    found = site.diagnose()
    assert headline(found).startswith("OK: ")
    text = "\n".join(f"{finding.subject}: {finding.detail}" for finding in found)
    assert "model-owner: TLS identity: " in text
    assert "the same cluster, program, protocol and versions" in text
    assert "Mbit/s towards model-owner" in text
    assert "s from ours" in text
    round_trip_ms, mbit_per_s = (float(n) for n in re.search(r"trip ([\d.]+) ms, (\d+) Mbit", text).groups())
    said = re.search(r"estimated latency: about (\d+) ms for a batch of 1 over this line: 40 rounds", text)
    expected_ms = 300 + 40 * round_trip_ms + 8 * 250 / mbit_per_s
    assert float(said[1]) == pytest.approx(expected_ms, abs=4), (
        "rounds are multiplied by a rounded round trip"
    )


def test_looking_disturbs_no_running_session(site):
    """Doctor beside a running runner of the same party leaves that one's connection as it is."""
    settings = PartySettings.from_environment(site.environment)

    async def main():
        async with serve_coordination(
            site.leader, site.leader_hello, lambda peer: peer.closed.wait()
        ) as server:
            hello = make_hello(settings, site.program)
            async with connect_coordination(settings, LEADER, hello) as peer:
                while MEMBER not in server.peers:
                    await asyncio.sleep(0.01)
                before = server.peers[MEMBER]
                assert headline(await examine(site.environment, site.program)).startswith("OK: ")
                await asyncio.sleep(0.1)
                assert not peer.closed.is_set()
                assert server.peers[MEMBER] is before

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_leader_cannot_tell_a_member_to_skip_the_comparison(site):
    """Only whoever connects may only check: a leader that says so still has to hold the same."""
    other = make_hello(site.leader, manifest(fraction_bits=16)).model_copy(update={"checking": True})
    settings = site.made.settings[MEMBER]

    async def main():
        async with serve_coordination(site.leader, other, lambda peer: peer.closed.wait()):
            with pytest.raises(AgreementError, match="fraction_bits"):
                async with connect_coordination(settings, LEADER, make_hello(settings, site.program)):
                    pass

    asyncio.run(asyncio.wait_for(main(), 30))


def test_the_model_owner_sees_its_own_runner_running(site):
    """On the listening party, ports in use by its own runner are no fault."""
    at_the_leader(site)
    found = site.diagnose()
    assert headline(found).startswith("OK: ")
    assert any("this party's runner is running" in finding.detail for finding in found)


def at_the_leader(site):
    """Have doctor run at the model owner, beside its running runner or in its place."""
    site.environment["SECURE_RUNNER_PARTY"] = LEADER
    for variable, end in (("CERT", "pem"), ("KEY", "key")):
        site.environment[f"SECURE_RUNNER_TLS_{variable}"] = str(site.made.directory / f"{LEADER}.{end}")


async def seen_from_the_leader(site, member_hello):
    """What doctor says there while the member's runner connects, again and again."""
    at_the_leader(site)

    async def member():
        while True:
            with contextlib.suppress(AgreementError):
                connecting = connect_coordination(site.made.settings[MEMBER], LEADER, member_hello)
                async with connecting as peer:
                    await peer.closed.wait()
            await asyncio.sleep(0.1)

    trying = asyncio.create_task(member())
    try:
        async with contextlib.AsyncExitStack() as stack:
            if site.leader_runs:
                serving = serve_coordination(site.leader, site.leader_hello, lambda peer: peer.closed.wait())
                server = await stack.enter_async_context(serving)
                while not (server.peers or server.refusals):
                    await asyncio.sleep(0.01)
            return await examine(site.environment, site.program)
    finally:
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)


def look_from_the_leader(site, member_hello):
    return asyncio.run(asyncio.wait_for(seen_from_the_leader(site, member_hello), 30))


@pytest.mark.parametrize("running", [True, False], ids=["its runner runs", "its runner does not run"])
@pytest.mark.parametrize("pinned", [False, True], ids=["authority", "pinned"])
def test_the_model_owner_sees_that_all_agree(tls_cluster, pinned, running):
    """Its runner says so; where it does not run, doctor listens in its place."""
    site = Site(tls_cluster("cheetah", timeouts=QUICK, pinned=pinned))
    site.leader_runs = running
    found = look_from_the_leader(site, make_hello(site.made.settings[MEMBER], site.program))
    assert headline(found).startswith("OK: "), headline(found)
    assert f"{MEMBER}: agreement" in {finding.subject for finding in found if finding.level == "good"}


@pytest.mark.parametrize("running", [True, False], ids=["its runner runs", "its runner does not run"])
def test_the_model_owner_sees_who_has_another_program(site, running):
    """The first line names the party and what differs, and the docs have it."""
    site.leader_runs = running
    other = make_hello(site.made.settings[MEMBER], manifest(fraction_bits=16))
    found = look_from_the_leader(site, other)
    first = headline(found)
    assert f"{MEMBER}: program digest: {LEADER} has " in first, first
    assert all(finding.remedy for finding in found if finding.level == "fault")
    shown = "bank: program digest: lender has "
    assert shown in DOCS.read_text().replace("`", "")


def test_the_model_owner_sees_who_has_not_come(site):
    """No fault of anybody that could be told from here; the report says where to look next."""
    at_the_leader(site)
    found = site.diagnose()
    assert headline(found).startswith("OK: ")
    (finding,) = (finding for finding in found if finding.subject == f"{MEMBER}: agreement")
    assert finding.level == "note"
    assert MEMBER in finding.remedy


def test_without_a_cluster_there_is_nothing_to_check():
    """Embedded, doctor says so and ends well."""
    found = asyncio.run(examine({}, None))
    assert headline(found) == "OK: 1 checks, no fault"
    assert "all parties on this machine" in found[0].detail
