"""``secure-runner audit``: check audit logs, compare those of two parties, and look for unusual use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import click

from secure_runner.observe.chain import Chain, compare, read_chains
from secure_runner.observe.summary import Summary, summarise

__all__ = ["audit"]

_FILES = click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE…"
)
_SHOWN = 20
_VERIFY_EXAMPLES = """
\b
Examples:
  secure-runner audit verify /var/log/secure-runner
  secure-runner audit verify ours/bank-1-*.jsonl theirs/lender-1-*.jsonl

Exit status 0: all chains are whole and all batches match; 1: they do not.
"""
_GROUP_EXAMPLES = """
\b
Examples:
  secure-runner audit verify /var/log/secure-runner
  secure-runner audit summary /var/log/secure-runner
"""
_SUMMARY_EXAMPLES = """
\b
Examples:
  secure-runner audit summary /var/log/secure-runner
  secure-runner audit summary --json lender-1-*.jsonl | jq .flags
"""


@click.group(epilog=_GROUP_EXAMPLES)
def audit() -> None:
    """Check audit logs, compare those of two parties, look for unusual use."""


@audit.command(epilog=_VERIFY_EXAMPLES)
@_FILES
def verify(files: Sequence[Path]) -> None:
    """Are the chains whole, and do the parties' logs tell of the same batches?

    FILE is a file of an audit log, or a directory of them. Give the logs of two or more parties to have their
    batches matched one by one.
    """
    chains = _read(files)
    sound = True
    for chain in chains:
        sound = sound and not chain.problems
        click.echo(
            f"{chain.party} ({chain.role}): {len(chain.entries)} entries, "
            f"{'whole' if not chain.problems else 'NOT whole'}"
            f"{'' if chain.complete else ', earlier files are missing'}; head {chain.head}"
        )
        _show(chain.problems)
    for ours, theirs in combinations(_by_party(chains), 2):
        found = compare(ours, theirs)
        sound = sound and not found.problems
        click.echo(
            f"{ours.party} and {theirs.party}: {found.matched} batches match, "
            f"{len(found.under_way)} were under way when their session ended, "
            f"{len(found.problems)} do not match"
        )
        _show(found.problems)
    if not sound:
        raise click.exceptions.Exit(1)


@audit.command(epilog=_SUMMARY_EXAMPLES)
@_FILES
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each party, one a line.")
def summary(files: Sequence[Path], as_json: bool) -> None:
    """How much was asked, when and by whom; flags what may be an attempt to extract the model."""
    for chain in _by_party(_read(files)):
        found = summarise(chain)
        click.echo(json.dumps(asdict(found)) if as_json else _text(found))


def _read(files: Sequence[Path]) -> list[Chain]:
    found = [path for file in files for path in (sorted(file.glob("*.jsonl")) if file.is_dir() else [file])]
    if not found:
        raise click.ClickException(f"no audit log (*.jsonl) in {', '.join(map(str, files))}")
    return read_chains(found)


def _by_party(chains: Sequence[Chain]) -> list[Chain]:
    """One for each party: several series of a party (processes side by side) tell of different sessions."""
    merged: dict[str, Chain] = {}
    for chain in chains:
        known = merged.setdefault(chain.party, Chain(chain.party, chain.role))
        known.entries.extend(chain.entries)
    for chain in merged.values():
        chain.entries.sort(key=lambda entry: str(entry["time"]))
    return list(merged.values())


def _show(problems: Sequence[str]) -> None:
    for problem in problems[:_SHOWN]:
        click.echo(f"  {problem}")
    if len(problems) > _SHOWN:
        click.echo(f"  … and {len(problems) - _SHOWN} more")


def _text(found: Summary) -> str:
    lines = [
        f"{found.party}: {found.entries} entries, {found.sessions} sessions, {found.recoveries} of them "
        "ended unasked",
        f"  {found.runs} batches, {found.rows} rows asked for, {found.computed_rows} computed, "
        f"at most {found.most_runs_a_minute} batches a minute",
        *(f"  {day}: {rows} rows" for day, rows in sorted(found.rows_by_day.items())),
        *(f"  client {client}: {rows} rows" for client, rows in sorted(found.rows_by_client.items())),
        *(f"  outcome {outcome}: {count}" for outcome, count in found.outcomes.items()),
        *(f"  ! {flag}" for flag in found.flags),
    ]
    return "\n".join(lines)
