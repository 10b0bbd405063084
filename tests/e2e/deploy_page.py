"""Reads docs/deploy.md and follows it to the letter, on the host that each block names."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from organisations import ROOT, Network, Organisation

__all__ = ["Block", "Followed", "page_blocks", "write_model"]

PAGE = ROOT / "docs/deploy.md"
_BLOCK = re.compile(
    r"^```(?P<language>\w+)\n# (?P<head>[^\n]*)\n(?P<body>.*?)^```$|"
    r"^```text\n(?P<route>[^\n]*)\n(?P<files>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_SECTION = re.compile(r"^## (?P<title>.*)$", re.MULTILINE)
_STEP = re.compile(r"^###? (?P<number>\d)\. .*$", re.MULTILINE)
_HOSTS = {"alice": "10.77.0.10", "bob": "10.77.0.11", "carol": "10.77.0.12", "dora": "10.77.0.12"}
_THIRD_PARTY = {"cheetah": (), "aby3": ("carol",), "semi2k": ("dora",)}
_BOBS_OWN_NETWORK = {"bob": "10.88.0.11", "application": "10.88.0.20"}


@dataclass(frozen=True)
class Block:
    """One block of the page."""

    step: int
    head: str
    """Its first line, without the comment sign: on whose machine, and when."""
    body: str


def page_blocks(protocol: str) -> list[Block]:
    """The blocks that the page has for a protocol, in the order in which they are followed."""
    text = PAGE.read_text()
    titles = list(_SECTION.finditer(text))
    ends = [title.start() for title in titles[1:]] + [len(text)]
    sections = {title["title"]: text[title.start() : end] for title, end in zip(titles, ends, strict=True)}
    main = [b for title, part in sections.items() if title[0].isdigit() for b in _blocks(part)]
    if protocol == "cheetah":
        return main
    (variant,) = (part for title, part in sections.items() if title.endswith(f"`{protocol}`"))
    return _with_variant(main, list(_blocks(variant)))


def _blocks(section: str) -> Iterator[Block]:
    steps = list(_STEP.finditer(section))
    for block in _BLOCK.finditer(section):
        step = [int(s["number"]) for s in steps if s.start() < block.start()][-1]
        yield Block(step, block["head"] or block["route"], block["body"] or block["files"])


def _with_variant(main: list[Block], variant: list[Block]) -> list[Block]:
    """The page's rule: same step and first line take a block's place, others come in addition."""
    replaced = {(b.step, b.head): b for b in variant}
    blocks = [replaced.pop((b.step, b.head), b) for b in main]
    # Stable: what is added to a step comes after what the step had.
    return sorted([*blocks, *replaced.values()], key=lambda block: block.step)


@dataclass
class Followed:
    """The organisations of the page, and what following it left behind."""

    protocol: str
    network: Network
    parties: dict[str, Organisation]
    application: Organisation
    weights: list[np.ndarray]
    printed: dict[str, list[str]] = field(default_factory=dict)
    """Host → what each of its scripts printed."""

    @classmethod
    def make(cls, protocol: str, network: Network, directory: Path) -> Followed:
        """The hosts that the page speaks of, each with this project; Alice has her model."""
        parties = {}
        for name in ("alice", "bob", *_THIRD_PARTY[protocol]):
            network.add_host(name, _HOSTS[name], mbit_per_s=100)
            parties[name] = Organisation(name, network, directory / name)
        network.add_client("application", of="bob", addresses=_BOBS_OWN_NETWORK)
        application = Organisation("application", network, directory / "application")
        for party in parties.values():
            (party.directory / "secure-runner").symlink_to(ROOT)
        weights = write_model(parties["alice"].directory / "credit.onnx")
        return cls(protocol, network, parties, application, weights)

    @property
    def everyone(self) -> dict[str, Organisation]:
        """Host → its organisation, Bob's application among them."""
        return {**self.parties, "application": self.application}

    def follow(self) -> None:
        """Run every block on the host that its first line names."""
        for block in page_blocks(self.protocol):
            self._follow(block)

    def _follow(self, block: Block) -> None:
        host, _, how = block.head.partition(", ")
        if " → " in host:
            sender, receiver = host.split(" → ")
            for file in block.body.split():
                target = self.everyone[receiver].directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.everyone[sender].directory / file, target)
        elif ": " in host:
            host, file = host.split(": ")
            (self.everyone[host].directory / file).write_text(block.body)
        elif how == "keeps running":
            self.everyone[host].serve_script(block.body)
        else:
            if how:
                awaited = how.removeprefix("once ").removesuffix(" is ready")
                self.everyone[awaited].wait_until_ready()
            self.printed.setdefault(host, []).append(self.everyone[host].script(block.body))

    def serve(self, party: str) -> None:
        """Follow the block in which a party serves, again."""
        (block,) = (b for b in page_blocks(self.protocol) if b.head == f"{party}, keeps running")
        self._follow(block)

    def stop(self) -> None:
        """Stop every server."""
        for party in self.parties.values():
            party.stop()

    @property
    def authorization(self) -> dict[str, str]:
        """What Bob's application sends so that it is let in."""
        token = (self.application.directory / "token").read_text().strip()
        return {"Authorization": f"Bearer {token}"}

    def predict(self, rows: list[list[float]]) -> tuple[int, str]:
        """Ask Bob's service from his application's host."""
        return self.parties["bob"].request(
            "POST", "/predict", {"inputs": rows}, client="application", headers=self.authorization
        )

    def plaintext(self, rows: list[list[float]]) -> np.ndarray:
        """What the model says of the rows."""
        first, second = self.weights
        return np.maximum(np.asarray(rows, np.float32) @ first, 0) @ second


def write_model(path: Path) -> list[np.ndarray]:
    """A small network with distinctive weights."""
    random = np.random.default_rng(20)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((6, 8), (8, 2))]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("MatMul", ["positive", "second"], ["y"]),
        ],
        "credit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, ("first", "second"), strict=True)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return weights
