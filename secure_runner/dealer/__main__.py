"""A dealer as a process of its own: ``python -m secure_runner.dealer``.

The first line on standard input is the configuration (JSON of :class:`DealerConfig`). When the dealer
listens, it writes one line of JSON to standard output: ``{"address": "host:port", "public_key": "…"}``. It
ends when standard input does, which happens when its parent goes away, however that went.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import select
import signal
import sys
import threading
from typing import NoReturn

import orjson
import uvloop
from pydantic import ValidationError

from secure_runner.dealer.config import DealerConfig
from secure_runner.dealer.identity import Identity
from secure_runner.dealer.server import Dealer
from secure_runner.errors import ConfigError

_log = logging.getLogger("secure_runner.dealer")
_PARENT_LOOK_INTERVAL_S = 1.0


def main() -> NoReturn:
    """Read the configuration, serve until standard input ends."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s dealer[%(process)d] %(message)s"
    )
    try:
        config = DealerConfig.model_validate_json(sys.stdin.buffer.readline())
        if config.ignore_signals:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        # A thread of its own: it must end the process even when the event loop hangs.
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        uvloop.run(_serve(config))
    except (ValidationError, ConfigError, OSError) as error:
        sys.exit(f"the dealer cannot start: {error}")
    sys.exit(0)


async def _serve(config: DealerConfig) -> None:
    identity = (
        Identity() if config.identity_key_file is None else Identity.from_file(config.identity_key_file)
    )
    host, port = await Dealer.for_jobs(config, identity).start()
    _log.info("listening on %s:%d, TLS %s", host, port, "off" if config.tls is None else "on")
    # Nothing made so far is ever garbage: collections need not look at it again.
    gc.freeze()
    sys.stdout.buffer.write(
        orjson.dumps({"address": f"{host}:{port}", "public_key": identity.public_key}) + b"\n"
    )
    sys.stdout.flush()
    await asyncio.get_running_loop().create_future()


def _end_with_parent(parent_pid: int) -> None:
    """End when standard input does, or when the parent is gone and something else holds the pipe."""
    while os.getppid() == parent_pid:
        readable, _, _ = select.select([sys.stdin], [], [], _PARENT_LOOK_INTERVAL_S)
        if readable and not os.read(sys.stdin.fileno(), 4096):
            break
    os._exit(0)


if __name__ == "__main__":
    main()
