"""A data owner's client, in a process of its own: plain HTTP and JSON, nothing of this project imported.

``python -m examples.demo.client URL ROWS.npy ANSWERS.json``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

_SINGLE_ROWS = 32


def main(url: str, rows_file: str, answers_file: str) -> None:
    """Send half of the rows one by one and the rest as one request; write down answers and latencies."""
    rows = np.load(rows_file)
    latencies_s: list[float] = []
    answers: list[Any] = []
    with httpx.Client(base_url=url, timeout=60) as client:
        for batch in [*(rows[at : at + 1] for at in range(_SINGLE_ROWS)), rows[_SINGLE_ROWS:]]:
            started = time.perf_counter()
            response = client.post("/predict", json={"inputs": batch.tolist()})
            latencies_s.append(time.perf_counter() - started)
            response.raise_for_status()
            answers.append(response.json()["outputs"])
    result = {
        "answers": answers,
        "p50_s": sorted(latencies_s[:-1])[_SINGLE_ROWS // 2],
        "batch_s": latencies_s[-1],
    }
    Path(answers_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:4])
