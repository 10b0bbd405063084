"""The short form of ``make chaos``: a served Bento of one protocol under load and a handful of faults."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chaos.campaign import Outcome, beset, load_on
from chaos.faults import Host
from chaos.target import Target

from benchmarks.models import mlp
from examples.demo.serving import ROOT, environment_of

pytestmark = pytest.mark.timeout(600)

# Processes that stand by and the service's workers have tests of their own.
_FAULTS = ["kill", "freeze", "kill-dealer", "kill-runner"]
_SEED = 11


# In a process of its own: BentoML reads where its store is when it is first imported.
_BUILD = """
import sys
from pathlib import Path
from benchmarks.models import mlp
from benchmarks.workbench import Workbench
print("tag", Workbench(Path(sys.argv[1]), quick=True).bento(mlp(), "semi2k", (1, 32)))
"""


def test_faults_under_load_cost_time_and_nothing_else(tmp_path):
    """Each fault once under 16 clients: it recovers; no wrong answer, no hang, no orphan, no port left."""
    build = [sys.executable, "-c", _BUILD, str(tmp_path)]
    built = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=True)
    bento = built.stdout.rpartition("tag ")[2].strip()
    model, outcome = mlp(), Outcome("semi2k", "semi2k")
    environment = environment_of(tmp_path / "bentoml")
    target = Target(bento, environment, tmp_path / "serve.log")
    try:
        with load_on(target.url, model, tmp_path, clients=16, deadline_s=30.0) as load:
            beset(
                target,
                load,
                outcome,
                faults=_FAULTS,
                host=Host(),
                chosen=random.Random(_SEED),
                times=len(_FAULTS),
                pause_s=(1.0, 4.0),
                say=print,
            )
        outcome.counts = load.counts()
    finally:
        outcome.leftovers = target.stop()
    assert len(outcome.recoveries) == len(_FAULTS)
    assert outcome.problems == []
