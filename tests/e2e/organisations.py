"""Organisations on hosts of their own: network namespaces, separate directories, nothing shared.

Each organisation has a directory with its own home, BentoML home, temporary files and certificate, a network
namespace with an address on a common switch, and a Bento of its own. A client can be put behind one of them,
where the others cannot reach it. A recorder on the switch sees every packet between organisations.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HTTP_PORT = 3000
_READY_TIMEOUT_S = 240.0


def can_make_hosts() -> bool:
    """Whether this machine lets tests make network namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    probe = f"sr-probe-{secrets.token_hex(2)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return made


@dataclass
class Network:
    """A switch and the hosts on it."""

    name: str = field(default_factory=lambda: f"sr{secrets.token_hex(2)}")
    hosts: dict[str, str] = field(default_factory=dict)
    """Host → address on the switch."""
    inner: dict[str, str] = field(default_factory=dict)
    """Host → address in its organisation's own network, where it has one."""

    def __enter__(self) -> Network:
        self._ip("netns", "add", self._namespace("switch"))
        self._in("switch", "ip", "link", "add", "bridge", "type", "bridge")
        self._in("switch", "ip", "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in {*self.hosts, *self.inner, "switch"}:
            subprocess.run(["ip", "netns", "delete", self._namespace(host)], check=False, capture_output=True)

    def add_host(self, host: str, address: str, *, mbit_per_s: int | None = None) -> None:
        """A new host on the switch."""
        port = f"p{len(self.hosts)}"
        self.hosts[host] = address
        self._add_namespace(host)
        names = ("peer", "name", port, "netns", self._namespace("switch"))
        self._in(host, "ip", "link", "add", "eth0", "type", "veth", *names)
        self._in("switch", "ip", "link", "set", port, "master", "bridge", "up")
        self._bring_up(host, "eth0", address)
        if mbit_per_s is not None:
            shape = ("rate", f"{mbit_per_s}mbit", "burst", "64kb", "latency", "50ms")
            self._in(host, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *shape)

    def add_router(self, router: str, addresses: Sequence[str]) -> None:
        """A new host on the switch with several addresses of a network of its own, which all hosts reach."""
        reached, routed = self._subnet(addresses[0]), dict(self.hosts)
        self.add_host(router, addresses[0])
        for address in addresses[1:]:
            self._in(router, "ip", "address", "add", f"{address}/24", "dev", "eth0")
        for host, address in routed.items():
            self._in(host, "ip", "route", "add", reached, "dev", "eth0")
            self._in(router, "ip", "route", "replace", self._subnet(address), "dev", "eth0")

    def add_client(self, client: str, *, of: str, addresses: Mapping[str, str]) -> None:
        """A new host that reaches nothing but the host ``of``, over a line of their own; both's addresses."""
        self.inner |= addresses
        self._add_namespace(client)
        names = ("peer", "name", "eth1", "netns", self._namespace(of))
        self._in(client, "ip", "link", "add", "eth1", "type", "veth", *names)
        for host in (client, of):
            self._bring_up(host, "eth1", addresses[host])

    def command(self, host: str, *command: str) -> list[str]:
        """The command, run on the host."""
        return ["ip", "netns", "exec", self._namespace(host), *command]

    def _add_namespace(self, host: str) -> None:
        self._ip("netns", "add", self._namespace(host))
        self._in(host, "ip", "link", "set", "lo", "up")

    def _bring_up(self, host: str, device: str, address: str) -> None:
        self._in(host, "ip", "address", "add", f"{address}/24", "dev", device)
        self._in(host, "ip", "link", "set", device, "up")

    @staticmethod
    def _subnet(address: str) -> str:
        return f"{address.rpartition('.')[0]}.0/24"

    def _in(self, host: str, *command: str) -> None:
        subprocess.run(self.command(host, *command), check=True, capture_output=True)

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def _namespace(self, host: str) -> str:
        return f"{self.name}-{host}"


@dataclass
class Organisation:
    """One party's people, machine and directory."""

    name: str
    network: Network
    directory: Path
    environment: dict[str, str] = field(default_factory=dict)
    server: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        (self.directory / "bentoml").mkdir(parents=True)
        (self.directory / "tmp").mkdir()
        self.environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.directory),
            "BENTOML_HOME": str(self.directory / "bentoml"),
            "TMPDIR": str(self.directory / "tmp"),
            "BENTOML_DO_NOT_TRACK": "True",
        }

    @property
    def log(self) -> str:
        """What its server has said."""
        return (self.directory / "serve.log").read_text(errors="replace")

    @property
    def url(self) -> str:
        """Where its service is: in its own network, if it has one."""
        address = self.network.inner.get(self.name) or self.network.hosts[self.name]
        return f"http://{address}:{HTTP_PORT}"

    def script(self, text: str) -> str:
        """Run a script on this organisation's host, in its directory; what it printed."""
        command = self.network.command(self.name, "bash", "-euo", "pipefail", "-c", text)
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}:\n{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def serve_script(self, text: str) -> None:
        """Start a script that ends in serving, on this organisation's host."""
        with (self.directory / "serve.log").open("ab") as log:
            self.server = subprocess.Popen(
                self.network.command(self.name, "bash", "-euo", "pipefail", "-c", text),
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Stop serving."""
        if self.server is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, signal.SIGTERM)
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
        self.server = None

    def wait_until_ready(self, timeout_s: float = _READY_TIMEOUT_S) -> None:
        """Wait for ``/readyz``."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            assert self.server is not None
            assert self.server.poll() is None, self.log[-3000:]
            if self.request("GET", "/readyz")[0] == 200:
                return
            time.sleep(0.5)
        raise AssertionError(f"{self.name} was not ready in {timeout_s} s:\n{self.log[-3000:]}")

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        client: str | None = None,
        headers: Mapping[str, str] = {},
    ) -> tuple[int, str]:
        """One HTTP request to its service, by curl on the host ``client`` (its own by default)."""
        url = f"{self.url}{path}"
        command = ["curl", "-s", "-m", "60", "-X", method, url, "-w", "\n%{http_code}"]
        for name, value in headers.items():
            command += ["-H", f"{name}: {value}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        done = subprocess.run(
            self.network.command(client or self.name, *command), capture_output=True, text=True, check=False
        )
        text, _, status = done.stdout.rpartition("\n")
        return int(status or 0), text


@contextlib.contextmanager
def recorded(network: Network, file: Path) -> Iterator[None]:
    """Record every packet that crosses the switch, as length-prefixed Ethernet frames."""
    command = network.command("switch", sys.executable, str(ROOT / "tests/e2e/record_packets.py"), str(file))
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert recorder.stdout is not None
    recorder.stdout.readline()
    try:
        yield
    finally:
        recorder.terminate()
        recorder.wait()
