"""``secure-runner build``: one command, the Bento of every party."""

from __future__ import annotations

from pathlib import Path

import click
import yaml
from rich.console import Console

from secure_runner.errors import ConfigError
from secure_runner.protocols import Role, protocol

__all__ = ["SERVICES", "build"]

SERVICES: dict[Role, str] = {
    "model_owner": "bentos.model_owner:ModelOwner",
    "data_owner": "bentos.data_owner:DataOwner",
    "helper": "bentos.helper:Helper",
    "dealer": "bentos.dealer:Dealer",
}
"""Role to its service."""

_EXAMPLES = """
\b
Examples:
  secure-runner build credit:latest
  secure-runner build credit:latest --export handout/
"""


@click.command(epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "--export",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write the Bentos for the other parties here, as files to hand out.",
)
def build(model: str, directory: Path | None) -> None:
    """Build the Bento of each party of MODEL's protocol.

    The model owner's holds the program and the params; the data owner's and the helper's hold the program
    alone, the dealer's neither. Run it in the project's folder, where bentofile.yaml is.
    """
    import bentoml
    from bentoml._internal.bento.build_config import BentoEnvSchema
    from bentoml.exceptions import BentoMLException

    from secure_runner.programs.store import program_tag

    if not Path("bentofile.yaml").is_file():
        raise ConfigError("no bentofile.yaml here; run this in the project's folder")
    settings = yaml.safe_load(Path("bentofile.yaml").read_text())
    tag, manifest = program_tag(model)
    roles: list[Role] = [*protocol(manifest.protocol).roles]
    if manifest.protocol == "semi2k":
        roles.append("dealer")
    console = Console(highlight=False)
    for role in roles:
        arguments = {} if role == "dealer" else {"model": tag}
        name = f"{tag.partition(':')[0]}-{role.replace('_', '-')}"
        try:
            with console.status(f"building the Bento of the {role.replace('_', ' ')}"):
                bento = bentoml.bentos.build(
                    SERVICES[role],
                    name=name,
                    build_ctx=".",
                    args=arguments,
                    include=settings["include"],
                    python=settings["python"],
                    docker=settings["docker"],
                    envs=[BentoEnvSchema(**variable) for variable in settings["envs"]],
                )
        except BentoMLException as error:
            raise ConfigError(f"BentoML could not build the Bento of {role}: {error}") from error
        exported = ""
        if directory is not None and role != "model_owner":
            directory.mkdir(parents=True, exist_ok=True)
            path = bentoml.bentos.export_bento(str(bento.tag), str(directory / f"{name}.bento"))
            exported = f"  → {path}"
        console.print(f"{role:12} {bento.tag}{exported}", soft_wrap=True)
