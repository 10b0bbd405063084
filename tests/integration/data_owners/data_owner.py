"""A data owner's runner in a process of its own, to be killed; rows in and predictions out as JSON."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

import numpy as np

from secure_runner.config import PartySettings
from secure_runner.runner.deployment import Deployment, PartyFiles


async def main(program: Path, answers: TextIO) -> None:
    deployment = Deployment(PartyFiles(program, None), PartySettings.from_environment(os.environ))
    await deployment.start()
    while not deployment.status()["ready"]:
        await asyncio.sleep(0.05)
    answers.write("ready\n")
    # Read in a thread; the loop goes on looking after the session.
    while line := await asyncio.to_thread(sys.stdin.readline):
        rows = np.asarray(json.loads(line), np.float32)
        answer = await deployment.predict({"x": rows}, client=None, deadline_s=None)
        answers.write(json.dumps(answer["y"].tolist()) + "\n")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    # A descriptor of its own: SPU's libraries write their logs to standard output.
    with open(int(sys.argv[2]), "w", buffering=1) as answers_to_test:
        asyncio.run(main(Path(sys.argv[1]), answers_to_test))
