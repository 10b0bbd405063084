"""Reads docs/deploy.md and follows it to the letter, on the host that each block names."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from organisations import ROOT, Network, Organisation

__all__ = ["Block", "Followed", "page_blocks", "section_blocks", "write_model"]

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
    """0 outside of numbered sections."""
    head: str
    """Its first line, without the comment sign: on whose machine, and when."""
    body: str


def section_blocks(title: str) -> list[Block]:
    """The blocks of one section of the page."""
    return list(_blocks(_sections()[title]))


def page_blocks(protocol: str) -> list[Block]:
    """The blocks that the page has for a protocol, in the order in which they are followed."""
    sections = _sections()
    main = [b for title, part in sections.items() if title[0].isdigit() for b in _blocks(part)]
    if protocol == "cheetah":
        return main
    (variant,) = (part for title, part in sections.items() if title.endswith(f"`{protocol}`"))
    return _with_variant(main, list(_blocks(variant)))


def _sections() -> dict[str, str]:
    text = PAGE.read_text()
    titles = list(_SECTION.finditer(text))
    ends = [title.start() for title in titles[1:]] + [len(text)]
    return {title["title"]: text[title.start() : end] for title, end in zip(titles, ends, strict=True)}


def _blocks(section: str) -> Iterator[Block]:
    steps = list(_STEP.finditer(section))
    for block in _BLOCK.finditer(section):
        step = [0, *(int(s["number"]) for s in steps if s.start() < block.start())][-1]
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
    change: Callable[[Block], str] = lambda block: block.body
    """What becomes of the page's blocks, for those who follow it less literally."""
    printed: dict[str, list[str]] = field(default_factory=dict)
    """Host → what each of its scripts printed."""

    @classmethod
    def make(
        cls, protocol: str, network: Network, directory: Path, widths: Sequence[int] = (6, 8, 2)
    ) -> Followed:
        """The hosts that the page speaks of, each with this project; Alice has her model."""
        parties = {}
        for name in ("alice", "bob", *_THIRD_PARTY[protocol]):
            network.add_host(name, _HOSTS[name], mbit_per_s=100)
            parties[name] = Organisation(name, network, directory / name)
        network.add_client("application", of="bob", addresses=_BOBS_OWN_NETWORK)
        application = Organisation("application", network, directory / "application")
        for party in parties.values():
            (party.directory / "secure-runner").symlink_to(ROOT)
        weights = write_model(parties["alice"].directory / "credit.onnx", widths)
        return cls(protocol, network, parties, application, weights)

    @property
    def everyone(self) -> dict[str, Organisation]:
        """Host → its organisation, Bob's application among them."""
        return {**self.parties, "application": self.application}

    def follow(self, section: str | None = None) -> None:
        """Run every block, or every one of a section, on the host that its first line names."""
        for block in page_blocks(self.protocol) if section is None else section_blocks(section):
            self._follow(block)

    def _follow(self, block: Block) -> None:
        host, _, how = block.head.partition(", ")
        body = self.change(block)
        if " → " in host:
            sender, receiver = host.split(" → ")
            for file in body.split():
                target = self.everyone[receiver].directory / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self.everyone[sender].directory / file, target)
        elif ": " in host:
            host, file = host.split(": ")
            (self.everyone[host].directory / file).write_text(body)
        elif how == "keeps running":
            self.everyone[host].serve_script(body)
        else:
            if how:
                awaited = how.removeprefix("once ").removesuffix(" is ready")
                self.everyone[awaited].wait_until_ready()
            self.printed.setdefault(host, []).append(self.everyone[host].script(body))

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
        values = np.asarray(rows, np.float32)
        for weight in self.weights[:-1]:
            values = np.maximum(values @ weight, 0)
        return values @ self.weights[-1]


def write_model(path: Path, widths: Sequence[int]) -> list[np.ndarray]:
    """A network of dense layers with distinctive weights, and ReLU between them."""
    random = np.random.default_rng(20)
    shapes = list(itertools.pairwise(widths))
    weights = [(random.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32) for shape in shapes]
    nodes, value = [], "x"
    for index in range(len(weights)):
        last = index == len(weights) - 1
        product = "y" if last else f"product{index}"
        nodes.append(helper.make_node("MatMul", [value, f"w{index}"], [product]))
        if not last:
            value = f"hidden{index}"
            nodes.append(helper.make_node("Relu", [product], [value]))
    graph = helper.make_graph(
        nodes,
        "credit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", widths[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", widths[-1]])],
        [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), str(path))
    return weights
