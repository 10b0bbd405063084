"""A data owner's party that deviates over the link: the model owner's ends, and the next session serves.

The party runs this project's code with one message replaced. Its runner is honest.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from secure_runner.errors import UnavailableError
from secure_runner.sessions import process

ATOL = 1e-3
_DEVIATIONS = (
    "noise",
    "truncated",
    "too few shares",
    "wrong shape",
    "other batch size",
    "repeated",
    "result instead of inputs",
)


def test_what_is_no_message_ends_the_session_and_nothing_else(
    deploy, small_model, monkeypatch, tmp_path, caplog
):
    """Each session meets a deviation: no answer is wrong, and an honest session serves at last.

    The model owner's party ends by itself each time, and says where: at the link or in the run.
    """
    start, numbers = subprocess.Popen, itertools.count()

    def popen(command, **options):
        if "data-owner" in command and (number := next(numbers)) < len(_DEVIATIONS):
            script = str(Path(__file__).with_name("deviating_party.py"))
            done = str(tmp_path / str(number))
            command = [sys.executable, script, *command[3:], _DEVIATIONS[number], done]
        return start(command, **options)

    monkeypatch.setattr(process.subprocess, "Popen", popen)
    deployed = deploy(protocol="semi2k", insecure=True)
    outcomes: Counter[str] = Counter()
    rows = small_model.rows[:3]
    while len(list(tmp_path.iterdir())) < len(_DEVIATIONS) or not outcomes["right after all"]:
        try:
            answer = deployed.submit(rows).result(60)["y"]
        except UnavailableError:
            outcomes["unavailable"] += 1
            continue
        np.testing.assert_allclose(answer, small_model.expected(rows), rtol=0, atol=ATOL)
        all_met = len(list(tmp_path.iterdir())) == len(_DEVIATIONS)
        outcomes["right after all" if all_met else "right"] += 1
    ends = re.findall(r"party model-owner: process \d+ ended \((\w+)\)", caplog.text)
    assert sum(reason in ("link", "run") for reason in ends) == len(_DEVIATIONS), ends
