"""``make bench`` in its shortest form: a suite runs, records have their form, the docs show their numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmarks.page import DOCS, docs_with_tables
from benchmarks.records import RESULTS, Record, merge, read_records, write_records

ROOT = Path(__file__).resolve().parents[2]
_CONTRACT = ("name", "protocol", "batch", "value", "unit", "baseline", "ratio", "n")
_GROWS_WITH = ("batch", "width", "depth", "rtt")


def _record(name: str, suite: str = "http", **changes) -> Record:
    values = {
        "protocol": "aby3",
        "batch": 1,
        "value": 20.0,
        "unit": "ms",
        "baseline": 40.0,
        "n": 30,
    } | changes
    return Record.of(name, suite=suite, **values)


@pytest.mark.timeout(240)
def test_a_suite_runs_writes_records_and_draws(tmp_path):
    """One suite on one protocol, with real party processes, as ``make bench`` runs all of them."""
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "growth", "--protocol", "aby3"]
    done = subprocess.run(
        [*command, "--results", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=230
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bench: OK" in done.stdout
    items = json.loads((tmp_path / "latest.json").read_text())
    errors = {f"estimate_error_{what}" for what in ("ms", "scaled_ms", "bytes", "rounds")}
    assert {item["name"] for item in items} == errors | {f"growth_{of}" for of in _GROWS_WITH}
    assert all(set(_CONTRACT) <= set(item) for item in items)
    off = {item["name"]: item["value"] for item in items if item["name"] in errors}
    # Counts, unlike times, do not depend on what else the machine does.
    assert off["estimate_error_bytes"] < 25
    assert off["estimate_error_rounds"] < 25
    assert all(item["value"] > 0 and item["n"] > 0 and item["trust"] for item in items)
    batches = {item["detail"]["x"]: item["detail"] for item in items if item["name"] == "growth_batch"}
    assert batches[64]["sent_bytes"] > 8 * batches[1]["sent_bytes"]
    # Rounds hardly grow with the batch: what batching lives on.
    assert batches[64]["rounds"] <= 1.5 * batches[1]["rounds"]
    far = {item["detail"]["x"]: item["value"] for item in items if item["name"] == "growth_rtt"}
    assert far[40] > 10 * 40, "at least ten round trips of 40 ms"
    page = (tmp_path / "index.html").read_text()
    assert 'src="growth_batch.png"' in page
    assert (tmp_path / "growth_batch.png").stat().st_size > 1000


def test_records_survive_the_file_and_know_their_ratio(tmp_path):
    """Value over baseline; who must be trusted comes with the protocol."""
    record = _record("http_over_raw")
    assert record.ratio == 0.5
    assert record.trust is not None
    write_records(tmp_path / "latest.json", [record, _record("recovery_p95_s", "recovery", baseline=None)])
    assert read_records(tmp_path / "latest.json")[0] == record


def test_a_partial_run_keeps_the_records_of_the_other_suites():
    """And replaces all of its own, also those that it no longer gives."""
    old = [_record("http_over_raw"), _record("recovery_p95_s", "recovery")]
    new = [_record("sf_spu_over_http", value=80.0)]
    assert [record.name for record in merge(old, new, ["http"])] == ["recovery_p95_s", "sf_spu_over_http"]


def test_a_record_without_its_fields_is_refused():
    """A misspelt field would be lost silently."""
    with pytest.raises(ValidationError):
        Record.model_validate(_record("http_over_raw").model_dump() | {"rato": 1.0})


def test_the_tables_in_the_docs_are_those_of_the_last_run():
    """``python -m benchmarks.page`` writes them; nobody edits a number by hand."""
    text = DOCS.read_text()
    assert docs_with_tables(text, read_records(RESULTS / "latest.json")) == text
