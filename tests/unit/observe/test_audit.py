"""Audit logs: whole through restarts and rotation, and no change to them goes unnoticed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_runner.cli import main
from secure_runner.errors import ConfigError
from secure_runner.observe.audit import AuditIdentity, AuditLog
from secure_runner.observe.chain import compare, read_chain, read_chains
from secure_runner.observe.summary import summarise

DIGEST = "d" * 64


def _identity(party: str = "bank", **changes) -> AuditIdentity:
    fields = {
        "party": party,
        "role": "data_owner",
        "cluster": "credit",
        "cluster_digest": "c" * 64,
        "program": "score",
        "program_digest": DIGEST,
        "parameters": 1000,
    }
    return AuditIdentity(**(fields | changes))


def _run(run_id: int, **changes) -> dict:
    fields = {
        "session_id": "credit-1",
        "epoch": 1,
        "lane": 0,
        "run_id": run_id,
        "batch_id": f"{run_id:016x}",
        "batch_size": 8,
        "rows": 5,
        "outcome": "ok",
        "program_digest": DIGEST,
    }
    return fields | changes


def _write(directory: Path, runs: list[dict], party: str = "bank", **options) -> list[Path]:
    log = AuditLog(directory, _identity(party), **options)
    for run in runs:
        log.write("run", run)
    log.close()
    return sorted(directory.glob(f"{party}-*.jsonl"))


def test_the_chain_goes_on_through_restarts_and_rotation(tmp_path):
    """Each file begins with whose it is; the last line's digest is the head that the writer had."""
    for start in (1, 40):
        log = AuditLog(tmp_path, _identity(), file_bytes=3000)
        for run_id in range(start, start + 30):
            assert log.write("run", _run(run_id), durable=run_id % 7 == 0)
        log.close()
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) > 3
    (chain,) = read_chains(files)
    assert chain.complete
    assert not chain.problems
    assert chain.head == log.head
    assert [e["run_id"] for e in chain.entries if e["event"] == "run"] == [*range(1, 31), *range(40, 70)]
    for file in files:
        first = json.loads(file.read_text().split("\n")[0])
        assert (first["event"], first["party"], first["cluster_digest"]) == ("opened", "bank", "c" * 64)
        assert file.stat().st_mode & 0o007 == 0, "not for everybody"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_change_but_at_the_very_end_is_noticed(tmp_path_factory, data):
    """A line changed, removed, repeated, moved or put in; a file left out in the middle."""
    directory = tmp_path_factory.mktemp("log")
    files = _write(directory, [_run(n) for n in range(1, 13)], file_bytes=2000)
    assert len(files) >= 2
    assert not read_chain(files).problems
    lines = [line for file in files for line in file.read_bytes().split(b"\n") if line]
    at = data.draw(st.integers(0, len(lines) - 2), label="line")
    kind = data.draw(st.sampled_from(["change", "remove", "repeat", "swap", "insert"]), label="kind")
    if kind == "change":
        position = data.draw(st.integers(0, len(lines[at]) - 1), label="byte")
        changed = bytearray(lines[at])
        changed[position] ^= data.draw(st.integers(1, 127), label="flip")
        if b"\n" in changed:
            return
        lines[at] = bytes(changed)
    elif kind == "remove":
        del lines[at]
    elif kind == "repeat":
        lines.insert(at, lines[at])
    elif kind == "swap":
        lines[at], lines[at + 1] = lines[at + 1], lines[at]
    else:
        forged = {**json.loads(lines[at]), "rows": 1}
        lines.insert(at + 1, json.dumps(forged, separators=(",", ":")).encode())
    changed_file = directory / "bank-9-000001.jsonl"
    changed_file.write_bytes(b"\n".join(lines) + b"\n")
    chain = read_chain([changed_file])
    # Without its first lines a log is what it looks like: the rest of one.
    assert chain.problems or not chain.complete


def test_half_a_line_at_the_end_is_cut_and_said(tmp_path):
    """What a power failure leaves does not break the chain, and the next entry tells of it."""
    (file,) = _write(tmp_path, [_run(1), _run(2)])
    with file.open("ab") as log:
        log.write(b'{"sequence":3,"time":"2026')
    assert any("cut off" in problem for problem in read_chain([file]).problems)
    _write(tmp_path, [_run(3)])
    chain = read_chain([file])
    assert not chain.problems
    assert [e["cut_bytes"] for e in chain.entries if "cut_bytes" in e] == [26]


