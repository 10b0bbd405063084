"""The model owner's limits: strict at its own side, and never met by a data owner that keeps to its terms."""

from __future__ import annotations

import asyncio
import json
import multiprocessing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_runner.config import embedded_cluster
from secure_runner.config.owner_limits import DataOwnerLimits, OwnerLimits
from secure_runner.errors import ConfigError, OverloadedError
from secure_runner.sessions.limits import Allowance, BatchLimits
from secure_runner.sessions.messages import Start, read_session_message
from secure_runner.sessions.usage import DailyRows

DAY_S = 86_400


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self, now_s: float = 20_000 * DAY_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 3000),
    steps=st.lists(st.tuples(st.sampled_from([1, 8, 32]), st.sampled_from(["", "restart", "killed", "day"]))),
)
def test_rows_of_a_day_are_never_more_than_the_limit(tmp_path_factory, limit, steps):
    """Whatever happens between batches; a restart loses nothing, a kill at most one block of 1%."""
    file, clock = tmp_path_factory.mktemp("rows") / "rows.json", Clock()
    usage, taken, lost = DailyRows(file, limit, clock_s=clock), 0, 0
    block = max(1, limit // 100, 32)
    for rows, event in steps:
        admitted = usage.take(rows)
        taken += rows if admitted else 0
        assert taken <= limit
        assert admitted or taken + rows + lost > limit, "refused although there was room"
        assert usage.left <= limit - taken
        if event == "restart":
            usage.close()
        if event in ("restart", "killed"):
            lost += block if event == "killed" else 0
            usage = DailyRows(file, limit, clock_s=clock)
        if event == "day":
            clock.now_s += DAY_S
            taken = lost = 0


def _take_all(file, count) -> None:
    usage = DailyRows(file, 1000)
    for _ in range(1000):
        if usage.take(1):
            with count.get_lock():
                count.value += 1
    usage.close()


def test_processes_share_the_days_rows(tmp_path):
    """Two versions of a model that serve side by side have one limit."""
    context = multiprocessing.get_context("fork")
    count = context.Value("i", 0)
    processes = [context.Process(target=_take_all, args=(tmp_path / "rows", count)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert 990 <= count.value <= 1000


def test_a_spoiled_file_is_not_taken_for_an_empty_one(tmp_path):
    """Otherwise spoiling it would begin the day anew."""
    (tmp_path / "rows").write_text("{nonsense")
    with pytest.raises(ConfigError, match="rows"):
        DailyRows(tmp_path / "rows", 100)


@settings(max_examples=60, deadline=None)
@given(
    per_s=st.floats(0.5, 50),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 2), min_size=1, max_size=60),
    delay=st.floats(0, 0.05),
)
def test_a_data_owner_that_keeps_to_its_terms_is_never_refused(per_s, burst, pauses, delay):
    """Its batches pass the model owner's bucket, although they arrive a little closer together."""
    ours, theirs = Clock(0.0), Clock(0.0)
    limits = BatchLimits(DataOwnerLimits(batches_per_s=per_s, burst=burst), clock_s=ours)
    allowance = Allowance(clock_s=theirs)
    allowance.update(limits.terms())
    for index, pause in enumerate(pauses):
        theirs.now_s += pause + (allowance._bucket.wait_s() if allowance._bucket else 0.0)
        if allowance._bucket.wait_s() > 0:
            continue
        asyncio.run(allowance.take(8))
        ours.now_s = max(ours.now_s, theirs.now_s + (delay if index % 2 else 0.0))
        assert limits.take(8) == ""


def test_each_limit_has_its_reason(tmp_path):
    """A batch that is refused is not counted."""
    clock = Clock(0.0)
    terms = DataOwnerLimits(rows_per_day=20, rows_per_batch=8, batches_per_s=1, burst=1)
    limits = BatchLimits(terms, tmp_path / "rows", clock_s=clock)
    assert limits.take(32) == "batch_size"
    assert [limits.take(1) for _ in range(5)] == [""] * 5, "the burst and what may arrive together"
    assert limits.take(1) == "rate"
    clock.now_s += 10
    assert limits.take(8) == ""
    assert limits.take(8) == "daily_rows"
    assert limits.take(7) == ""
    assert limits.terms().rows_left == 0


def test_clients_are_told_when_to_come_back():
    """429 with the time until midnight UTC, or until the next batch is admitted."""
    clock, utc = Clock(0.0), Clock(20_000 * DAY_S + 80_000)
    allowance = Allowance(clock_s=clock, utc_s=utc)
    allowance.check(10**9)
    limits = DataOwnerLimits(batches_per_s=0.1, burst=1)
    allowance.update(BatchLimits(limits).terms().model_copy(update={"rows_per_day": 100, "rows_left": 9}))
    with pytest.raises(OverloadedError) as refused:
        allowance.check(10)
    assert (refused.value.code, refused.value.retry_after_s) == ("owner_daily_rows", 6_400)
    asyncio.run(allowance.take(8))
    with pytest.raises(OverloadedError) as refused:
        allowance.check(1)
    assert refused.value.code == "owner_rate"
    assert refused.value.retry_after_s == pytest.approx(10)
    clock.now_s, utc.now_s = 10, utc.now_s + 6_400
    allowance.check(100)


def test_terms_travel_with_the_order_to_start():
    """And are read strictly, as every message of another runner."""
    terms = BatchLimits(DataOwnerLimits(batches_per_s=2.5, rows_per_batch=8)).terms()
    start = Start(session_id="s", epoch=1, lane=0, slot=0, terms=terms)
    assert read_session_message(start.model_dump_json().encode()) == start


def test_limits_file(tmp_path):
    """Mistakes are told with their place; a data owner that is not listed gets no session."""
    file = tmp_path / "limits.yaml"
    file.write_text("data_owners: {bank: {rows_per_day: 5, batches_per_sec: 1}}")
    with pytest.raises(ConfigError, match=r"data_owners.bank.batches_per_sec: there is no such setting"):
        OwnerLimits.load(file)
    file.write_text("data_owners: {bank: {rows_per_day: 5}}")
    with pytest.raises(ConfigError, match="state_directory: missing"):
        OwnerLimits.load(file)
    file.write_text(json.dumps({"data_owners": {"bank": {}}}))
    with pytest.raises(ConfigError, match="no entry for data-owner"):
        OwnerLimits.load(file).of(embedded_cluster("aby3").party_with("data_owner"))
    with pytest.raises(ConfigError, match="cannot be read"):
        OwnerLimits.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("is_data_owner", [True, False])
def test_terms_are_told_to_the_data_owner_alone(is_data_owner):
    """The helper has no business with them."""
    from secure_runner.sessions.member import SessionOrder
    from secure_runner.sessions.messages import Ready
    from secure_runner.sessions.remote import RemoteMember

    terms = BatchLimits(DataOwnerLimits(rows_per_batch=8)).terms()

    class Peer:
        def __init__(self, member: RemoteMember) -> None:
            self.member = member
            self.sent: list[Start] = []

        async def send(self, message: Start) -> None:
            self.sent.append(message)
            self.member.take(Ready(epoch=message.epoch, lane=message.lane))

    async def main() -> Start:
        member = RemoteMember("bank", 0, is_data_owner=is_data_owner)
        peer = Peer(member)
        member.connected(peer)
        await member.start(SessionOrder("s", 1, 0, 0, terms))
        return peer.sent[0]

    assert asyncio.run(main()).terms == (terms if is_data_owner else None)
