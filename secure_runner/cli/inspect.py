"""``secure-runner inspect``: what a data owner reads before it joins."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from secure_runner.programs.files import read_program
from secure_runner.programs.manifest import Manifest, TensorSpec
from secure_runner.protocols import protocol

__all__ = ["inspect"]

_EXAMPLES = """
\b
Examples:
  secure-runner inspect credit:latest
  secure-runner inspect ./credit-program --json
"""


@click.command(epilog=_EXAMPLES)
@click.argument("program")
@click.option("--json", "as_json", is_flag=True, help="The manifest itself.")
@click.option("--digest", "digest_only", is_flag=True, help="Its digest alone, for scripts.")
def inspect(program: str, as_json: bool, digest_only: bool) -> None:
    """Show PROGRAM, a tag of the model store or a folder: what it computes, and who learns what.

    The digest covers every byte of it. Pin it as SECURE_RUNNER_PROGRAM_DIGEST, and this party computes that
    program and no other.
    """
    from secure_runner.programs.store import program_tag

    manifest = read_program(Path(program)) if Path(program).is_dir() else program_tag(program)[1]
    if digest_only:
        click.echo(manifest.digest)
        return
    if as_json:
        click.echo(manifest.model_dump_json(indent=2))
        return
    console = Console(highlight=False)
    console.print(_summary(manifest))
    console.print(_who_learns_what(manifest))
    for statement in manifest.statements:
        console.print(f"• {escape(statement)}")


def _summary(manifest: Manifest) -> Table:
    table = Table(title=f"Program {manifest.name}", show_header=False)
    table.add_column(no_wrap=False)
    table.add_column(overflow="fold")
    numeric = manifest.numeric
    rows = {
        "digest": manifest.digest,
        "clients send": _tensors(manifest.inputs),
        "clients receive": _tensors(manifest.outputs),
        "shared": _tensors(manifest.private_inputs),
        "revealed to the data owner": _tensors(manifest.private_outputs),
        "computed by the data owner itself": ", ".join(
            step.op for step in (*manifest.encode, *manifest.decode)
        )
        or "nothing",
        "weights (shapes are public)": f"{len(manifest.params)} arrays",
        "batch sizes": ", ".join(map(str, manifest.batch_sizes)),
        "ring": f"{numeric.field}, {numeric.fraction_bits} fraction bits, {numeric.exp_mode}",
        "rewrites": ", ".join(manifest.rewrites) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items())),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    return table


def _who_learns_what(manifest: Manifest) -> Table:
    known = protocol(manifest.protocol)
    table = Table(title=f"Who learns what under {known.name}. {known.trust}")
    for column in ("party", "features", "weights", "prediction", "architecture, shapes, timing"):
        table.add_column(column)
    table.add_row("data owner", "its own", "no", "yes, alone", "yes")
    table.add_row("model owner", "no", "its own", "no", "yes")
    if "helper" in known.roles:
        table.add_row("helper", "no", "no", "no", "yes")
    if known.name == "semi2k":
        table.add_row("dealer", "no", "no", "no", "operations and sizes only")
    return table


def _tensors(tensors: tuple[TensorSpec, ...]) -> str:
    return ", ".join(
        f"{t.name} {t.dtype}[{', '.join('rows' if dim is None else str(dim) for dim in t.shape)}]"
        for t in tensors
    )
