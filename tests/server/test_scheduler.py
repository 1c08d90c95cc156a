"""A scheduler: ticks that are due, ticks that were missed, clocks that are wrong, and tokens that others have."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.server import scheduler
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.scheduler import FORGET_AFTER, MOST_AHEAD, Scheduler, Timetable
from amqp_rpc.server.state import State
from amqp_rpc.service.schedules import Cron, Every, Schedule
from tests.amqp.fake import FakeConnection

NOW = 1_800_000_000_000
MINUTE = 60_000


def every(interval: int = MINUTE, name: str = "a") -> Schedule:
    return Schedule(name, "queue", "function", Every(interval), b"")


def token(**dealt: object) -> bytes:
    return json.dumps({"dealt": dealt}).encode()


def known(dealt: int, *schedules: Schedule) -> Timetable:
    """A timetable whose schedules have come so far."""
    table = Timetable(schedules or [every()])
    table.merge(token(**{schedule.name: dealt for schedule in schedules or [every()]}))
    return table


def test_a_schedule_that_is_seen_for_the_first_time_is_not_due_for_what_was_before() -> None:
    table = Timetable([every()])
    assert table.due(NOW) == []
    assert table.wait(NOW) == 60.0
    assert [due.tick for due in table.due(NOW + MINUTE)] == [NOW + MINUTE]


def test_a_tick_is_due_once() -> None:
    table = known(NOW)
    [due] = table.due(NOW + MINUTE + 5)
    assert (due.tick, due.missed) == (NOW + MINUTE, 0)
    assert table.due(NOW + MINUTE + 6) == []
    table.done(due)
    assert table.due(NOW + MINUTE + 7) == []
    assert table.wait(NOW + MINUTE + 7) == 59.993


def test_what_could_not_be_enqueued_is_due_again() -> None:
    table = known(NOW)
    [due] = table.due(NOW + MINUTE)
    table.failed(due)
    assert table.due(NOW + MINUTE + 1)[0].tick == due.tick


def test_of_missed_ticks_the_latest_is_due_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW)
    [due] = table.due(NOW + 10 * MINUTE + 1)
    assert (due.tick, due.missed) == (NOW + 10 * MINUTE, 9)
    table.done(due)
    assert "a: 9 missed ticks are skipped; the latest, of 2027-01-15T08:10:00+00:00, is enqueued" in caplog.text
    assert table.due(NOW + 10 * MINUTE + 2) == []


def test_missed_ticks_of_an_expression_are_counted_up_to_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW, Schedule("a", "queue", "function", Cron("* * * * *"), b""))
    [due] = table.due(NOW + 5000 * MINUTE)
    table.done(due)
    assert due.tick == NOW + 5000 * MINUTE
    assert "at least 999 missed ticks" in caplog.text


def test_the_next_holder_goes_on_where_the_last_one_was() -> None:
    first = known(NOW)
    first.done(first.due(NOW + MINUTE)[0])
    second = Timetable([every()])
    second.merge(first.body())
    assert second.due(NOW + MINUTE + 1) == []
    assert second.due(NOW + 2 * MINUTE)[0].missed == 0


@given(st.permutations([0, 1, 2, 3]))
def test_tokens_become_one_in_any_order(order: list[int]) -> None:
    tokens = [token(), token(a=NOW), token(a=NOW - 5, b=7), token(b=8)]
    table = Timetable([every()])
    for each in order:
        table.merge(tokens[each])
    assert table.dealt == {"a": NOW, "b": 8}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\xff", b"[]", b"3", b"{}", b'{"dealt": []}', b'{"dealt": {"a": "x"}}', b'{"dealt": {"a": null}}',
        b'{"dealt": {"a": 1e999}}', b'{"dealt": {"a": NaN}}', b"[" * 100_000, b'{"dealt": {"a": ' + b"9" * 5000 + b"}}",
    ],
)  # fmt: skip
def test_a_token_that_can_t_be_read_says_nothing(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW)
    table.merge(body)
    assert table.dealt == {"a": NOW}
    assert "can't be read" in caplog.text


@pytest.mark.parametrize("moment", [-5, 10**30])
def test_a_token_from_outside_of_the_calendar_says_nothing(moment: int) -> None:
    table = Timetable([every()])
    table.merge(token(a=moment))
    assert table.dealt == {}


def test_a_clock_that_is_a_little_behind_waits_and_repeats_nothing() -> None:
    table = known(NOW)
    assert table.due(NOW - MOST_AHEAD) == []
    assert table.wait(NOW - MOST_AHEAD) == (MOST_AHEAD + MINUTE) / 1000
    assert table.dealt == {"a": NOW}


def test_a_clock_that_was_far_ahead_stops_no_schedule(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW + 365 * 86_400_000)
    assert table.due(NOW) == []
    assert "a clock was wrong" in caplog.text
    assert table.due(NOW + MINUTE)[0].tick == NOW + MINUTE


def test_a_clock_that_jumps_forward_makes_one_tick_of_each_schedule() -> None:
    table = known(NOW, every(100), every(MINUTE, "b"))
    jumped = NOW + 365 * 86_400_000
    found = table.due(jumped)
    assert len(found) == 2
    for due in found:
        table.done(due)
    assert table.due(jumped + 1) == []


def test_schedules_of_other_versions_are_kept_and_forgotten_when_none_knows_them_any_more() -> None:
    table = Timetable([every()])
    table.merge(token(other=NOW))
    table.due(NOW + FORGET_AFTER)
    assert json.loads(table.body())["dealt"] == {"a": NOW + FORGET_AFTER, "other": NOW}
    table.due(NOW + FORGET_AFTER + 1)
    assert "other" not in json.loads(table.body())["dealt"]


def test_a_schedule_that_is_seldom_due_is_not_forgotten_while_it_is_known() -> None:
    yearly = Schedule("a", "queue", "function", Cron.parse("0 0 1 1 *"), b"")
    table = known(NOW, yearly)
    table.due(NOW + 200 * 86_400_000)
    other = Timetable([every(name="b")])
    other.merge(table.body())
    other.due(NOW + 210 * 86_400_000)
    assert "a" in other.dealt


def test_what_was_under_way_when_the_clock_was_lost_is_due_again() -> None:
    table = known(NOW)
    [due] = table.due(NOW + MINUTE)
    assert table.busy
    table.forget()
    assert not table.busy
    assert table.due(NOW + MINUTE) == [due]


def test_a_table_without_schedules_waits_for_a_day() -> None:
    assert Timetable([]).wait(NOW) == 86_400.0


def test_nothing_is_logged_where_nothing_was_missed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = known(NOW)
    table.done(table.due(NOW + MINUTE)[0])
    assert caplog.text == ""


class Place:
    """The scheduler of a server with one schedule, due each second, that has become the leader."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW / 1000
        monkeypatch.setattr(scheduler, "time", SimpleNamespace(time=lambda: self.now, monotonic=lambda: self.now))
        self.connection = FakeConnection()
        state = State(Pool(1), [], [])
        state.begin(cast("Any", self.connection))
        self.scheduler = Scheduler("clock", [every(1000)], state)
        self.scheduler.begin(cast("Any", self.connection))
        self.scheduler.on_open()
        [self.channel] = self.connection.channels
        self.channel.confirm()
        self.deliver(token(a=NOW))
        self.passes(0.5)
        self.deliver(self.channel.confirm().body)
        assert self.scheduler.leads

    def deliver(self, body: bytes) -> None:
        self.channel.deliver("clock", Message("clock", Properties(), body))

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.connection.loop.pass_time()

    def ticks(self) -> int:
        return sum(message.routing_key == "queue" for message in self.channel.published)

    def tick(self) -> bytes:
        """A second passes, and the broker confirms the task, and the token, whose body is returned."""
        self.passes(1.0)
        assert self.channel.confirm().routing_key == "queue"
        written = self.channel.confirm()
        assert written.routing_key == "clock"
        return written.body


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_a_leader_that_gets_its_tokens_goes_on(place: Place) -> None:
    for _ in range(10):
        place.deliver(place.tick())
    assert place.ticks() == 10
    assert place.scheduler.leads


