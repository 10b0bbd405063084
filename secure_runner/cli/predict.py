"""``secure-runner predict``: a file of rows, scored through the data owner's service."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from secure_runner.bulk.job import Job, file_sha256
from secure_runner.bulk.scoring import Service, fetch_manifest, score
from secure_runner.bulk.tables import check_output, read_inputs, read_kept, write_outputs
from secure_runner.errors import SecureRunnerError
from secure_runner.http.types import Arrays
from secure_runner.http.validation import batch_rows, validate_inputs

__all__ = ["predict"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_EXAMPLES = """
\b
Examples:
  secure-runner predict rows.csv --url http://localhost:3000 --output scored.csv
  secure-runner predict rows.parquet --url https://secure.example --token-file token \\
      --columns age,bmi,glucose --keep patient --output scored.parquet

Stopped in the middle, the same command goes on where it was.
"""


def _names(_: click.Context, __: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


@click.command(epilog=_EXAMPLES)
@click.argument("rows", type=_FILE)
@click.option("--url", required=True, help="The data owner's service.")
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A .csv, .parquet, .npy or .npz.",
)
@click.option("--columns", callback=_names, help="Feature columns, in the model's order; all by default.")
@click.option("--keep", callback=_names, help="Columns of the rows to repeat beside the predictions.")
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first line of a .csv names the columns, which are f0, f1, … if not. A first line of "
    "values alone is refused unless this is said.",
)
@click.option(
    "--chunk-rows", type=click.IntRange(min=1), help="Rows of a request; the largest batch by default."
)
@click.option(
    "--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="Requests at once."
)
@click.option("--token-file", type=_FILE, help="Holds the token; otherwise SECURE_RUNNER_TOKEN does.")
@click.option("--ca-file", type=_FILE, help="Certificates that the service's must be signed by.")
@click.option("--certificate-file", type=_FILE, help="Our own certificate, where the service asks for one.")
@click.option("--key-file", type=_FILE, help="Its key.")
@click.option(
    "--deadline-s", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Of a request."
)
@click.option(
    "--patience-s",
    type=click.FloatRange(min=0),
    default=120.0,
    show_default=True,
    help="Try a chunk for so long.",
)
@click.option("--restart", is_flag=True, help="Discard what an earlier run has left.")
def predict(
    rows: Path,
    url: str,
    output: Path,
    columns: tuple[str, ...] | None,
    keep: tuple[str, ...] | None,
    header: bool | None,
    chunk_rows: int | None,
    concurrency: int,
    token_file: Path | None,
    ca_file: Path | None,
    certificate_file: Path | None,
    key_file: Path | None,
    deadline_s: float,
    patience_s: float,
    restart: bool,
) -> None:
    """Score ROWS (.csv, .parquet, .npy, .npz) privately, and write the predictions to a file.

    Every row is checked before the first is sent. Rows go out in chunks; predictions of finished chunks are
    kept in OUTPUT.partial until all are there.
    """
    token = os.environ.get("SECURE_RUNNER_TOKEN") if token_file is None else token_file.read_text().strip()
    service = Service(url, token, ca_file, certificate_file, key_file, deadline_s, patience_s)
    try:
        manifest = asyncio.run(fetch_manifest(service))
        check_output(output, manifest, keep or ())
        kept = read_kept(rows, keep or (), header=header)
        raw = read_inputs(rows, manifest, columns, without=keep or (), header=header)
        inputs = validate_inputs(manifest, raw)
        job = Job(
            output,
            rows=batch_rows(manifest, inputs),
            chunk_rows=chunk_rows or max(manifest.batch_sizes, default=1),
            program_digest=manifest.digest,
            description={"input": file_sha256(rows), "columns": ",".join(columns or ())},
        )
        job.open(restart=restart)
        _run(service, job, inputs, concurrency)
        write_outputs(output, kept, job.collect())
        job.discard()
    except SecureRunnerError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{job.rows} rows scored: {output}")


def _run(service: Service, job: Job, inputs: Arrays, concurrency: int) -> None:
    progress = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    done = 0
    with progress:
        task = progress.add_task("", total=job.rows)

        def on_done(count: int) -> None:
            nonlocal done
            done += count
            progress.update(task, completed=done)

        try:
            asyncio.run(score(service, job, inputs, concurrency=concurrency, on_done=on_done))
        except SecureRunnerError as error:
            raise click.ClickException(
                f"{error}\n{done} of {job.rows} rows are done and kept; the same command goes on from there."
            ) from error
