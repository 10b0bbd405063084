"""Two data owners of one model owner, with a cluster each: one is killed, the other does not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
import trustme
import yaml

from secure_runner.config import PartySettings, embedded_cluster
from secure_runner.sessions.keeper import PartyFiles

pytestmark = pytest.mark.timeout(900)

ATOL = 1e-3
_DATA_OWNER = Path(__file__).with_name("data_owner.py")
_ROWS = 3


@pytest.fixture(scope="module")
def environment_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], dict[str, str]]:
    """(data owner, party) → the party's environment in the cluster of that data owner, with mutual TLS."""
    directory = tmp_path_factory.mktemp("clusters")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for party in ("lender", "bank-one", "bank-two"):
        issued = authority.issue_cert(party)
        (directory / f"{party}.pem").write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        (directory / f"{party}.key").write_bytes(issued.private_key_pem.bytes())
    for bank in ("bank-one", "bank-two"):
        ports = [party.port for party in embedded_cluster("cheetah").parties.values()]
        address = {"address": "127.0.0.1"}
        cluster = {
            "name": f"credit-{bank}",
            "protocol": "cheetah",
            "parties": {
                "lender": {"role": "model_owner", "port": ports[0], **address},
                bank: {"role": "data_owner", "port": ports[1], **address},
            },
            "tls": {"ca_file": "ca.pem"},
        }
        (directory / f"{bank}.yaml").write_text(yaml.safe_dump(cluster))

    def environment(bank: str, party: str) -> dict[str, str]:
        return {
            "SECURE_RUNNER_CLUSTER": str(directory / f"{bank}.yaml"),
            "SECURE_RUNNER_PARTY": party,
            "SECURE_RUNNER_TLS_CERT": str(directory / f"{party}.pem"),
            "SECURE_RUNNER_TLS_KEY": str(directory / f"{party}.key"),
            "SECURE_RUNNER_AUDIT_DIR": str(directory / f"audit-{party}"),
        }

    return environment


@dataclass
class KilledAndStarted:
    """The second data owner, in a process of its own."""

    environment: dict[str, str]
    program: Path
    process: subprocess.Popen[str] | None = None
    answers: TextIO | None = None

    def start(self) -> None:
        """Start it and wait until its session serves."""
        readable, writable = os.pipe()
        self.answers = os.fdopen(readable)
        self.process = subprocess.Popen(
            [sys.executable, str(_DATA_OWNER), str(self.program), str(writable)],
            env=os.environ | self.environment,
            stdin=subprocess.PIPE,
            pass_fds=[writable],
            text=True,
        )
        os.close(writable)
        assert self._line() == "ready"

    def ask(self, rows: np.ndarray) -> None:
        """Send rows, without waiting for the answer."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(rows.tolist()) + "\n")
        self.process.stdin.flush()

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Send rows and wait."""
        self.ask(rows)
        return np.asarray(json.loads(self._line()))

    def kill(self) -> None:
        """End it as a power failure would; its party process goes with it."""
        assert self.process is not None
        assert self.answers is not None
        self.process.kill()
        self.process.wait()
        self.answers.close()

    def _line(self) -> str:
        assert self.answers is not None
        return self.answers.readline().strip()


@dataclass
class Asking:
    """The first data owner's client: one request after the other, each answer checked."""

    deployed: Any
    model: Any
    right: int = 0
    failures: list[str] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Asking:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _ask(self) -> None:
        draw = np.random.default_rng(8)
        while not self._over.is_set():
            rows = self.model.rows[draw.integers(0, 64, size=_ROWS)]
            try:
                error = np.abs(self.deployed.predict(rows) - self.model.expected(rows)).max()
            except Exception as failure:
                self.failures.append(repr(failure))
                continue
            if error > ATOL:
                self.failures.append(f"off by {error}")
            self.right += 1


@dataclass
class Deployments:
    """The model owner's two, the first data owner's, and the second data owner."""

    lender: dict[str, Any]
    bank_one: Any
    bank_two: KilledAndStarted


@pytest.fixture(scope="module")
def deployments(
    deploy: Callable[..., Any],
    small_files: PartyFiles,
    environment_of: Callable[[str, str], dict[str, str]],
) -> Iterator[Deployments]:
    """All of them, serving."""

    def settings(bank: str, party: str) -> PartySettings | None:
        return PartySettings.from_environment(environment_of(bank, party))

    lender = {
        bank: deploy(settings=settings(bank, "lender"), wait=False) for bank in ("bank-one", "bank-two")
    }
    program = PartyFiles(small_files.program_dir, None)
    bank_one = deploy(files=program, settings=settings("bank-one", "bank-one"))
    bank_two = KilledAndStarted(environment_of("bank-two", "bank-two"), program.program_dir)
    try:
        bank_two.start()
        yield Deployments(lender, bank_one, bank_two)
    finally:
        bank_two.kill()


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_a_data_owner_is_killed_and_the_other_never_notices(
    deployments: Deployments, small_model: Any, times: int
) -> None:
    """Killed with a request under way and started again: both get right answers, and the other all of them.

    The other's session is the same all along, at both its ends.
    """
    one, two, lender = deployments.bank_one, deployments.bank_two, deployments.lender
    before = one.epoch, one.processes, lender["bank-one"].epoch
    with Asking(one, small_model) as asking:
        for turn in range(times):
            rows = small_model.rows[turn : turn + 5]
            np.testing.assert_allclose(two.predict(rows), small_model.expected(rows), rtol=0, atol=ATOL)
            epoch = lender["bank-two"].epoch
            two.ask(rows)
            two.kill()
            lender["bank-two"].wait_until(lambda: not lender["bank-two"].ready, timeout_s=30)
            answered = asking.right
            one.wait_until(lambda answered=answered: asking.right > answered + 2, timeout_s=60)
            two.start()
            # the model owner learns that the session serves by a message: a moment after the data owner
            lender["bank-two"].wait_until(lambda epoch=epoch: lender["bank-two"].epoch > epoch, timeout_s=30)
        rows = small_model.rows[:7]
        np.testing.assert_allclose(two.predict(rows), small_model.expected(rows), rtol=0, atol=ATOL)
    assert asking.failures == []
    assert (one.epoch, one.processes, lender["bank-one"].epoch) == before