def test_a_leader_whose_token_goes_to_another_server_enqueues_nothing_more(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    written = place.tick()
    for _ in range(10):
        place.passes(1.0)
    assert place.ticks() == 1
    assert not place.scheduler.leads
    assert caplog.text.count("this server is not the leader any more") == 1
    # The other server stops.
    place.deliver(written)
    place.passes(0.5)
    assert place.scheduler.leads
    assert place.ticks() == 2


def test_a_leader_whose_token_is_not_confirmed_waits_with_the_next_ticks(place: Place) -> None:
    place.passes(1.0)
    place.channel.confirm()
    for _ in range(20):
        place.passes(1.0)
        while place.channel.unconfirmed[-1][0].routing_key == "queue":
            _, receipt = place.channel.unconfirmed.pop()
            receipt.arrive(True)
    assert place.ticks() <= 6, "those of the first seconds"
    before = place.ticks()
    place.deliver(place.channel.confirm().body)
    place.passes(0)
    assert place.ticks() == before + 1


def test_a_leader_learns_of_no_ticks_to_come(caplog: pytest.LogCaptureFixture) -> None:
    """Of tokens with a time 59 seconds ahead, one each second, none would ever be due."""
    table = known(NOW, every(1000))
    for second in range(1, 9):
        now = NOW + 1000 * second
        table.merge(token(a=now + 59_000), until=now + 1)
        [due] = table.due(now)
        table.done(due)
    assert [each.message for each in caplog.records] == [
        "scheduler: token ignored: it is forged, or of a clock that is ahead; it has ticks to come of 'a'"
    ]


def test_of_many_forged_tokens_far_ahead_one_warning_is_written(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW)
    for _ in range(9):
        table.merge(token(a=NOW + 365 * 86_400_000))
        assert table.due(NOW) == []
    (said,) = [each.message for each in caplog.records]
    assert said.startswith("a: its ticks were handled up to 2028-01-15T08:00:00+00:00, which is in the future")


def test_a_new_leader_that_waits_for_its_clock_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW + 59_000)
    for _ in range(3):
        assert table.due(NOW) == []
    assert [each.message for each in caplog.records] == [
        "a: it waits until 2027-01-15T08:00:59+00:00: its ticks were handled up to then, by another clock"
    ]


def test_schedules_of_others_have_bounded_room_and_the_latest_stay(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW)
    table.merge(token(other=NOW, **{f"x{number}{'y' * 60}": NOW - 1 - number for number in range(10_000)}))
    assert len(table.body()) < 100_000
    assert {"a", "other", f"x0{'y' * 60}"} <= table.dealt.keys()
    table.room = 0
    table.merge(token(late=NOW))
    assert table.dealt == {"a": NOW}
    assert all("the oldest are forgotten" in each.message for each in caplog.records)


def test_a_token_that_is_too_large_is_not_read(caplog: pytest.LogCaptureFixture) -> None:
    table = known(NOW)
    for _ in range(100):
        table.merge(token(a=NOW + 5, b="x" * 2**20))
    assert table.dealt == {"a": NOW}
    assert len(caplog.text) < 1000
