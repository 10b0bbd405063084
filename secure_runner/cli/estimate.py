"""``secure-runner estimate``: what a model will cost under each protocol, before it is compiled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import click
from rich.console import Console
from rich.table import Table

from secure_runner.protocols import PROTOCOLS, ProtocolName

if TYPE_CHECKING:
    from secure_runner.programs.estimate import Estimate

__all__ = ["estimate"]

_EXAMPLES = """
\b
Examples:
  secure-runner estimate credit.onnx
  secure-runner estimate credit.onnx --protocol aby3 --batch-size 1 --batch-size 64
  secure-runner estimate encoder.onnx --shape ids=?,128 --ops
  secure-runner estimate mymodels.digits:make
  secure-runner estimate credit.onnx --protocol aby3 --batch-size 1 --measured-ms 21
"""


@click.command(epilog=_EXAMPLES)
@click.argument("source")
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice(list(PROTOCOLS)),
    multiple=True,
    help="Repeat; by default all of them.",
)
@click.option(
    "--batch-size", "batch_sizes", type=click.IntRange(1), multiple=True, help="Rows of one run; repeat."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="INPUT=DIMS", help="Shape of an input, ? the batch."
)
@click.option("--ops", is_flag=True, help="List each kind of operation.")
@click.option(
    "--measured-ms",
    type=click.FloatRange(min=0.001),
    help="What a run of the first batch size took on the machines in question, near to each other.",
)
def estimate(
    source: str,
    protocols: Sequence[str],
    batch_sizes: Sequence[int],
    shapes: Sequence[str],
    ops: bool,
    measured_ms: float | None,
) -> None:
    """Convert SOURCE, and say what a run will send and how long it will take on a LAN and a WAN.

    SOURCE is what `secure-runner import` takes. Nothing is compiled and nothing is saved. Bytes and messages
    are those of one party; docs/estimate.md says how far estimates are off. Times are those of the machine
    that they were fitted on, unless --measured-ms says how fast the machines in question are.
    """
    from secure_runner.cli.import_ import convert_source
    from secure_runner.programs.estimate import estimate as estimated

    if measured_ms is not None and len(protocols) != 1:
        raise click.UsageError("--measured-ms is of one protocol: choose it with --protocol")
    console = Console()
    with console.status(f"converting {source}"):
        model = convert_source(source, shapes)
        found = [
            estimated(model, protocol=cast(ProtocolName, protocol), batch_size=size)
            for protocol in protocols or tuple(PROTOCOLS)
            for size in batch_sizes or (1, 32)
        ]
    speed = 1.0 if measured_ms is None else found[0].speed(measured_ms / 1000)
    console.print(_summary(found, speed))
    if ops:
        for entry in found:
            console.print(_by_operation(entry))
    for entry in found:
        console.print(entry.verdict, soft_wrap=True)


def _summary(found: Sequence[Estimate], speed: float) -> Table:
    from secure_runner.programs.estimate import LAN, WAN

    table = Table(box=None)
    for heading in ("protocol", "batch", "kB sent", "messages", "rounds", LAN.name, WAN.name):
        table.add_column(heading, justify="left" if heading == "protocol" else "right")
    for entry in found:
        table.add_row(
            entry.protocol,
            str(entry.batch_size),
            f"{entry.sent_bytes / 1000:,.0f}",
            str(entry.messages),
            str(entry.rounds),
            f"{entry.seconds(LAN, speed) * 1000:,.0f} ms",
            f"{entry.seconds(WAN, speed) * 1000:,.0f} ms",
        )
    return table


def _by_operation(entry: Estimate) -> Table:
    table = Table(title=f"{entry.protocol}, batch {entry.batch_size}", box=None, title_justify="left")
    for heading in ("operation", "calls", "elements", "kB sent", "messages"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for op in entry.ops:
        table.add_row(
            op.kind, str(op.calls), f"{op.elements:,}", f"{op.sent_bytes / 1000:,.1f}", str(op.messages)
        )
    return table
