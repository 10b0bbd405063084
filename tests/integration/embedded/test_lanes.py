"""Two lanes side by side: both serve, both are used, and one outlives the other."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future

import numpy as np
import psutil
import pytest

ATOL = 1e-3


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def deployed(deploy, workplace):
    """Started in an empty folder; CHEETAH is the slowest protocol, so two batches overlap for certain."""
    before = os.getcwd()
    os.chdir(workplace)
    try:
        made = deploy(protocol="cheetah", lanes=2)
    finally:
        os.chdir(before)
    made.wait_until(lambda: _serving(made) == [True, True], timeout_s=120)
    return made


def _lanes(deployed):
    return deployed.deployment.status()["lanes"]


def _serving(deployed):
    return [lane["serving"] for lane in _lanes(deployed)]


def _cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_batches_run_in_both_lanes_at_once(deployed, small_model):
    """Sixteen requests of eight rows each: right answers, and the parties of both lanes have worked."""
    lanes = _lanes(deployed)
    assert [lane["epoch"] >= 1 for lane in lanes] == [True, True]
    parties = [lane["processes"]["data-owner"] for lane in lanes]
    assert parties[0] != parties[1]
    before = [_cpu_s(pid) for pid in parties]
    rows = [small_model.rows[at % 56 : at % 56 + 8] for at in range(16)]
    asked: list[Future[dict[str, np.ndarray]]] = [deployed.submit(batch) for batch in rows]
    for batch, answer in zip(rows, asked, strict=True):
        found = answer.result(120)["y"]
        np.testing.assert_allclose(found, small_model.expected(batch), rtol=0, atol=ATOL)
    worked = [_cpu_s(pid) - was for pid, was in zip(parties, before, strict=True)]
    # Each batch costs a party about a tenth of a second; watching an idle session costs next to nothing.
    assert min(worked) > 0.1 * max(worked), f"CPU seconds in the lanes: {worked}"
    assert [lane["epoch"] for lane in _lanes(deployed)] == [lane["epoch"] for lane in lanes]


def test_a_lane_serves_on_while_the_other_is_replaced(deployed, small_model):
    """A party of lane 0 is killed: requests go on in lane 1, whose session stays; lane 0 comes back."""
    before = _lanes(deployed)
    os.kill(before[0]["processes"]["model-owner"], signal.SIGKILL)
    deployed.wait_until(lambda: _serving(deployed) == [False, True], timeout_s=10)
    found = deployed.predict(small_model.rows[:8])
    np.testing.assert_allclose(found, small_model.expected(small_model.rows[:8]), rtol=0, atol=ATOL)
    deployed.wait_until(lambda: _serving(deployed) == [True, True], timeout_s=120)
    after = _lanes(deployed)
    assert after[0]["epoch"] > before[0]["epoch"]
    assert after[1]["epoch"] == before[1]["epoch"]
    assert after[1]["processes"] == before[1]["processes"]
    found = deployed.predict(small_model.rows[:16])
    np.testing.assert_allclose(found, small_model.expected(small_model.rows[:16]), rtol=0, atol=ATOL)


def test_parties_leave_no_file_behind(deployed, workplace):
    """They may be started on a read-only file system: nothing is written where they were started."""
    assert list(workplace.iterdir()) == []
