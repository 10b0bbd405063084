"""A small ONNX model, packaged and served with BentoML's own commands, in a model store of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[3]
PACKED = ("bentos", "converters", "secure_runner")

_IMPORT = """
import json, sys
import secure_runner
from converters import from_onnx
saved = secure_runner.save_model("e2e", from_onnx(sys.argv[1]), batch_sizes=(1, 8))
print(json.dumps([saved.program, saved.params]))
"""


@dataclass(frozen=True)
class Model:
    """An ONNX file, and what onnxruntime says of rows."""

    path: Path

    def expected(self, rows: np.ndarray) -> np.ndarray:
        """Plaintext predictions."""
        session = onnxruntime.InferenceSession(self.path.read_bytes())
        return np.asarray(session.run(None, {"x": rows.astype(np.float32)})[0])


@dataclass
class Server:
    """A running ``bentoml serve``, in a process group of its own."""

    process: subprocess.Popen[bytes]
    url: str
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def children(self) -> list[psutil.Process]:
        """Every process below the server."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def parties(self) -> list[psutil.Process]:
        """Party processes, standing by or in session, oldest first."""
        found = [child for child in self.children() if "secure_runner.party" in _command(child)]
        return sorted(found, key=lambda child: child.create_time())

    def in_session(self) -> dict[str, psutil.Process]:
        """Party → its process in session: its oldest; all others wait."""
        return {party: processes[0] for party, processes in self.by_party().items()}

    def by_party(self) -> dict[str, list[psutil.Process]]:
        """Party → all its processes, oldest first."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self.parties():
            command = _command(process)
            found.setdefault(command[command.index("secure_runner.party") + 1], []).append(process)
        return found

    def runners(self) -> list[psutil.Process]:
        """The runner that serves, and the one that stands by with a process of each party."""
        found = {parent for party in self.parties() if (parent := party.parent()) is not None}
        return sorted(found, key=lambda runner: runner.create_time())

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 240) -> None:
        """Poll; fails with the end of the log."""
        until = time.monotonic() + timeout_s
        while not condition():
            tail = "\n".join(self.log.splitlines()[-15:])
            assert time.monotonic() < until, f"not so within {timeout_s} s; the log ends:\n{tail}"
            time.sleep(0.1)

    def predict(self, rows: np.ndarray) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"inputs": rows.tolist()}, timeout=60)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="package")
def workplace(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bento")


@pytest.fixture(scope="package")
def environment(workplace) -> dict[str, str]:
    home = workplace / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECURE_RUNNER_")}
    return kept | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}


@pytest.fixture(scope="package")
def model(workplace) -> Model:
    draw = np.random.default_rng(5)
    weights = {"w1": (6, 8), "b1": (8,), "w2": (8, 2), "b2": (2,)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["y"]),
        ],
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(draw.normal(size=shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = workplace / "model.onnx"
    onnx.save(made, path)
    return Model(path)


@pytest.fixture(scope="package")
def saved(model, environment) -> tuple[str, str]:
    """Tags of program and params in the model store."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, str(model.path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    program, params = json.loads(done.stdout.splitlines()[-1])
    return program, params


@pytest.fixture(scope="package")
def bento(saved, environment, workplace) -> str:
    """The tag of a Bento that was built in a project with keys and secrets lying about."""
    project = workplace / "project"
    for package in PACKED:
        shutil.copytree(ROOT / package, project / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("bentofile.yaml", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / file, project)
    for secret in (".env", "certs/x.key", "secure_runner/x.key", "bentos/.env", "bentos/x.pem", "http.yaml"):
        (project / secret).parent.mkdir(exist_ok=True)
        (project / secret).write_text("planted-secret")
    command = [sys.executable, "-m", "bentoml", "build", "--arg", f"model={saved[0]}", "-o", "tag"]
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().rpartition("__tag__:")[2]


@pytest.fixture(scope="package")
def exported(bento, environment, workplace) -> Path:
    """The Bento as a folder of its own, outside any store."""
    target = workplace / "exported"
    archive = workplace / "exported.tar"
    command = [sys.executable, "-m", "bentoml", "export", bento, str(archive)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.unpack_archive(next(workplace.glob("exported.tar*")), target, format="tar")
    return target


@pytest.fixture(scope="package")
def serve(environment, workplace) -> Iterator[Callable[..., Server]]:
    """Starts servers; whatever is left of them afterwards is killed."""
    started: list[Server] = []

    def start(bento: str, home: Path | None = None) -> Server:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        changed = environment if home is None else environment | {"BENTOML_HOME": str(home)}
        log_file = workplace / f"log-{len(started)}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--timeout-graceful-shutdown", "5"]
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve", bento, *options],
                cwd=workplace,
                env=changed,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(Server(process, f"http://127.0.0.1:{port}", log_file))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            left = server.children()
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            for process in psutil.wait_procs(left, timeout=3)[1]:
                process.kill()
