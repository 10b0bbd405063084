"""A deployment on one machine, with real processes and the real protocols: are the answers right?"""

from __future__ import annotations

import sys

import numpy as np
import psutil
import pytest

from secure_runner.errors import ConfigError, InputError, ProgramError
from secure_runner.protocols import computing_roles

PROTOCOLS = {
    "aby3": {"protocol": "aby3"},
    "cheetah": {"protocol": "cheetah"},
    "semi2k-dealer": {"protocol": "semi2k"},
    "semi2k-insecure": {"protocol": "semi2k", "insecure": True},
}
# 18 fraction bits hold a probability to 4e-6; the Padé exponential and truncation add the rest.
ATOL = 1e-3


@pytest.fixture(scope="module", params=list(PROTOCOLS))
def deployed(request, deploy):
    made = deploy(**PROTOCOLS[request.param])
    yield made
    made.stop()


def test_predictions_are_right(deployed, small_model):
    """One row, a padded batch and more rows than the ladder holds agree with float64 within 1e-3."""
    for rows in (small_model.rows[:1], small_model.rows[:3], small_model.rows[:21]):
        np.testing.assert_allclose(deployed.predict(rows), small_model.expected(rows), rtol=0, atol=ATOL)


def test_concurrent_requests_get_their_own_rows(deployed, small_model):
    """Batched together, answered apart."""
    slices = [small_model.rows[at : at + 1 + at % 3] for at in range(12)]
    answers = [deployed.submit(rows) for rows in slices]
    for rows, answer in zip(slices, answers, strict=True):
        np.testing.assert_allclose(answer.result(120)["y"], small_model.expected(rows), rtol=0, atol=ATOL)


def test_each_party_is_a_process_of_its_own(deployed):
    """As many processes as the protocol has parties, none of them this one, all children of it."""
    processes = deployed.processes
    roles = {deployed.deployment.cluster.parties[party].role for party in processes}
    assert roles == set(computing_roles(deployed.deployment.cluster.protocol))
    assert len(set(processes.values())) == len(processes)
    for party, pid in processes.items():
        command = psutil.Process(pid).cmdline()
        assert command[0] == sys.executable
        assert party in command
        assert psutil.Process(pid).ppid() == psutil.Process().pid


def test_nothing_listens_beyond_loopback(deployed):
    """Without a cluster file, no party can be reached from another machine."""
    for pid in deployed.processes.values():
        listening = [
            c.laddr for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN
        ]
        assert listening, "a party listens for its control channel and its link"
        assert {address.ip.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}


def test_a_request_without_an_input_is_refused(deployed, small_model):
    """The message names what was expected; the next request is answered."""
    asked = deployed.deployment.predict({"z": small_model.rows}, client=None, deadline_s=None)
    with pytest.raises(InputError, match=r"\['x'\]"):
        deployed._call(asked)
    with pytest.raises(InputError, match="at least 1"):
        deployed.predict(small_model.rows[:0])
    assert deployed.predict(small_model.rows[:1]).shape == (1, 2)


def test_a_deployment_without_params_is_refused(small_files):
    """An embedded deployment plays the model owner, too; the message says what is missing."""
    from secure_runner.runner.deployment import Deployment, PartyFiles

    with pytest.raises(ProgramError, match="params"):
        Deployment(PartyFiles(small_files.program_dir, None), None)


def test_an_unknown_protocol_is_refused(small_files):
    """Before any process is started."""
    from secure_runner.runner.deployment import Deployment

    with pytest.raises((ConfigError, KeyError)):
        Deployment(small_files, None, protocol="ref2k")  # type: ignore[arg-type]
