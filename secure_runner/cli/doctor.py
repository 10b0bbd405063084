"""``secure-runner doctor``: what is wrong with this party's set-up, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secure_runner.config import PartySettings
from secure_runner.doctor.findings import Finding, headline
from secure_runner.doctor.others import ask_own_runner, await_others
from secure_runner.doctor.own import check_certificate, check_ports, check_settings, check_versions
from secure_runner.doctor.peers import check_agreement, check_peer
from secure_runner.sessions.agreement import make_hello

if TYPE_CHECKING:
    from secure_runner.programs.manifest import Manifest
    from secure_runner.sessions.messages import Hello

__all__ = ["doctor"]

_SIGNS = {"good": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]FAULT[/]"}
_EXAMPLES = """
\b
Examples:
  SECURE_RUNNER_CLUSTER=cluster.yaml SECURE_RUNNER_PARTY=bank ... secure-runner doctor
  secure-runner doctor --program credit:latest

Reads the same variables as the runner does.
"""


@click.command(epilog=_EXAMPLES)
@click.option("--program", help="The program to compare: a tag of the model store, or a folder.")
def doctor(program: str | None) -> None:
    """Check this party's set-up and its connections to the others.

    The first line names the first fault; the table below has every check, with a remedy for each fault. Exit
    code 1 if there is a fault. Disturbs no running session.
    """
    manifest = None if program is None else _manifest(program)
    with Console(stderr=True).status("looking at this party and its peers"):
        findings = asyncio.run(examine(dict(os.environ), manifest))
    click.echo(headline(findings))
    Console(highlight=False).print(_table(findings))
    if any(finding.level == "fault" for finding in findings):
        raise SystemExit(1)


async def examine(environment: dict[str, str], manifest: Manifest | None) -> list[Finding]:
    """All checks that make sense, in the order in which faults should be mended."""
    settings, findings = check_settings(environment)
    if settings is None:
        return findings
    hello = make_hello(settings, manifest).model_copy(update={"checking": True})
    findings += [*check_certificate(settings), *check_versions(hello)]
    if any(finding.level == "fault" for finding in findings):
        return findings
    findings += await asyncio.to_thread(check_ports, settings)
    for group in await asyncio.gather(*(check_peer(settings, peer) for peer in settings.peers)):
        findings += group
    leader = settings.cluster.party_with("model_owner")
    if settings.party == leader:
        findings += await _look_from_leader(settings, hello, findings)
    elif _can_ask(settings, leader, findings):
        same = manifest is not None and manifest.protocol == settings.cluster.protocol
        cost = manifest.cost if manifest is not None and same else None
        findings += await check_agreement(settings, leader, hello, cost)
    return findings


async def _look_from_leader(settings: PartySettings, hello: Hello, findings: list[Finding]) -> list[Finding]:
    """What the others have, seen from the model owner: its runner knows, or doctor listens in its place."""
    (ports,) = (finding for finding in findings if finding.subject == "own ports")
    if ports.level == "note":
        return await ask_own_runner(settings, hello)
    if ports.level == "good" and hello.program_digest is not None:
        return await await_others(settings, hello)
    return []


def _can_ask(settings: PartySettings, leader: str, findings: list[Finding]) -> bool:
    if settings.role == "dealer":
        return False
    ways = (f"{leader}: name", f"{leader}: port", f"{leader}: TLS")
    return not any(finding.level == "fault" and finding.subject.startswith(ways) for finding in findings)


def _manifest(program: str) -> Manifest:
    from secure_runner.programs.files import read_program

    if Path(program).is_dir():
        return read_program(Path(program))
    from secure_runner.programs.store import program_tag

    return program_tag(program)[1]


def _table(findings: list[Finding]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column()
    table.add_column(overflow="fold")
    for finding in findings:
        remedy = f"\n→ {escape(finding.remedy)}" if finding.remedy else ""
        table.add_row(_SIGNS[finding.level], escape(finding.subject), escape(finding.detail) + remedy)
    return table
