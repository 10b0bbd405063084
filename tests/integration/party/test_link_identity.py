"""Three real party processes with mutual TLS: the SPU link admits this session's parties and nobody else."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from secure_runner.config.tls import client_context, read_tls

PARTIES = ("model-owner", "data-owner", "helper")
SCRIPT = Path(__file__).with_name("link_party.py")


def answer(process):
    """The next line that is for us; libraries print theirs."""
    for line in process.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise AssertionError("the party ended early")


def tell(processes, text=""):
    for process in processes.values():
        process.stdin.write(text + "\n")
        process.stdin.flush()


def test_the_link_admits_only_this_sessions_parties_each_at_its_rank(tls_cluster, tmp_path):
    """Honest parties prove themselves; a certificate of the deployment's authority does not open the link;
    and a party without the pairwise keys is found out by both others."""
    made = tls_cluster("aby3")
    with (tmp_path / "log").open("w") as log:
        processes = {
            party: subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            for party in PARTIES
        }
    try:
        for party, process in processes.items():
            process.stdin.write(made.settings[party].model_dump_json() + "\n")
            process.stdin.flush()
        for process in processes.values():
            facts = answer(process)
            assert facts["proved"]
            assert facts["tls"]
            assert "PRIVATE KEY" not in facts["repr"]
            assert "pair_keys" not in facts["repr"]
        # The helper's own long-lived certificate, which the control channel takes, is a stranger's here.
        context = client_context(read_tls(made.settings["helper"]), "data-owner")
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        address = made.cluster.addresses("data-owner", 0, 0).link
        with pytest.raises((ssl.SSLError, ConnectionError)):
            knock(context, address)
        tell(processes)
        found = {party: answer(process)["second"] for party, process in processes.items()}
        for honest in ("model-owner", "data-owner"):
            assert "rank 2 of the SPU link did not prove that it is helper" in found[honest]
        assert found["helper"] != "proved"
        tell(processes)
        assert [process.wait(20) for process in processes.values()] == [0, 0, 0]
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def knock(context, address):
    """Connect and ask; returns only if the other side took the certificate."""
    with socket.create_connection(address, timeout=5) as plain, context.wrap_socket(plain) as secure:
        secure.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        if not secure.recv(1):
            raise ConnectionResetError("closed without an answer")
