"""Fixtures for tests of every kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import itertools
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import trustme

from secure_runner.config import Cluster, PartySettings, embedded_cluster

if TYPE_CHECKING:
    # Slow to import, and not needed by every test.
    from converters import ConvertedModel
    from secure_runner.runner.deployment import Deployment
    from secure_runner.sessions.keeper import PartyFiles


class InputsTried:
    """What suites of hostile and of random input have sent, and what came of it; printed at the end."""

    OUTCOMES = ("taken", "refused", "crashes", "5xx")

    def __init__(self) -> None:
        self.suites: dict[str, Counter[str]] = {}

    def count(self, suite: str, outcome: str) -> None:
        """One input that ended so."""
        assert outcome in self.OUTCOMES
        self.suites.setdefault(suite, Counter())[outcome] += 1

    def status(self, suite: str, status: int) -> None:
        """One request that was answered with this HTTP status."""
        self.count(suite, "5xx" if status >= 500 else "refused" if status >= 400 else "taken")

    def answer(self, suite: str, received: bytes) -> None:
        """One run of bytes that got these bytes, or none, before its connection was closed."""
        status = re.search(rb"HTTP/1.1 (\d{3})", received)
        self.status(suite, int(status[1]) if status else 400)

    @contextlib.contextmanager
    def reading(self, suite: str, refusal: type[Exception] | tuple[type[Exception], ...]) -> Iterator[None]:
        """One input that is read inside: refused if that error is raised, a crash if any other is."""
        outcome = "crashes"
        try:
            yield
            outcome = "taken"
        except refusal:
            outcome = "refused"
            raise
        finally:
            self.count(suite, outcome)


_TRIED = pytest.StashKey[InputsTried]()


def pytest_configure(config: pytest.Config) -> None:
    """Counting starts at nothing."""
    config.stash[_TRIED] = InputsTried()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A table of the inputs tried."""
    suites = config.stash[_TRIED].suites
    if not suites:
        return
    terminalreporter.section("hostile and random inputs")
    columns = ("tried", *InputsTried.OUTCOMES)
    rows = {suite: [found.total(), *(found[o] for o in columns[1:])] for suite, found in suites.items()}
    rows["all"] = [sum(numbers) for numbers in zip(*rows.values(), strict=True)]
    width = max(map(len, rows))
    for name, numbers in {"": columns, **rows}.items():
        terminalreporter.write_line(f"{name:<{width}}" + "".join(f"{number:>10}" for number in numbers))


@pytest.fixture(scope="session")
def tried(request: pytest.FixtureRequest) -> InputsTried:
    """Counts inputs of suites that send many."""
    return request.config.stash[_TRIED]


@dataclass
class TlsCluster:
    """A cluster on loopback with real certificates: one authority, one certificate a party."""

    directory: Path
    cluster: Cluster
    authority: trustme.CA
    settings: dict[str, PartySettings] = field(default_factory=dict)

    def issue(self, name: str, *identities: str, authority: trustme.CA | None = None) -> tuple[Path, Path]:
        """Write ``name.pem`` and ``name.key`` for these alternative names (by default the name)."""
        issued = (authority or self.authority).issue_cert(*(identities or (name,)))
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return certificate, key

    def settings_with(self, party: str, certificate: str, **changes: Any) -> PartySettings:
        """Settings of a party that shows the certificate of that file name."""
        return PartySettings.model_validate(
            {
                **self.settings[party].model_dump(),
                "cluster": self.cluster,
                "tls_certificate_file": self.directory / f"{certificate}.pem",
                "tls_key_file": self.directory / f"{certificate}.key",
                **changes,
            }
        )


def _make_tls_cluster(
    directory: Path, protocol: str = "aby3", /, *, pinned: bool = False, **changes: Any
) -> TlsCluster:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    plain = embedded_cluster(protocol).model_dump() | {"embedded": False, "tls": {"ca_file": "ca.pem"}}
    if pinned:
        plain["tls"] = {}
        for name, party in plain["parties"].items():
            party["certificate_file"] = f"{name}.pem"
    made = TlsCluster(directory, Cluster.model_validate(plain | changes), authority)
    for name in made.cluster.parties:
        certificate, key = made.issue(name)
        made.settings[name] = PartySettings(
            cluster=made.cluster,
            cluster_directory=directory,
            party=name,
            tls_certificate_file=certificate,
            tls_key_file=key,
            dealer_key=base64.b64encode(bytes(32)).decode() if made.cluster.dealer else None,
        )
    return made


