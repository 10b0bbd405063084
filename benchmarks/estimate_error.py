"""Fit the times of estimates to runs, hold estimates against these, and write ``docs/estimate.md``.

``python -m benchmarks.estimate_error``, after ``benchmarks.estimate_runs``; with ``--fit`` it writes
``secure_runner/programs/time_table.py`` instead.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.estimate_runs import MODELS, EstimateRun, read_runs
from secure_runner.programs.estimate import Estimate, Network, estimate
from secure_runner.programs.time_table import TIMES, Times
from secure_runner.protocols import PROTOCOLS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "estimate.md"
TABLE = ROOT / "secure_runner" / "programs" / "time_table.py"
NOWHERE = Network("this machine", 0.0, float("inf"))
CIPHERTEXT_TIMES = ("exchanged_s", "multiplied_s", "switch_s")
"""Those that :mod:`benchmarks.packing` fits."""
_FITTED = ("run_s", "message_s", "byte_s", "dot_byte_s", "product_s", "moved_s")
Key = tuple[str, str, int]


def _estimates(runs: Sequence[EstimateRun]) -> dict[Key, Estimate]:
    models = {model: make() for model, make in MODELS.items()}
    return {
        (run.model, run.protocol, run.batch): estimate(
            models[run.model], protocol=run.protocol, batch_size=run.batch
        )
        for run in runs
    }


def _fit(runs: Sequence[EstimateRun], found: Mapping[Key, Estimate]) -> dict[str, Times]:
    """Times of each protocol: least relative squares, none below 0. Those of ciphertexts keep their
    proportions: served programs pack where it costs little, so their runs say nothing of the other way."""
    from scipy.optimize import nnls

    table = {}
    for protocol in dict.fromkeys(run.protocol for run in runs):
        mine = [run for run in runs if run.protocol == protocol]
        priced = [found[run.model, run.protocol, run.batch] for run in mine]
        known = TIMES[protocol]._replace(**dict.fromkeys(_FITTED, 0.0))
        columns = np.array([(*_features(one), one.compute_s_at(known)) for one in priced], float)
        taken = np.array([run.run_ms / 1000 for run in mine])
        (*weights, stretch), _ = nnls(columns / taken[:, None], np.ones(len(mine)))
        messages = np.array([one.messages for one in priced], float)
        relative = messages / np.array([run.rounds for run in mine])
        share = float(relative.sum() / (relative**2).sum())
        times = dict(zip(_FITTED, weights, strict=True))
        times |= {name: stretch * getattr(known, name) for name in CIPHERTEXT_TIMES}
        rounded = {name: float(f"{seconds:.3g}") for name, seconds in times.items()}
        table[protocol] = known._replace(**rounded, rounds=round(share, 3))
    return table


def _features(priced: Estimate) -> tuple[float, ...]:
    products, moved = (sum(getattr(op, name) for op in priced.ops) for name in ("products", "moved"))
    if PROTOCOLS[priced.protocol].homomorphic_products:
        products = 0
    return 1, priced.messages, priced.other_bytes, priced.dot_bytes, products, moved


def write_times(table: Mapping[str, Times]) -> None:
    """Replace the table of times."""
    head, _, _ = TABLE.read_text().partition("TIMES: ")
    rows = "\n".join(f'    "{name}": Times({", ".join(map(str, row))}),' for name, row in table.items())
    TABLE.write_text(f"{head}TIMES: dict[str, Times] = {{\n{rows}\n}}\n")


def _off(estimated: float, measured: float) -> float:
    return estimated / measured - 1 if measured else 0.0


def _page(runs: Sequence[EstimateRun], found: Mapping[Key, Estimate]) -> str:
    rows, errors = [], dict[str, list[tuple[float, float, float]]]()
    for run in runs:
        priced = found[run.model, run.protocol, run.batch]
        milliseconds = priced.seconds(NOWHERE) * 1000
        off = (
            _off(priced.sent_bytes, run.sent_bytes),
            _off(priced.rounds, run.rounds),
            _off(milliseconds, run.run_ms),
        )
        errors.setdefault(run.protocol, []).append(off)
        cells = (
            run.model,
            run.protocol,
            f"{run.batch}",
            f"{priced.sent_bytes / 1000:,.0f}",
            f"{run.sent_bytes / 1000:,.0f}",
            f"{off[0]:+.0%}",
            f"{priced.rounds:,}",
            f"{run.rounds:,.0f}",
            f"{off[1]:+.0%}",
            f"{milliseconds:,.0f}",
            f"{run.run_ms:,.0f}",
            f"{off[2]:+.0%}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    summary = [_summary(protocol, np.abs(each)) for protocol, each in errors.items()]
    return _HEADING + "\n".join(summary) + _TABLE + "\n".join(rows) + "\n"


def _summary(protocol: str, errors: np.ndarray) -> str:
    cells = [f"{np.median(column):.0%} / {column.max():.0%}" for column in errors.T]
    within = [f"{(column <= 0.25).sum()} of {len(column)}" for column in errors.T]
    return f"| {protocol} | {' | '.join(f'{c}; {w}' for c, w in zip(cells, within, strict=True))} |"


_HEADING = """# What a model will cost

`secure-runner estimate MODEL` reads the lowered program and prices each operation from a table of measured
costs: nothing is compiled. Bytes are those that one party sends in one run of one batch; rounds are the round
trips that a run waits for; milliseconds are those of a run with no network between the parties, to which an
estimate for a network adds rounds and transfer. This page holds estimates against runs:

```
python benchmarks/fit_costs.py               # bytes and messages of each operation
python -m benchmarks.packing --fit           # what ciphertexts take
python -m benchmarks.estimate_runs           # the runs
python -m benchmarks.estimate_error --fit    # what messages, bytes and products take
python -m benchmarks.estimate_error          # this page
```

Runs are of bare SPU runtimes, a process for each party, all on one machine of two cores; semi2k without
a dealer (randomness from rank 0: insecure, a floor), aby3 with three parties of which no two may collude,
cheetah with two and nobody else. Bytes are counted between the parties, framing included; rounds are what a
round trip of 20 ms adds to a run, divided by it. The milliseconds are right for the machine of the fit, on
these models: for other machines, `secure-runner estimate --measured-ms` scales them to a run timed there.

With cheetah, features and params stay with their owners, and what one owner computes from its own values
alone is free. Bytes are the average of both parties. Matrix products are homomorphic: their cost goes by
ciphertexts, which `secure_runner/programs/ciphertexts.py` counts as SPU does. Their answers can be packed,
which sends less and computes more; an executable is built for the way that its estimate says is faster on a
LAN of 1 Gbit/s, and the runs here are of that.

Errors of the estimates, median / largest, and how many are within 25 %:

| protocol | bytes | rounds | milliseconds |
|---|---|---|---|
"""
_COLUMNS = "model|protocol|batch|kB, estimated|run|off|rounds, estimated|run|off|ms, estimated|run|off"
_TABLE = f"\n\n| {' | '.join(_COLUMNS.split('|'))} |\n{'|---' * 12}|\n"


def main(words: Sequence[str]) -> None:
    """Fit where asked to, and write the page."""
    warnings.simplefilter("ignore")
    runs = read_runs()
    found = _estimates(runs)
    if "--fit" in words:
        write_times(TIMES | _fit(runs, found))
        return  # what was imported has the table of before
    PAGE.write_text(_page(runs, found))


if __name__ == "__main__":
    main(sys.argv[1:])
