"""One party of three, as a process: forms the cluster, opens two SPU links, and says what it found.

Started by test_link_identity.py with this party's settings on standard input, one line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback

import secretflow as sf
import spu

from secure_runner.config import PartySettings
from secure_runner.party import control
from secure_runner.party.link_identity import LinkIdentityError, agree_on_link

FORGER, SESSION = "helper", "session-1"


def say(**facts):
    """One line for the test."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def open_link(settings, identity, slot):
    """The SPU link of a slot."""
    cluster = settings.cluster
    desc = spu.link.Desc()
    desc.id = f"{SESSION}-{slot}"
    for party in cluster.ranked_parties:
        desc.add_party(party, str(cluster.addresses(party, 0, slot).link))
    # Where a peer listens a moment late, brpc looks again after three seconds.
    desc.recv_timeout_ms = 10_000
    desc.connect_retry_times, desc.connect_retry_interval_ms = 100, 100
    identity.secure(desc)
    return spu.link.create_brpc(desc, cluster.ranked_parties.index(settings.party))


def main():
    """An honest link, on which the test looks from outside; then one whose helper lacks the pairwise keys."""
    settings = PartySettings.model_validate_json(sys.stdin.readline())
    channel = control.install(settings)
    sf.init(job_name=SESSION, **control.sf_init_arguments(settings, 0, 0))
    identity = agree_on_link(channel, settings, SESSION)
    link = open_link(settings, identity, 0)
    identity.prove(link)
    link.barrier()
    say(proved=True, tls=bool(identity.certificate_pem), repr=repr(identity))
    sys.stdin.readline()
    if settings.party == FORGER:
        forged = {peer: bytes(32) for peer in identity.pair_keys}
        identity = dataclasses.replace(identity, pair_keys=forged)
    second = open_link(settings, identity, 1)
    try:
        identity.prove(second)
        say(second="proved")
    except LinkIdentityError as error:
        say(second=str(error))
    except RuntimeError:
        say(second="timeout")
    sys.stdin.readline()


try:
    main()
except BaseException:
    traceback.print_exc()
    # SecretFlow's threads would keep the process.
    os._exit(1)
os._exit(0)