@pytest.fixture(scope="session")
def tls_cluster_in() -> Callable[..., TlsCluster]:
    """Makes clusters as ``tls_cluster`` does, in a directory of the caller's."""
    return _make_tls_cluster


@pytest.fixture
def tls_cluster(tmp_path: Path) -> Callable[..., TlsCluster]:
    """Makes clusters on free loopback ports with mutual TLS."""
    return functools.partial(_make_tls_cluster, tmp_path)


@dataclass(frozen=True)
class SmallModel:
    """A perceptron 6-8-2 with a sigmoid, in JAX and in numpy."""

    model: ConvertedModel
    rows: np.ndarray

    @classmethod
    def make(cls, seed: int) -> SmallModel:
        """Weights and 64 rows of features from one seed."""
        from converters import ConvertedModel, TensorSpec

        draw = np.random.default_rng(seed)
        params = {
            "hidden/kernel": draw.normal(size=(6, 8)),
            "hidden/bias": draw.normal(size=8),
            "out/kernel": draw.normal(size=(8, 2)),
            "out/bias": draw.normal(size=2),
        }
        x, y = TensorSpec("x", "float32", (None, 6)), TensorSpec("y", "float32", (None, 2))
        model = ConvertedModel(
            params={name: value.astype(np.float32) for name, value in params.items()},
            inputs=(x,),
            outputs=(y,),
            private_inputs=(x,),
            private_outputs=(y,),
            private_predict=_perceptron,
        )
        return cls(model, draw.normal(scale=2.0, size=(64, 6)).astype(np.float32))

    def expected(self, rows: np.ndarray) -> np.ndarray:
        """The predictions in float64."""
        params = {name: value.astype(np.float64) for name, value in self.model.params.items()}
        hidden = np.maximum(rows @ params["hidden/kernel"] + params["hidden/bias"], 0)
        return 1 / (1 + np.exp(-(hidden @ params["out/kernel"] + params["out/bias"])))

    def save(self, directory: Path) -> PartyFiles:
        """Compile for all protocols and write program and params apart."""
        from secure_runner.programs.build import build_program
        from secure_runner.programs.files import write_program
        from secure_runner.sessions.keeper import PartyFiles

        program, params = directory / "program", directory / "params.npz"
        program.mkdir(parents=True)
        # The transcripts for a dealer come with semi2k; the executables are those of every protocol.
        manifest, files = build_program("small", self.model, protocol="semi2k", batch_sizes=(1, 8))
        write_program(program, manifest, files)
        np.savez(params, **self.model.params)
        return PartyFiles(program, params)


def _perceptron(params: Any, x: Any) -> tuple[Any]:
    import jax

    hidden = jax.numpy.maximum(x @ params["hidden/kernel"] + params["hidden/bias"], 0)
    return (jax.nn.sigmoid(hidden @ params["out/kernel"] + params["out/bias"]),)


