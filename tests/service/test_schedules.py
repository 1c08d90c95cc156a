"""When tasks are due: what is parsed, where ticks are, what clocks that are put forward or back do to them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amqp_rpc import ConfigurationError, Service, context
from amqp_rpc.message.envelope import Properties, Request
from amqp_rpc.service.catalog import Catalog
from amqp_rpc.service.context import in_context
from amqp_rpc.service.schedules import MOST_COUNTED, Cron, Every, said, tick_id

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.integers(0, 4_000_000_000_000)
EXPRESSIONS = st.sampled_from(
    [
        "* * * * *", "*/7 * * * *", "30 2 * * *", "0,30 2 * * *", "*/20 2 * * *", "15 * * * *", "0 0 1 * *",
        "0 0 29 2 *", "0 3 * * SUN", "0 12 13 * FRI", "59 23 L * *", "*/15 1-3 * 3,10 *", "10 */6 * * MON#1",
        "*/30 * * * * *",
    ]
)  # fmt: skip
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Cairo"]
)


def at(text: str, zone: ZoneInfo = BERLIN, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


def ticks(times: Every | Cron, start: int, count: int) -> list[int]:
    found: list[int] = []
    for _ in range(count):
        start = times.after(start)
        found.append(start)
    return found


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [
        ("5m", 300), ("30s", 30), ("2h", 7200), ("1d", 86_400), ("1h30m", 5400), ("1d 12h", 129_600), ("0.5s", 0.5),
        ("1.5h", 5400), (10, 10), (0.1, 0.1), (2.5, 2.5), ("366d", 31_622_400),
    ],
)  # fmt: skip
def test_an_interval_is_read(interval: str | float, seconds: float) -> None:
    assert Every.parse(interval) == Every(round(seconds * 1000))


@pytest.mark.parametrize(
    ("interval", "milliseconds"),
    [(timedelta(minutes=5), 300_000), (timedelta(milliseconds=100), 100), (Fraction(1, 2), 500)],
)
def test_an_interval_is_a_timedelta_or_a_number_of_any_kind_too(interval: Any, milliseconds: int) -> None:
    assert Every.parse(interval) == Every(milliseconds)


@pytest.mark.parametrize(
    "interval", ["", "5", "m", "5x", "5 minutes", "30m1h", "5m5m", "-5m", "1e3s", True, None, [5], b"5m", "٥m x"]
)
def test_what_is_no_interval_is_refused_with_what_would_be_right(interval: object) -> None:
    with pytest.raises(ConfigurationError, match=r'is no interval: "30s", "5m", "1h30m", "1d", or a number of seconds'):
        Every.parse(interval)  # type: ignore[arg-type]


@pytest.mark.parametrize("interval", [0, -1, 0.09, "0s", "367d", float("inf"), float("nan"), 1e300])
def test_an_interval_out_of_range_is_refused_with_the_range(interval: str | float) -> None:
    with pytest.raises(ConfigurationError, match=r"from 0\.1 s to 366 days"):
        Every.parse(interval)


def test_an_interval_of_parts_of_a_millisecond_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="whole milliseconds"):
        Every.parse(0.10001)


def test_ticks_of_an_interval_are_at_its_multiples_since_the_epoch() -> None:
    assert ticks(Every.parse("1h"), at("2026-03-01T10:20:00", UTC), 2) == [
        at("2026-03-01T11:00:00", UTC),
        at("2026-03-01T12:00:00", UTC),
    ]


@given(st.integers(100, 10**9), MOMENTS, MOMENTS)
def test_of_an_interval_s_missed_ticks_the_latest_is_told_and_all_are_counted(
    interval: int, moment: int, later: int
) -> None:
    every, now = Every(interval), moment + later
    found = every.missed(moment, now)
    if every.after(moment) > now:
        assert found is None
    else:
        assert found is not None
        latest, count = found
        assert latest % interval == 0
        assert moment < latest <= now < every.after(latest)
        assert every.after(moment) + (count - 1) * interval == latest


@pytest.mark.parametrize(
    ("name", "expression"),
    [
        ("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@midnight", "0 0 * * *"), (" @Weekly ", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"), ("@yearly", "0 0 1 1 *"), ("@annually", "0 0 1 1 *"),
    ],
)  # fmt: skip
def test_the_names_of_crontab_stand_for_their_expressions(name: str, expression: str) -> None:
    assert Cron.parse(name) == Cron.parse(expression)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("* * * *", "it has 4 fields, and not the five minute hour day-of-month month day-of-week"),
        ("", "it has 0 fields"),
        ("61 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * * * FOO", "bad day-of-week"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("@fortnightly", "the names are @hourly, @daily,"),
        ("@reboot", "the names are"),
    ],
)
def test_what_is_no_cron_expression_is_refused_with_what_would_be_right(expression: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as raised:
        Cron.parse(expression)
    assert '"*/5 * * * *" is every five minutes' in str(raised.value)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 0 2 * MON", ["Tue 02", "Mon 08", "Mon 15"]),
        ("0 0 */2 * MON", ["Mon 15", "Mon 29", "Mon 13"]),
        ("0 0 2 * *", ["Tue 02", "Thu 02", "Sun 02"]),
    ],
)
def test_a_day_of_the_month_or_of_the_week_is_enough_unless_one_begins_with_a_star(
    expression: str, days: list[str]
) -> None:
    found = ticks(Cron.parse(expression), at("2026-06-01T12:00", UTC), 3)
    assert [datetime.fromtimestamp(tick / 1000, UTC).strftime("%a %d") for tick in found] == days


def test_an_expression_that_never_comes_true_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="never comes true"):
        Cron.parse("0 0 */9 2 MON#5")


@pytest.mark.parametrize("zone", ["Berlin", "", "../etc/passwd", "Europe", "Europe/Berlin/x", None, 3])
def test_a_time_zone_that_does_not_exist_is_refused(zone: object) -> None:
    with pytest.raises(ConfigurationError, match="there is no time zone"):
        Cron.parse("* * * * *", zone)  # type: ignore[arg-type]


def test_what_falls_into_the_hour_that_is_left_out_is_due_right_after_it() -> None:
    # On 2026-03-29 in Berlin 02:00 is followed by 03:00.
    assert ticks(Cron.parse("30 2 * * *", "Europe/Berlin"), at("2026-03-28T00:00"), 3) == [
        at("2026-03-28T02:30"),
        at("2026-03-29T03:00"),
        at("2026-03-30T02:30"),
    ]


@pytest.mark.parametrize(
    ("moment", "fold"), [("2026-10-25T02:45", 0), ("2026-10-25T02:15", 1), ("2026-10-25T02:30", 1)]
)
def test_what_falls_into_the_hour_that_comes_twice_is_due_once(moment: str, fold: int) -> None:
    # On 2026-10-25 in Berlin 02:59 is followed by 02:00.
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    assert cron.after(at("2026-10-24T12:00")) == at("2026-10-25T02:30")
    assert cron.after(at(moment, fold=fold)) == at("2026-10-26T02:30")
    assert cron.missed(at("2026-10-24T12:00"), at(moment, fold=fold)) == (at("2026-10-25T02:30"), 1)


def test_every_half_hour_follows_the_time_that_passes() -> None:
    half_hours = ticks(Cron.parse("*/30 * * * *", "Europe/Berlin"), at("2026-10-25T00:00"), 12)
    assert {b - a for a, b in pairwise(half_hours)} == {1_800_000}


#: Each with the day before, and then the ticks with their offsets, as the zone's own clocks show them.
AT_CHANGES = {
    "each hour, also of the one that comes twice": (
        "0 * * * *", "America/Los_Angeles", "2026-11-01T07:30:00+00:00",
        ["2026-11-01T01:00:00-07:00", "2026-11-01T01:00:00-08:00", "2026-11-01T02:00:00-08:00"],
    ),
    "once a day, in the hour that comes twice": (
        "30 1 * * *", "America/Los_Angeles", "2026-11-01T00:00:00+00:00",
        ["2026-11-01T01:30:00-07:00", "2026-11-02T01:30:00-08:00"],
    ),
    "once a day, in the hour that is left out": (
        "30 2 * * *", "America/Los_Angeles", "2026-03-08T00:00:00+00:00",
        ["2026-03-08T03:00:00-07:00", "2026-03-09T02:30:00-07:00"],
    ),
    "at nine, whatever the clocks do": (
        "0 9 * * *", "Europe/Berlin", "2026-10-24T00:00:00+00:00",
        ["2026-10-24T09:00:00+02:00", "2026-10-25T09:00:00+01:00"],
    ),
    "clocks that are put back by half an hour": (
        "45 1 * * *", "Australia/Lord_Howe", "2026-04-03T20:00:00+00:00",
        ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"],
    ),
    "clocks that are put back for a month of fasting": (
        "0 9 * * *", "Africa/Casablanca", "2026-02-14T00:00:00+00:00",
        ["2026-02-14T09:00:00+01:00", "2026-02-15T09:00:00+00:00"],
    ),
    "@daily": ("@daily", "Europe/Berlin", "2026-03-28T12:00:00+00:00",
        ["2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", AT_CHANGES)
def test_ticks_when_clocks_are_changed_are_those_that_people_expect(what: str) -> None:
    expression, zone, start, expected = AT_CHANGES[what]
    found = ticks(Cron.parse(expression, zone), at(start, UTC), len(expected))
    shown = [datetime.fromtimestamp(tick / 1000, ZoneInfo(zone)).isoformat() for tick in found]
    assert shown == expected


@settings(deadline=None)
@example("30 2 * * *", "Europe/Berlin", at("2026-10-25T02:15", fold=1), 0)
@example("0,30 2 * * *", "Europe/Berlin", at("2026-03-29T00:00"), 86_400_000)
@given(EXPRESSIONS, ZONES, MOMENTS, st.integers(0, 10**8))
def test_of_an_expression_s_missed_ticks_the_latest_is_told(
    expression: str, zone: str, moment: int, later: int
) -> None:
    cron, now = Cron.parse(expression, zone), moment + later
    first = cron.after(moment)
    assert first > moment
    found = cron.missed(moment, now)
    if first > now:
        assert found is None
    else:
        assert found is not None
        latest, count = found
        assert first <= latest <= now < cron.after(latest)
        assert count == MOST_COUNTED or ticks(cron, moment, count)[-1] == latest


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(["* * * * *", "30 2 * * *", "*/20 2 * * *"]), ZONES, MOMENTS)
def test_after_a_long_outage_the_latest_tick_is_found_without_computing_all(
    expression: str, zone: str, moment: int
) -> None:
    cron, now = Cron.parse(expression, zone), moment + 10**11 * 2
    found = cron.missed(moment, now)
    assert found is not None
    assert found[1] == MOST_COUNTED
    assert moment < found[0] <= now < cron.after(found[0])


def test_a_tick_s_id_is_the_same_for_everybody_and_of_no_other_tick() -> None:
    # Servers of all versions must agree on it.
    assert tick_id("a: every 5 s", 5000) == "67a8e19bf158556ab408dc3949de0085"
    assert len({tick_id(name, tick) for name in ("a", "b", "a@5") for tick in (5, 10, 55)}) == 9


def test_a_tick_is_said_as_people_read_it() -> None:
    assert said(at("2026-01-31T12:00:00", UTC)) == "2026-01-31T12:00:00+00:00"
    assert said(1_500) == "1970-01-01T00:00:01.500+00:00"


def test_a_task_of_a_service_has_schedules_under_names_that_say_all() -> None:
    service = Service("billing")

    @service.every("5m")
    @service.cron("0 2 * * mon-fri", timezone="Europe/Berlin")
    @service.every("1d", name="deep", kwargs={"deep": True})
    @service.task(queue="bills")
    async def charge(*, deep: bool = False) -> None: ...

    assert [schedule.name for schedule in service.schedules] == [
        "billing.deep: every 86400 s",
        "billing.charge: cron 0 2 * * MON-FRI Europe/Berlin",
        "billing.charge: every 300 s",
    ]
    message = service.schedules[2].message(300_000, now=301.5)
    assert (message.routing_key, message.properties.type, message.properties.timestamp) == ("bills", "charge", 301)
    assert message.properties.message_id == tick_id("billing.charge: every 300 s", 300_000)
    assert message.properties.headers == {"attempt": 1, "schedule": "billing.charge: every 300 s", "tick": "300000"}
    assert message.properties.delivery_mode == 2
    assert list(Catalog([service, service]).schedules) == ["amqp_rpc.clock.billing"]


@pytest.mark.parametrize("priority", [None, 7])
def test_the_task_of_a_tick_has_the_priority_of_its_function(priority: int | None) -> None:
    service = Service()

    @service.every("5m")
    @service.task(priority=priority)
    def report() -> None: ...

    assert service.schedules[0].message(300_000, now=301.5).properties.priority == priority


@pytest.mark.parametrize(
    ("headers", "tick"),
    [
        ({"tick": "300000"}, 300.0),
        ({"tick": 300_000}, 300.0),
        ({}, None),
        ({"tick": "soon"}, None),
        ({"tick": True}, None),
        ({"tick": -5}, None),
    ],
)
def test_a_handler_sees_when_its_task_was_due(headers: dict[str, object], tick: float | None) -> None:
    request = Request.read(Properties(headers=headers), b"", redelivered=False)
    with in_context("report", request):
        assert context().tick == tick


def test_a_schedule_is_for_a_task_of_its_service() -> None:
    service = Service()

    def clean_up() -> None: ...

    line = clean_up.__code__.co_firstlineno
    for function in (clean_up, Service().task(clean_up)):
        with pytest.raises(ConfigurationError, match=rf"test_schedules\.py:{line}: .* write it above @service\.task"):
            service.every("5m")(function)
    assert service.schedules == []


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((), {}, "got no 'region'"),
        ((1, 2), {}, "2 came by position"),
        ((), {"rejoin": 1}, "no parameter 'rejoin'"),
        (("x",), {}, "expected int, got str"),
        ((object(),), {}, "expected int"),
    ],
)
def test_a_schedule_s_arguments_are_checked(args: tuple[object, ...], kwargs: dict[str, object], why: str) -> None:
    service = Service()

    @service.task
    def report(region: int) -> None: ...

    line = report.__code__.co_firstlineno
    with pytest.raises(
        ConfigurationError, match=rf"test_schedules\.py:{line}: @service\.cron of report\(\): .*({why})"
    ):
        service.cron("* * * * *", args=args, kwargs=kwargs)(report)


def test_arguments_that_can_t_be_sent_are_refused() -> None:
    service = Service()

    @service.task
    def report(region: object) -> None: ...

    with pytest.raises(ConfigurationError, match="cannot send"):
        service.every(1, args=[object()])(report)


def test_a_bad_expression_names_the_file_and_the_line() -> None:
    service = Service()

    @service.task
    def report() -> None: ...

    line = report.__code__.co_firstlineno
    with pytest.raises(ConfigurationError, match=rf"test_schedules\.py:{line}: @service\.every of report\(\): 'soon'"):
        service.every("soon")(report)


def test_two_schedules_of_one_name_are_refused() -> None:
    service = Service()

    @service.every("60s")
    @service.task
    def report() -> None: ...

    with pytest.raises(ConfigurationError, match="there is a schedule 'report: every 60 s' already; give one of them"):
        service.every("1m")(report)
    other = Service()
    other.every("1m")(other.task(queue="others")(report))
    with pytest.raises(ConfigurationError, match="two schedules 'report: every 60 s', of queues 'task_queue' and 'oth"):
        Catalog([service, other])