def _write_for_ever(directory: str, connection) -> None:
    log = AuditLog(Path(directory), _identity())
    run_id = 0
    while True:
        run_id += 1
        log.write("run", _run(run_id))
        connection.send(run_id)


def test_a_killed_process_loses_no_entry_that_it_had_written(tmp_path):
    """kill -9 in the middle: everything that ``write`` returned from is there, and the chain is whole."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_write_for_ever, args=(str(tmp_path), theirs)
    )
    process.start()
    last = 0
    while last < 200:
        last = ours.recv()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    while ours.poll():
        last = ours.recv()
    _write(tmp_path, [_run(10_000)])
    (chain,) = read_chains(tmp_path.glob("*.jsonl"))
    assert not chain.problems
    assert max(e["run_id"] for e in chain.entries if e["event"] == "run" and e["run_id"] < 10_000) >= last


def test_two_processes_of_a_party_write_two_series(tmp_path):
    """As during a rolling change."""
    first, second = AuditLog(tmp_path, _identity()), AuditLog(tmp_path, _identity())
    assert first.path != second.path
    for log in (first, second):
        log.write("run", _run(1))
        log.close()
    chains = read_chains(tmp_path.glob("*.jsonl"))
    assert [len(chain.entries) for chain in chains] == [2, 2]
    assert not any(chain.problems for chain in chains)


def test_a_full_disk_is_said_and_noted_in_the_chain(tmp_path, caplog, monkeypatch):
    """The service goes on; the next entry that can be written tells how many are missing."""
    log = AuditLog(tmp_path, _identity())
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert not log.write("run", _run(1))
    assert not log.write("run", _run(2))
    monkeypatch.setattr(os, "write", real)
    assert log.write("run", _run(3))
    log.close()
    assert "No space left" in caplog.text
    (chain,) = read_chains(tmp_path.glob("*.jsonl"))
    assert chain.problems == [f"{log.path.name}:2: 2 entries are missing before it"]


def test_a_directory_that_cannot_be_written_is_a_config_error(tmp_path):
    """Before anything is served."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="SECURE_RUNNER_AUDIT_DIR"):
        AuditLog(tmp_path / "file" / "audit", _identity())


def _two(tmp_path: Path, ours: list[dict], theirs: list[dict], *, ended: bool = False):
    for party, runs in (("bank", ours), ("lender", theirs)):
        log = AuditLog(tmp_path, _identity(party))
        for run in runs:
            log.write("run", run)
        if ended:
            log.write("session_end", {"session_id": "credit-1", "epoch": 1, "lane": 0, "outcome": "died"})
        log.close()
    chains = {chain.party: chain for chain in read_chains(tmp_path.glob("*.jsonl"))}
    return compare(chains["bank"], chains["lender"])


def test_two_parties_batches_are_matched_one_by_one(tmp_path):
    """Warm-ups too, which have no run id of their own."""
    runs = [_run(0, batch_size=1, rows=0), _run(0, batch_size=8, rows=0), *(_run(n) for n in range(1, 6))]
    found = _two(tmp_path, runs, runs)
    assert (found.matched, found.under_way, found.problems) == (7, [], [])


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([_run(1), _run(2)], "run 3: ok at bank, unknown at lender"),
        ([_run(n) for n in range(1, 10)], "run 4: ok at lender, unknown at bank"),
        ([_run(1), _run(2, batch_size=32, rows=5), _run(3)], "batch_size is 8 at bank, 32 at lender"),
        ([_run(1), _run(2, rows=8), _run(3)], "rows is 5 at bank, 8 at lender"),
        ([_run(1), _run(2, batch_id="ff"), _run(3)], "batch_id"),
        ([_run(1), _run(2), _run(3, program_digest="e" * 64)], "program_digest"),
        ([_run(1), _run(2), _run(2), _run(3)], "run 2: 1 times at bank, 2 times at lender"),
    ],
)
def test_batches_that_one_party_alone_knows_or_tells_otherwise_are_found(tmp_path, theirs, said):
    """Whatever one of them has left out, added or changed before it was chained."""
    found = _two(tmp_path, [_run(n) for n in range(1, 4)], theirs)
    assert any(said in problem for problem in found.problems), found.problems


