"""The ``secure-runner`` command. Each subcommand is a module of its own, imported only when it is called."""

from __future__ import annotations

from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from secure_runner.errors import SecureRunnerError

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, str] = {
    "audit": "Check audit logs, compare those of two parties, look for unusual use.",
    "build": "Build the Bento of each party from a saved model.",
    "certs": "Make certificates: a development authority, parties' certificates, renewal.",
    "doctor": "Check this party's set-up and its connections to the others.",
    "estimate": "Price a model before it is compiled: bytes, rounds, time.",
    "import": "Convert a model, compile it, save program and params.",
    "inspect": "Show a program: what it computes, and who learns what.",
    "predict": "Score a file of rows through the data owner's service.",
}
"""Subcommand to its one-line help. Its function bears its name, in the module of that name; where that is a
Python keyword, with an underscore behind."""


class _LazyGroup(click.Group):
    """Imports a subcommand's module when it runs; its help line is known before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_") + ("_" if iskeyword(cmd_name) else "")
        command = getattr(import_module(f"secure_runner.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SecureRunnerError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Each command has examples: secure-runner COMMAND --help",
)
@click.version_option(package_name="secure-runner")
def main() -> None:
    """Serve a model on data it must not see: predictions between organisations under MPC."""
