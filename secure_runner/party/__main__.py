"""Entry of a party process: ``python -m secure_runner.party NAME FD``, started by a runner only.

The name is for people who look at a list of processes; the session says which party this is.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import NoReturn

from secure_runner.frames import Frame, Kind
from secure_runner.lifetime import end_with_parent
from secure_runner.observe.logs import LOG_FORMAT, set_up_logs
from secure_runner.party.exit import FailureCode, end_process, faults_end
from secure_runner.party.pipe import Pipe
from secure_runner.party.secretflow_parts import leave_out_unused_parts
from secure_runner.party.spec import SessionSpec
from secure_runner.party.stages import Stages


def main() -> NoReturn:
    """Import what takes long, say so, wait for the session, serve it, end."""
    stages = Stages()
    end_with_parent()
    # The runner ends this process itself, after the requests in flight: a terminal's Ctrl-C and a server's
    # SIGTERM reach the whole process group and must not get there first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    set_up_logs(os.environ, logging.getLogger(), plain=LOG_FORMAT, fields={"party": sys.argv[1]})
    pipe = Pipe(socket.socket(fileno=int(sys.argv[2])))
    pipe.listen()
    leave_out_unused_parts()
    try:
        import secure_runner.party.cluster  # noqa: F401  # the slow import is the point
    except Exception as error:
        end_process(pipe, FailureCode.PROGRAM, error)
    stages.done("import")
    serve_session(pipe, stages)


def serve_session(pipe: Pipe, stages: Stages) -> NoReturn:
    """Wait for the session's description, then be that party until the end."""
    from secure_runner.party.cluster import run_session
    from secure_runner.programs.files import read_program

    try:
        pipe.send(Frame(Kind.WARM, meta={"pid": os.getpid()}))
        spec = SessionSpec.model_validate(pipe.next_frame().meta)
        stages.waited()
    except Exception as error:
        end_process(pipe, FailureCode.RUNNER, error)
    try:
        manifest = read_program(spec.program_dir)
    except Exception as error:
        end_process(pipe, FailureCode.PROGRAM, error)
    with faults_end(pipe, FailureCode.CLUSTER):
        run_session(spec, manifest, pipe, stages)
    end_process(pipe, FailureCode.LINK, RuntimeError("the session ended"))


if __name__ == "__main__":
    main()
