"""Two parties 40 ms apart, each behind an address and ports that are not those it listens on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.relay import Line, Relay
from secure_runner.cli.doctor import examine
from secure_runner.config import Cluster, PartySettings, embedded_cluster
from secure_runner.config.party import VARIABLES
from secure_runner.sessions.keeper import PartyFiles

pytestmark = pytest.mark.timeout(300)

_ROUND_TRIP_S = 0.040
_BEHIND = "127.0.0.2"
"""Where the relay listens in a party's place."""
_SHIFT = 11
"""From a port that a party listens on to the one at which it is reached."""


def _mapped() -> dict[str, Any]:
    """Parties as the embedded cluster has them, reached at other addresses and ports."""
    parties = embedded_cluster("cheetah").model_dump()["parties"]
    return {
        name: party
        | {
            "address": _BEHIND,
            "port": party["port"] + _SHIFT,
            "listen_host": "127.0.0.1",
            "listen_port": party["port"],
        }
        for name, party in parties.items()
    }


def _lines(cluster: Cluster) -> list[Line]:
    """One for every port of every party."""
    return [
        Line(_BEHIND, party.port + offset, *party.listen._replace(port=party.listen.port + offset))
        for party in cluster.parties.values()
        for offset in range(cluster.port_count)
    ]


@pytest.fixture
def relay(tls_cluster: Callable[..., Any]) -> Iterator[tuple[Any, Relay]]:
    """The cluster, and the relay between its parties."""
    made = tls_cluster("cheetah", parties=_mapped())
    with Relay(_lines(made.cluster)) as running:
        running.set_round_trip(_ROUND_TRIP_S)
        yield made, running


def test_answers_are_right_and_doctor_says_how_long_the_line_is(
    relay: tuple[Any, Relay], deploy: Callable[..., Any], small_files: PartyFiles, small_model: Any
) -> None:
    """Over the relay alone: every connection of the session crosses it."""
    made, running = relay
    deploy(settings=made.settings["model-owner"], wait=False)
    program = PartyFiles(small_files.program_dir, None)
    data_owner = deploy(files=program, settings=made.settings["data-owner"])
    rows = small_model.rows[:11]
    np.testing.assert_allclose(data_owner.predict(rows), small_model.expected(rows), rtol=0, atol=1e-3)

    findings = asyncio.run(examine(_environment(made.settings["data-owner"], made), None))
    assert [finding for finding in findings if finding.level == "fault"] == []
    (line,) = (finding for finding in findings if finding.subject == "model-owner: line")
    found = re.match(r"round trip ([\d.]+) ms", line.detail)
    assert found is not None
    assert float(found[1]) >= 1000 * _ROUND_TRIP_S

    carried = {line.port: count for line, count in running.carried_bytes().items()}
    lane = {name: made.cluster.ports(name, 0, slot=0) for name in made.cluster.parties}
    links = [carried[port] for ports in lane.values() for port in ports]
    assert carried[made.cluster.coordination("model-owner").port] > 0
    assert sum(link > 0 for link in links) >= len(links) - 1, "each port but that of who connects on the link"


def _environment(settings: PartySettings, made: Any) -> dict[str, str]:
    """What the party's shell has."""
    cluster = made.cluster.model_dump(mode="json", exclude={"embedded"}, exclude_none=True)
    (made.directory / "cluster.yaml").write_text(yaml.safe_dump(cluster))
    values = {field: getattr(settings, field) for field in VARIABLES}
    given = {VARIABLES[field]: str(value) for field, value in values.items() if value is not None}
    return given | {"SECURE_RUNNER_CLUSTER": str(made.directory / "cluster.yaml")}
