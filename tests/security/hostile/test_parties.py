"""A party that deviates over the link, or stops half-way: its session ends, and the next one serves.

The party runs this project's code with a message of each session replaced. Its runner is honest.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from secure_runner.config import Timeouts
from secure_runner.errors import UnavailableError
from secure_runner.http.api import PredictionApi
from secure_runner.http.app import create_app
from secure_runner.http.settings import HttpSettings
from secure_runner.programs.files import read_program
from secure_runner.sessions import channel
from secure_runner.sessions.messages import Heartbeat

ATOL = 1e-3
_DEVIATIONS = (
    "noise",
    "half and silence",
    "too few shares",
    "wrong shape",
    "other batch size",
    "repeated",
    "no such turn",
    "needless preparation",
    "result instead of inputs",
)
_STOPS = {
    "data-owner": ("silence",),
    "model-owner": (
        "silence",
        "half and silence",
        "no run",
        "no start",
        "wrong shape",
        "too few shares",
        "inputs instead of result",
        "another run's",
    ),
}
_TIMEOUTS = Timeouts(connect_timeout_s=15.0, recv_timeout_s=1.5, run_timeout_s=2.0)


@pytest.fixture
def deviating(replace_processes, tmp_path):
    """Makes a party's processes deviate, in one way after the other; gives how many ways have been met."""

    def begin(party, ways):
        replace_processes(party, Path(__file__).with_name("deviating_party.py"), str(tmp_path), *ways)
        return lambda: len(list(tmp_path.glob("deviated-*")))

    return begin


def test_what_is_no_message_ends_the_session_and_nothing_else(deploy, small_model, deviating, tried, caplog):
    """Each session meets a deviation: no answer is wrong, and an honest session serves at last.

    The model owner's party ends by itself each time, and says where: at the link or in the run.
    """
    deviated = deviating("data-owner", _DEVIATIONS)
    deployed = deploy(protocol="semi2k", insecure=True)
    outcomes: Counter[str] = Counter()
    rows = small_model.rows[:3]
    while deviated() < len(_DEVIATIONS) or not outcomes["right after all"]:
        try:
            answer = deployed.submit(rows).result(60)["y"]
        except UnavailableError:
            outcomes["unavailable"] += 1
            continue
        np.testing.assert_allclose(answer, small_model.expected(rows), rtol=0, atol=ATOL)
        outcomes["right after all" if deviated() == len(_DEVIATIONS) else "right"] += 1
    ends = re.findall(r"party model-owner: process \d+ ended \((\w+)\)", caplog.text)
    assert sum(reason in ("link", "run") for reason in ends) == len(_DEVIATIONS), ends
    for _ in _DEVIATIONS:
        tried.count("parties that deviate", "refused")


class _Served:
    """A data owner's deployment as the predictor behind its HTTP side."""

    def __init__(self, deployed, manifest):
        self._deployed, self.manifest = deployed, manifest

    async def predict(self, inputs, *, deadline_s, **_):
        return await asyncio.wrap_future(self._deployed.submit(inputs["x"], deadline_s))

    async def ready(self):
        return self._deployed.ready, "serving"


@pytest.fixture
def pair(deploy, tls_cluster_in, small_files, tmp_path):
    """Makes a model owner and a data owner over mutual TLS, with short timeouts; HTTP at the data owner."""

    def make():
        made = tls_cluster_in(
            tmp_path, "cheetah", protocol="semi2k", insecure=True, timeouts=_TIMEOUTS.model_dump()
        )
        files = {"model-owner": small_files, "data-owner": replace(small_files, params_file=None)}
        parties = {
            name: deploy(files=files[name], settings=settings, wait=False)
            for name, settings in made.settings.items()
        }
        served = _Served(parties["data-owner"], read_program(small_files.program_dir))
        # However slow the machine is: what is to be seen are sessions that end under a request.
        settings = HttpSettings(authentication="none", default_deadline_s=120.0)
        api = PredictionApi(served, settings)
        return parties, TestClient(create_app(api))

    return make


def _ask(client, small_model):
    """One request over HTTP: 200 with the right answer, or 503 that says when to try again."""
    rows = small_model.rows[:3]
    answer = client.post("/predict", json={"inputs": rows.tolist()})
    if answer.status_code == 200:
        np.testing.assert_allclose(answer.json()["outputs"], small_model.expected(rows), rtol=0, atol=ATOL)
    else:
        assert answer.status_code == 503, answer.text
        assert float(answer.headers["retry-after"]) >= 0
        time.sleep(0.05)
    return answer.status_code


@pytest.mark.parametrize("party", list(_STOPS))
def test_a_party_that_stops_half_way_costs_time_and_nothing_else(
    pair, small_model, deviating, tried, party, caplog
):
    """It stays connected and silent, or answers with other than the shares that are due: its session ends.

    Clients see a right answer, which may be the next session's, or 503 with Retry-After.
    """
    ways = _STOPS[party]
    deviated = deviating(party, ways)
    parties, client = pair()
    served_after_all = False
    while not served_after_all:
        all_met = deviated() == len(ways)
        served_after_all = _ask(client, small_model) == 200 and all_met
    # Before the parties are stopped, which ends a session too.
    ended = re.findall(r"session (\d+) (?:ended|could not start)", caplog.text)
    assert len(set(ended)) >= len(ways), caplog.text[-3000:]
    for deployed in parties.values():
        deployed.stop()
    for _ in ways:
        tried.count("parties that stop half-way", "refused")


@pytest.mark.parametrize("party", ["model-owner", "data-owner"])
def test_half_of_a_coordination_message_and_silence_ends_the_session(pair, small_model, monkeypatch, party):
    """The connection stays open; the other runner gives it up, and both agree on a session again."""
    parties, client = pair()
    for deployed in parties.values():
        deployed.wait_ready()
    assert _ask(client, small_model) == 200
    epoch, silent = parties["data-owner"].epoch, set()
    send = channel.Wire.send

    async def send_half(self, message):
        ours = asyncio.get_running_loop() is parties[party].loop
        if ours and not silent and isinstance(message, Heartbeat):
            silent.add(self)
            self.writer.write(b"\0\0\0\x40" + bytes(32))
        elif self not in silent:
            await send(self, message)

    monkeypatch.setattr(channel.Wire, "send", send_half)
    parties["data-owner"].wait_until(lambda: parties["data-owner"].epoch > epoch, 60)
    assert silent
    while _ask(client, small_model) != 200:
        pass
