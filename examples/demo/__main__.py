"""``make demo``: three models, end to end, with the real protocol between separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from converters import apply_steps
from examples.demo import memory, serving
from examples.demo.models import MODELS, DemoModel

console = Console(width=118)
_LARGEST_ERROR = 1e-2
_BATCH = 32
_STRETCHES = 32


@dataclass(frozen=True)
class Outcome:
    """What one model's run showed."""

    demo: DemoModel
    secure: np.ndarray
    p50_s: float
    batch_s: float
    seen: dict[str, dict[str, str]]
    """Party → what was found in its memory."""

    @property
    def error(self) -> float:
        """Largest absolute difference of a probability."""
        return float(np.abs(self.secure - self.demo.plaintext).max())

    @property
    def agreement(self) -> float:
        """Share of rows with the same label."""
        return float((self.secure.argmax(1) == self.demo.plaintext.argmax(1)).mean())

    @property
    def problems(self) -> list[str]:
        """What was not as promised."""
        found = []
        if self.error > _LARGEST_ERROR:
            found.append(f"{self.demo.name}: error {self.error:.2g} is above {_LARGEST_ERROR:g}")
        if self.agreement < self.demo.least_agreement:
            found.append(f"{self.demo.name}: labels agree on {self.agreement:.1%} of rows only")
        for party, seen in self.seen.items():
            if seen["features"] == "yes" and party != "data-owner":
                found.append(f"{self.demo.name}: {party} holds plaintext features")
            if seen["weights"] == "yes" and party != "model-owner":
                found.append(f"{self.demo.name}: {party} holds plaintext weights")
        return found


def main() -> int:
    """Run the demo; 0 if everything was as promised."""
    with tempfile.TemporaryDirectory(prefix="secure-runner-demo-") as directory:
        home = Path(directory)
        os.environ.update(serving.environment_of(home / "bentoml"))
        (home / "bentoml").mkdir()
        outcomes = [run(make(), home) for make in MODELS]
    console.print(predictions_table(outcomes))
    console.print(sight_table(outcomes))
    problems = [problem for outcome in outcomes for problem in outcome.problems]
    if problems:
        print(f"demo: FAILED, {'; '.join(problems)}")
        return 1
    rows = sum(len(outcome.secure) for outcome in outcomes)
    error = max(outcome.error for outcome in outcomes)
    print(f"demo: OK, {len(outcomes)} models, {rows} private predictions, largest error {error:.1e}")
    return 0


def run(demo: DemoModel, home: Path) -> Outcome:
    """One model from import to answers."""
    # The store's place is read from the environment when BentoML is first imported.
    from secure_runner import save_model

    with console.status(f"{demo.name}: compiling for SPU") as status:
        saved = save_model(demo.name, demo.model)
        status.update(f"{demo.name}: bentoml build")
        bento = serving.build(saved.program, os.environ)
        status.update(f"{demo.name}: bentoml serve {bento}, waiting for the session")
        log = home / f"{demo.name}.log"
        with serving.serve(bento, os.environ, log) as (url, server):
            status.update(f"{demo.name}: {len(demo.rows)} rows over HTTP")
            answers = ask(url, demo.rows, home)
            status.update(f"{demo.name}: looking into the memory of each party")
            seen = look(serving.parties_of(server), demo)
    console.print(f"{demo.name}: {saved.program} → {bento}, served, answered, stopped")
    secure = np.concatenate([rows_of(answer, demo.probabilities) for answer in answers["answers"]])
    return Outcome(demo, secure, answers["p50_s"], answers["batch_s"], seen)


def ask(url: str, rows: np.ndarray, home: Path) -> dict[str, Any]:
    """Have the client process send the rows."""
    np.save(home / "rows.npy", rows)
    command = [
        sys.executable,
        "-m",
        "examples.demo.client",
        url,
        str(home / "rows.npy"),
        str(home / "answers.json"),
    ]
    subprocess.run(command, cwd=serving.ROOT, check=True)
    result: dict[str, Any] = json.loads((home / "answers.json").read_text())
    return result


def rows_of(answer: Any, name: str) -> np.ndarray:
    """Probabilities of one answer: models with one output answer a list, others a dict."""
    return np.asarray(answer[name] if isinstance(answer, dict) else answer)


def look(parties: dict[str, int], demo: DemoModel) -> dict[str, dict[str, str]]:
    """Search each party's memory for stretches of the rows that were sent, and of the trained values."""
    rows = demo.rows[_BATCH:]
    # The data owner may scale features before it shares them: then these are what must stay with it.
    encoded = apply_steps(demo.model.encode, {demo.model.inputs[0].name: rows})
    needles = {
        "features": stretches(rows, *encoded.values()),
        "weights": stretches(*demo.model.params.values()),
    }
    seen = {}
    for party, pid in parties.items():
        try:
            held = memory.found(pid, needles)
            found = {what: "yes" if what in held else "no" for what in needles}
        except PermissionError:
            found = dict.fromkeys(needles, "not permitted to look")
        seen[party] = found | {"pid": str(pid)}
    return seen


def stretches(*arrays: np.ndarray) -> list[bytes]:
    """Eight consecutive float32 values from many places of the arrays, as bytes; all-zero ones left out."""
    found = []
    for array in arrays:
        flat = np.ascontiguousarray(array, np.float32).ravel()
        usable = [
            flat[at : at + 8] for at in range(0, len(flat) - 7, 8) if np.count_nonzero(flat[at : at + 8]) > 6
        ]
        found += [stretch.tobytes() for stretch in usable[:: max(1, len(usable) // _STRETCHES)]]
    return found


def predictions_table(outcomes: list[Outcome]) -> Table:
    """Plaintext beside secure."""
    table = Table(title="64 held-back rows each, sent over HTTP by a separate client process")
    for column in (
        "model",
        "plaintext, row 1",
        "secure, row 1",
        "largest error",
        "labels agree",
        "p50, 1 row",
        "32 rows",
    ):
        table.add_column(column, justify="left" if column == "model" else "right")
    for outcome in outcomes:
        best = int(outcome.demo.plaintext[0].argmax())
        table.add_row(
            outcome.demo.name,
            f"class {best}: {outcome.demo.plaintext[0, best]:.5f}",
            f"class {int(outcome.secure[0].argmax())}: {outcome.secure[0, best]:.5f}",
            f"{outcome.error:.1e}",
            f"{outcome.agreement:.1%}",
            f"{outcome.p50_s * 1000:.0f} ms",
            f"{outcome.batch_s * 1000:.0f} ms",
        )
    return table


def sight_table(outcomes: list[Outcome]) -> Table:
    """Which process saw what."""
    table = Table(title="Who saw what: plaintext found in the memory of each party's process")
    for column in ("model", "party", "process", "features", "weights"):
        table.add_column(column)
    for outcome in outcomes:
        for party, seen in outcome.seen.items():
            table.add_row(outcome.demo.name, party, seen["pid"], seen["features"], seen["weights"])
    return table


if __name__ == "__main__":
    sys.exit(main())