class Load:
    """Requests one after the other from several clients, while it is open; every outcome is kept."""

    _PAUSE_S = 0.05
    _ATOL = 1e-3

    def __init__(self, deployed: Deployed, model: SmallModel, clients: int = 4) -> None:
        self.right = self.wrong = 0
        self.errors: list[Exception] = []
        self._deployed, self._model = deployed, model
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(clients)]

    def _ask(self, number: int) -> None:
        draw = np.random.default_rng(number)
        while not self._over.is_set():
            rows = self._model.rows[draw.integers(0, 64, size=draw.integers(1, 12))]
            try:
                answer = self._deployed.predict(rows)
            except Exception as error:
                self.errors.append(error)
                time.sleep(self._PAUSE_S)
                continue
            expected = self._model.expected(rows)
            right = answer.shape == expected.shape and np.allclose(answer, expected, rtol=0, atol=self._ATOL)
            self.right, self.wrong = self.right + right, self.wrong + (not right)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class Deployed:
    """A deployment in an event loop of its own, for tests that are not asynchronous themselves.

    Embedded, unless it is given one party's settings.
    """

    def __init__(self, files: PartyFiles, settings: PartySettings | None = None, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        # Party processes end with the thread that started them: it lives as long as the deployment.
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.deployment: Deployment = self._call(self._make(files, settings, options))

    async def _make(
        self, files: PartyFiles, settings: PartySettings | None, options: dict[str, Any]
    ) -> Deployment:
        from secure_runner.runner.deployment import Deployment

        deployment = Deployment(files, settings, **options)
        await deployment.start()
        return deployment

    def _call(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 180) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout_s)

    def submit(self, rows: np.ndarray, deadline_s: float | None = None) -> Future[dict[str, np.ndarray]]:
        """Ask for predictions; the answer comes later."""
        asked = self.deployment.predict({"x": rows}, client=None, deadline_s=deadline_s)
        return asyncio.run_coroutine_threadsafe(asked, self.loop)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Ask for predictions and wait."""
        return self.submit(rows).result(120)["y"]

    def load(self, model: SmallModel) -> Load:
        """Clients that ask as long as the context is open."""
        return Load(self, model)

    @property
    def ready(self) -> bool:
        """Whether a session serves."""
        return bool(self.deployment.status()["ready"])

    @property
    def epoch(self) -> int:
        """The number of the latest session."""
        return int(self.deployment.status()["lanes"][0]["epoch"])

    @property
    def processes(self) -> dict[str, int]:
        """Party → process id, of the parties in session."""
        return dict(self.deployment.status()["lanes"][0]["processes"])

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Wait until a session serves."""
        self.wait_until(lambda: self.ready, timeout_s)

    @staticmethod
    def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
        """Poll; fails after ``timeout_s``."""
        until = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until, f"not so within {timeout_s} s"
            time.sleep(0.01)

    def stop(self) -> None:
        """End everything; the second time, do nothing."""
        if self.loop.is_closed():
            return
        self._call(self.deployment.stop())
        left = self._call(self._left_running())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
        assert left == []

    async def _left_running(self) -> list[str]:
        """Tasks that have not ended with the deployment."""
        for _ in range(3):
            await asyncio.sleep(0)  # those that are cancelled end in their next turn
        return [repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}]


@pytest.fixture(scope="session")
def small_model() -> SmallModel:
    """The model that tests of sessions serve."""
    return SmallModel.make(seed=1)


@pytest.fixture(scope="session")
def small_files(small_model: SmallModel, tmp_path_factory: pytest.TempPathFactory) -> PartyFiles:
    """Its program and params."""
    return small_model.save(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def tls_pair(
    deploy: Callable[..., Deployed], small_files: PartyFiles, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TlsCluster, dict[str, Deployed]]:
    """Model owner and data owner in session over mutual TLS, with the quickest protocol without a third."""
    directory = tmp_path_factory.mktemp("pair")
    # The parties of cheetah; semi2k without a dealer is insecure, and quicker.
    made = _make_tls_cluster(directory, "cheetah", protocol="semi2k", insecure=True)
    files = {"model-owner": small_files, "data-owner": replace(small_files, params_file=None)}
    parties = {
        name: deploy(files=files[name], settings=settings, wait=False)
        for name, settings in made.settings.items()
    }
    for party in parties.values():
        party.wait_ready()
    return made, parties


@pytest.fixture
def replace_processes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has a party's processes, or the first so many, run a script instead of a party, with arguments after
    those that a party has."""
    from secure_runner.sessions import process

    start = subprocess.Popen

    def begin(party: str, script: Path, *arguments: str, first: int | None = None) -> None:
        more = itertools.repeat(arguments) if first is None else itertools.repeat(arguments, first)

        def popen(command: list[str], **options: Any) -> Any:
            if party in command and (its := next(more, None)) is not None:
                command = [sys.executable, str(script), *command[3:], *its]
            return start(command, **options)

        monkeypatch.setattr(process.subprocess, "Popen", popen)

    return begin


@pytest.fixture(scope="module")
def deploy(small_files: PartyFiles) -> Iterator[Callable[..., Deployed]]:
    """Starts deployments, by default embedded and ready to serve; ends them after the module."""
    made: list[Deployed] = []

    def start(*, files: PartyFiles = small_files, wait: bool = True, **options: Any) -> Deployed:
        made.append(Deployed(files, **options))
        if wait:
            made[-1].wait_ready()
        return made[-1]

    yield start
    for deployed in reversed(made):
        deployed.stop()
