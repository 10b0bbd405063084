"""``make bench``: every suite in one run, or some of them.

``python -m benchmarks [--only SUITE]… [--protocol NAME]… [--quick] [--competitor NAME]…`` writes
``benchmarks/results/latest.json``, plots and a page. Suites that are left out keep their last records.
"""

from __future__ import annotations

import importlib
import tempfile
import time
import traceback
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.records import RESULTS, Record, merge, read_records, write_records
from benchmarks.workbench import PROTOCOL_NAMES, Workbench

SUITES = {
    "http": "one row over HTTP against bare SPU and SecretFlow; 64 clients",
    "recovery": "kill -9 of a party until the next right answer",
    "startup": "from bentoml serve to ready",
    "lanes": "two sessions against one",
    "network": "organisations on hosts of their own, 0 to 40 ms apart; 1 to 8 lanes",
    "growth": "latency and bytes against batch, width and depth",
    "dealing": "semi2k with a dealer against TrustedFirstParty and cheetah; the dealer's soak",
    "memory": "what 100 MB of weights take, in the build and in each party",
    "large": "a model above protobuf's 2 GB, from its file to answers; only where it is asked for",
    "trees": "a tree ensemble against the network",
    "tuning": "what each chosen setting brings",
    "competitors": "CrypTen and Concrete ML on the same network",
}
"""Name to what it measures. Each is a module of ``benchmarks.suites`` with ``run(bench)``."""
ASKED_FOR = {"large"}
"""Left out unless named: it takes most of a machine's memory."""

console = Console()


@click.command(help=__doc__)
@click.option("--only", multiple=True, type=click.Choice(list(SUITES)), help="This suite; may be repeated.")
@click.option("--protocol", "protocols", multiple=True, type=click.Choice(PROTOCOL_NAMES))
@click.option("--quick", is_flag=True, help="Few repetitions: shows that everything runs, not how fast.")
@click.option(
    "--competitor",
    "competitors",
    multiple=True,
    type=click.Choice(["crypten", "concrete"]),
    help="Install it into .bench/, gigabytes on some machines, and compare; may be repeated.",
)
@click.option("--results", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(
    only: tuple[str, ...],
    protocols: tuple[str, ...],
    quick: bool,
    competitors: tuple[str, ...],
    results: Path,
) -> None:
    """Run suites, write records, draw."""
    suites = list(only) or [name for name in SUITES if name not in ASKED_FOR]
    failed: list[str] = []
    file = results / "latest.json"
    with tempfile.TemporaryDirectory(prefix="secure-runner-bench-") as home:
        bench = Workbench(Path(home), quick, protocols or PROTOCOL_NAMES, competitors)  # type: ignore[arg-type]
        with _progress() as progress:
            for name in suites:
                task = progress.add_task(f"{name}: {SUITES[name]}", total=None)
                if not _run(name, bench, progress, file):
                    failed.append(name)
                progress.update(task, total=1, completed=1)
    _draw(results)
    console.print(f"{len(read_records(file))} records in {file}; the page is {results / 'index.html'}")
    if failed:
        raise SystemExit(f"bench: these suites did not finish: {', '.join(failed)}")
    console.print("bench: OK")


def _run(name: str, bench: Workbench, progress: Progress, file: Path) -> bool:
    """One suite; False if it did not finish. What was measured until then is kept."""
    before, records = read_records(file), list[Record]()
    started = time.monotonic()
    try:
        for record in importlib.import_module(f"benchmarks.suites.{name}").run(bench):
            records.append(record)
            progress.console.print(_line(record))
            write_records(file, merge(before, records, [name]))
    except Exception:
        progress.console.print(f"{name} failed:\n{traceback.format_exc()}", markup=False)
        return False
    progress.console.print(f"{name}: {time.monotonic() - started:.0f} s")
    return True


def _line(record: Record) -> str:
    value = (
        str(record.detail.get("skipped", "skipped"))
        if record.value is None
        else f"{record.value:.4g} {record.unit}"
    )
    ratio = "" if record.ratio is None else f", ratio {record.ratio:.3g} to {record.baseline:.4g}"
    return f"  {record.name} {record.protocol} batch {record.batch}: {value}{ratio} (n={record.n})"


def _draw(results: Path) -> None:
    from benchmarks.page import write_docs, write_page
    from benchmarks.plots import draw

    records = read_records(results / "latest.json")
    write_page(results, records, draw(results, records))
    if results == RESULTS:
        write_docs(records)


def _progress() -> Progress:
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console)


if __name__ == "__main__":
    main()
