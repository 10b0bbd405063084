"""What a benchmark run writes down: a flat list of records, one a measured number."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from secure_runner.protocols import PROTOCOLS

__all__ = ["RESULTS", "TRUST", "Record", "merge", "read_records", "write_records"]

RESULTS = Path(__file__).resolve().parent / "results"

TRUST = {name: protocol.trust for name, protocol in PROTOCOLS.items()} | {
    "semi2k-tfp": "Insecure: rank 0 makes the randomness and can unmask. A floor to compare with.",
    "crypten": "Insecure as measured: rank 0 makes the randomness and can unmask.",
    "concrete": "Homomorphic encryption: the server computes alone, in plain sight of the weights.",
    "plain": "None: no privacy.",
}
"""Who must be trusted, for each way of computing that a record can name."""


class Record(BaseModel):
    """One measured number and, where there is one, what it is compared with in the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    suite: str
    protocol: str
    batch: int = Field(ge=0)
    """Rows of one request or run; 0 where rows have no part in it."""
    value: float | None
    """None where the suite could not run; ``detail`` says why."""
    unit: str
    baseline: float | None = None
    """The same quantity of what it is compared with, in ``unit``."""
    ratio: float | None = None
    """``value / baseline``."""
    n: int = Field(ge=0)
    """Measurements behind ``value``."""
    trust: str | None = None
    detail: dict[str, Any] = {}

    @classmethod
    def of(
        cls,
        name: str,
        *,
        suite: str,
        protocol: str,
        batch: int,
        value: float | None,
        unit: str,
        n: int,
        baseline: float | None = None,
        **detail: Any,
    ) -> Record:
        """A record with its ratio, the trust model of its protocol, the time and the machine's load."""
        ratio = None if value is None or not baseline else round(value / baseline, 4)
        noted = {"measured_at": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()), "load_1min": _load()}
        return cls(
            name=name,
            suite=suite,
            protocol=protocol,
            batch=batch,
            value=None if value is None else round(value, 4),
            unit=unit,
            baseline=None if baseline is None else round(baseline, 4),
            ratio=ratio,
            n=n,
            trust=TRUST.get(protocol),
            detail={**detail, **noted},
        )


def merge(old: Iterable[Record], new: Iterable[Record], suites: Iterable[str]) -> list[Record]:
    """The records of one run, and the old ones of the suites that it left out."""
    measured = set(suites)
    return [record for record in old if record.suite not in measured] + list(new)


def read_records(path: Path) -> list[Record]:
    """Records of a file; none if it is not there."""
    if not path.exists():
        return []
    return [Record.model_validate(item) for item in json.loads(path.read_text())]


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records as one JSON list, a record a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(record.model_dump_json() for record in records)
    path.write_text(f"[\n{lines}\n]\n")


def _load() -> float:
    return round(os.getloadavg()[0], 2)
