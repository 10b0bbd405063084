"""What operators see of real sessions: two parties' logs that match, limits that hold, and never a value."""

from __future__ import annotations

import datetime
import json
import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import REGISTRY, generate_latest

from secure_runner.config.owner_limits import OwnerLimits
from secure_runner.errors import InputError, OverloadedError
from secure_runner.observe import traces
from secure_runner.observe.chain import compare, read_chains
from secure_runner.observe.logs import JsonFormatter

PARTIES = ("model-owner", "data-owner", "helper")
# Its digits would be found in any form in which a float32 is usually written.
PLANTED = 1234.5678
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class _Collected:
    """Spans in memory and log lines as JSON, both of this process."""

    def __init__(self) -> None:
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.spans = InMemorySpanExporter()
        self.provider = traces.make_provider(self.spans, "test")
        self.lines: list[str] = []

    def __enter__(self) -> _Collected:
        traces.use(self.provider)
        collected = self

        class Handler(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                collected.lines.append(JsonFormatter().format(record))

        self._handler = Handler()
        self._level = logging.getLogger("secure_runner").level
        logging.getLogger("secure_runner").addHandler(self._handler)
        logging.getLogger("secure_runner").setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("secure_runner").removeHandler(self._handler)
        logging.getLogger("secure_runner").setLevel(self._level)
        traces.use(None)
        self.provider.shutdown()


def _chains(directory: Path) -> dict[str, object]:
    return {chain.party: chain for chain in read_chains(sorted(directory.glob("*.jsonl")))}


def _until_next_day_s() -> float:
    now = datetime.datetime.now(datetime.timezone.utc)
    return 86_400 - (now.hour * 3600 + now.minute * 60 + now.second)


def test_both_parties_logs_match_and_hold_no_value(deploy, small_model, tmp_path, capfd):
    """Requests, a party killed, a repeated and a refused request: whole chains that tell of the same batches.

    One trace goes from the request to every party. A planted value, its prediction and a weight are in no
    log, metric or span.
    """
    with _Collected() as seen:
        deployed = deploy(protocol="aby3", audit_directory=tmp_path / "audit")
        ask, epoch = deployed.deployment.predict, deployed.epoch
        rows = small_model.rows[:3].copy()
        rows[1, 2] = PLANTED
        arguments = {"client": "scoring", "deadline_s": 60.0}
        asked = ask({"x": rows}, request_id="planted", traceparent=TRACEPARENT, **arguments)
        answer = deployed._call(asked)["y"]
        again = deployed._call(ask({"x": rows}, request_id="planted", **arguments))["y"]
        np.testing.assert_array_equal(again, answer)
        with pytest.raises(InputError, match="other inputs") as refused:
            deployed._call(ask({"x": rows + 1}, request_id="planted", **arguments))
        assert (refused.value.code, refused.value.http_status) == ("request_id_reused", 422)
        deployed.predict(small_model.rows[:21])
        os.kill(deployed.processes["model-owner"], signal.SIGKILL)
        deployed.wait_until(lambda: deployed.epoch > epoch, 60)
        deployed.wait_ready()
        for count in (1, 2, 8):
            deployed.predict(small_model.rows[:count])
        deployed.stop()
        seen.provider.force_flush()
        chains = _chains(tmp_path / "audit")
        assert set(chains) == set(PARTIES)
        assert all(chain.complete and not chain.problems for chain in chains.values()), chains
        for peer in ("model-owner", "helper"):
            found = compare(chains["data-owner"], chains[peer])
            assert not found.problems
            # Three rows, three runs for 21, one each, and in both sessions the ladder's warm-up.
            assert found.matched + len(found.under_way) >= 1 + 3 + 3 + 2 * 2
        _check_entries(chains, deployed.deployment.manifest.digest, epoch)
        _check_spans(seen.spans.get_finished_spans())
        told = capfd.readouterr()
        everything = "\n".join(
            [
                *seen.lines,
                told.out,
                told.err,
                generate_latest(REGISTRY).decode(),
                *(span.to_json() for span in seen.spans.get_finished_spans()),
                *(path.read_text() for path in (tmp_path / "audit").glob("*.jsonl")),
            ]
        )
    secrets = [PLANTED, *answer.ravel(), *small_model.model.params["hidden/kernel"].ravel()[:8]]
    forms = {form for value in secrets for form in (f"{float(value):.5g}", repr(float(value))[:8])}
    # A saturated 0 or 1 is everywhere; what has digits of its own must be nowhere.
    telling = {form for form in forms if len(form.strip("-0.")) >= 5}
    assert len(telling) >= 16
    assert not [form for form in telling if form in everything]


def _check_entries(chains, digest, epoch):
    entries = chains["data-owner"].entries
    requests = [entry for entry in entries if entry["event"] == "request"]
    assert [entry["outcome"] for entry in requests[:3]] == ["ok", "repeated", "request_id_reused"]
    first = requests[0]
    assert (first["request_id"], first["client"], first["rows"]) == ("planted", "scoring", 3)
    assert first["epoch"] == epoch
    assert first["trace_id"] == TRACE
    assert first["bytes"] == 3 * 6 * 4 + 3 * 2 * 4
    assert first["duration_s"] > 0
    batches = {entry["batch_id"]: entry for entry in entries if entry["event"] == "run"}
    assert sum(batches[batch_id]["rows"] for batch_id in first["batch_ids"]) == 3
    for party, chain in chains.items():
        assert {e["program_digest"] for e in chain.entries} == {digest}
        kinds = [e["event"] for e in chain.entries]
        assert kinds[0] == "opened"
        assert kinds.count("session_start") >= 2
        assert kinds.count("session_start") == kinds.count("session_end")
        ends = [e for e in chain.entries if e["event"] == "session_end"]
        if party == "model-owner":
            assert "died" in [end["outcome"] for end in ends]
        for run in (e for e in chain.entries if e["event"] == "run" and e["run_id"]):
            assert run["duration_s"] > 0
            assert run["peers"] == [name for name in ("model-owner", "data-owner", "helper") if name != party]


def _check_spans(spans):
    of_request = [span for span in spans if f"{span.context.trace_id:032x}" == TRACE]
    names = [span.name for span in of_request]
    assert names.count("secure_runner.predict") == 1
    predict = next(span for span in of_request if span.name == "secure_runner.predict")
    batches = [span for span in of_request if span.name == "secure_runner.batch"]
    assert {span.attributes["secure_runner.party"] for span in batches} == set(PARTIES)
    assert {span.parent.span_id for span in batches} == {predict.context.span_id}
    assert all(span.end_time > span.start_time for span in batches)


def test_the_model_owners_limits_hold_against_a_data_owner_that_ignores_them(deploy, small_model, tmp_path):
    """An honest data owner's clients get 429 and no session ends; for another one, no batch more is computed.

    Neither a new session nor a restart of the runner gives rows back.
    """
    limits = OwnerLimits.model_validate(
        {
            "state_directory": tmp_path / "state",
            "data_owners": {"data-owner": {"rows_per_day": 20, "rows_per_batch": 8}},
        }
    )
    if _until_next_day_s() < 120:
        pytest.skip("the day is about to turn")
    deployed = deploy(protocol="semi2k", insecure=True, audit_directory=tmp_path / "audit", limits=limits)
    epoch = deployed.epoch
    assert deployed.predict(small_model.rows[:16]).shape == (16, 2)
    with pytest.raises(OverloadedError) as refused:
        deployed.predict(small_model.rows[:8])
    assert refused.value.code == "owner_daily_rows"
    assert 0 < refused.value.retry_after_s <= 86_400
    assert deployed.epoch == epoch, "nobody's session ended"
    # The other side of the same organisation's promise: a data owner that does not keep to its terms.
    deployed.deployment._oversight.allowance.update(None)
    with pytest.raises(OverloadedError):
        deployed.predict(small_model.rows[:8])
    deployed.stop()
    refusals = [e for e in _chains(tmp_path / "audit")["model-owner"].entries if e["event"] == "refused"]
    assert refusals
    assert {e["outcome"] for e in refusals} == {"daily_rows"}
    computed = [
        e for e in _chains(tmp_path / "audit")["model-owner"].entries if e["event"] == "run" and e["run_id"]
    ]
    assert sum(e["batch_size"] for e in computed) == 16
    again = deploy(protocol="semi2k", insecure=True, audit_directory=tmp_path / "audit", limits=limits)
    with pytest.raises(OverloadedError, match="used up"):
        again.predict(small_model.rows[:8])
    for count in (1, 1, 1, 1):
        again.predict(small_model.rows[:count])
    with pytest.raises(OverloadedError, match="used up"):
        again.predict(small_model.rows[:1])
    again.stop()
    assert all(not chain.problems for chain in _chains(tmp_path / "audit").values())
    assert json.loads(next((tmp_path / "state").glob("*.json")).read_text())["rows"] == 20