def test_batches_under_way_when_a_session_ended_are_no_finding(tmp_path):
    """The last few may be known to one party alone; earlier ones may not."""
    found = _two(tmp_path, [_run(n) for n in range(1, 6)], [_run(n) for n in range(1, 4)], ended=True)
    assert (found.matched, len(found.under_way), found.problems) == (3, 2, [])
    failed = _run(9, outcome="session_ended")
    (tmp_path / "more").mkdir()
    found = _two(tmp_path / "more", [_run(1), failed], [_run(1)], ended=True)
    assert (found.matched, len(found.under_way), found.problems) == (1, 1, [])


def test_verify_exits_with_1_and_names_the_line(tmp_path):
    """And with 0 for logs that are whole and match."""
    runs = [_run(n) for n in range(1, 4)]
    _write(tmp_path, runs, "bank")
    (file,) = _write(tmp_path, runs, "lender")
    done = CliRunner().invoke(main, ["audit", "verify", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "bank and lender: 3 batches match, 0 were under way" in done.output
    file.write_text(file.read_text().replace('"rows":5', '"rows":1', 1))
    done = CliRunner().invoke(main, ["audit", "verify", str(tmp_path)])
    assert done.exit_code == 1
    assert f"{file.name}:3: does not follow from the line before it" in done.output
    assert "run 1: rows is" in done.output


def _days(rows_by_day: list[int]) -> list[dict]:
    return [
        {
            **_run(n),
            "event": "run",
            "batch_size": rows,
            "rows": rows,
            "time": f"2026-01-{n + 1:02d}T10:00:00.000Z",
        }
        for n, rows in enumerate(rows_by_day, 1)
    ]


@pytest.mark.parametrize(
    ("entries", "flag"),
    [
        (_days([10, 12, 9, 400]), "2026-01-05: 400 rows, 40.0 times"),
        (
            [{**_run(n), "event": "run", "time": "2026-01-01T10:00:00.000Z"} for n in range(1, 301)],
            "exactly 5 rows",
        ),
        (
            [
                {**_run(n), "event": "run", "time": f"2026-01-01T{n % 24:02d}:00:00.000Z"}
                for n in range(1, 50)
            ],
            "24 of 24 hours",
        ),
        (
            [{"event": "refused", "outcome": "rate", "time": "2026-01-01T10:00:00.000Z"}],
            "1 batches beyond the data owner's limits",
        ),
        (_days([200] * 6), "1200 rows were computed and the model has 1000 trained values"),
    ],
)
def test_unusual_use_is_flagged(entries, flag):
    """Surges, machine-like patterns, refused batches, as many rows as the model has trained values."""
    from secure_runner.observe.chain import Chain

    opened = {"event": "opened", "parameters": 1000}
    found = summarise(Chain("lender", "model_owner", [opened, *entries]))
    assert any(flag in said for said in found.flags), found.flags


def test_ordinary_use_is_not_flagged(tmp_path):
    """A few hundred rows in office hours."""
    from secure_runner.observe.chain import Chain

    entries = [
        {
            **_run(n, rows=1 + n % 7),
            "event": "run",
            "time": f"2026-01-0{1 + n % 5}T{9 + n % 8:02d}:00:00.000Z",
        }
        for n in range(1, 100)
    ]
    assert summarise(Chain("lender", "model_owner", entries)).flags == []
    _write(tmp_path, [_run(1)])
    done = CliRunner().invoke(main, ["audit", "summary", "--json", str(tmp_path)])
    assert json.loads(done.output)["rows"] == 5


def test_a_closed_log_takes_nothing(tmp_path):
    """Its file's descriptor may belong to somebody else by then."""
    log = AuditLog(tmp_path, _identity())
    log.close()
    log.close()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    assert not log.write("run", _run(1))
    assert os.fstat(other).st_size == 0
    os.close(other)
    assert len(read_chain([log.path]).entries) == 1
