"""A deadline shrinks to nothing, and back-off grows to its bound with jitter."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from numbers import Integral

import pytest

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.settings import count, positive
from amqp_rpc.message.timing import (
    FIRST_LINE,
    LONGEST,
    LONGEST_LINE,
    Deadline,
    Expiry,
    Repeats,
    backoff,
    moment_of,
    seconds_of,
)
from amqp_rpc.message.topology import units


@pytest.fixture
def clock(monkeypatch):
    """Set the monotonic clock."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return lambda value: now.__setitem__(0, value)


def test_what_is_left_shrinks_to_nothing(clock):
    deadline = Deadline.after(2.5)
    assert deadline.remaining() == 2.5
    clock(1002.0)
    assert deadline.remaining() == 0.5
    clock(1003.0)
    assert deadline.remaining() == 0.0


def test_it_is_over_at_its_time_and_not_before(clock):
    deadline = Deadline.after(2)
    clock(1001.9)
    assert not deadline.expired()
    clock(1002.0)
    assert deadline.expired()


def test_none_would_wait_for_ever():
    with pytest.raises(ConfigurationError, match="timeout=None would wait for ever"):
        Deadline.after(None)


@pytest.mark.parametrize("wrong", ["5", True, Decimal(5), [5], object])
def test_what_is_no_number_of_seconds_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="a timeout is a number of seconds, not "):
        Deadline.after(wrong)


class Whole:
    """An integer as numpy has them: registered as `numbers.Integral`, and no int."""

    def __int__(self):
        return 5

    __index__ = __int__

    def __float__(self):
        return 5.0

    def __lt__(self, other):
        return other > 5

    def __le__(self, other):
        return other >= 5


Integral.register(Whole)


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(timedelta(minutes=5), 300.0), (timedelta(milliseconds=1500), 1.5), (Fraction(1, 2), 0.5), (Whole(), 5.0), (2, 2)],
)
def test_seconds_are_numbers_of_any_kind_and_timedeltas(clock, given, seconds):
    assert seconds_of(given) == seconds
    assert Deadline.after(given).remaining() == seconds
    assert positive("heartbeat", given) == seconds
    assert units(given) == 10 * seconds


def test_whole_numbers_may_be_of_any_kind():
    found = count("threads", Whole())
    assert (type(found), found) == (int, 5)


@pytest.mark.parametrize("wrong", [timedelta(0), timedelta(seconds=-1), timedelta.max])
def test_a_timedelta_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="more than 0 and at most 2000000 seconds, not datetime"):
        Deadline.after(wrong)


class Nowhere(tzinfo):
    """A zone that does not know its offset."""

    def utcoffset(self, _moment):
        return None


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (date(2030, 1, 1), "eta is a datetime with a time zone"),
        ("2030-01-01", "eta is a datetime with a time zone"),
        (1893456000.0, "eta is a datetime with a time zone"),
        (timedelta(hours=1), "eta is a datetime with a time zone"),
        (datetime.fromisoformat("2030-01-01"), "eta has no time zone"),
        (datetime(2030, 1, 1, tzinfo=Nowhere()), "eta has no time zone"),
    ],
)
def test_what_is_no_moment_is_refused_in_one_line(wrong, why):
    with pytest.raises(ConfigurationError, match=why) as raised:
        moment_of("eta", wrong)
    assert "\n" not in str(raised.value)


def test_an_expiry_is_seconds_from_each_message_or_one_moment_for_all():
    assert Expiry.of(timedelta(minutes=1), now=100.0, most=1e9).at(200.0) == 260.0
    assert Expiry.of(60, now=100.0, most=1e9).at(200.0) == 260.0
    one = Expiry.of(datetime.fromtimestamp(150, UTC), now=100.0, most=1e9)
    assert (one.at(200.0), one.seconds) == (150.0, 50.0)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (datetime.fromtimestamp(99, UTC), "is over already"),
        (datetime.fromisoformat("2030-01-01"), "expires has no time zone"),
        (date(2030, 1, 1), "expires must be a number above 0"),
        ("5", "expires must be a number above 0"),
        (timedelta(0), "expires must be a number above 0"),
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(wrong, why):
    with pytest.raises(ConfigurationError, match=why):
        Expiry.of(wrong, now=100.0, most=1e9)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), LONGEST + 1, 10**400])
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="more than 0 and at most 2000000 seconds"):
        Deadline.after(wrong)


@pytest.mark.parametrize("right", [1, 0.001, LONGEST])
def test_a_timeout_in_range_is_accepted(clock, right):
    assert Deadline.after(right).remaining() > 0


def waits(attempt: int) -> list[float]:
    return [backoff(attempt, first=0.5, most=30.0) for _ in range(50)]


@pytest.mark.parametrize(("attempt", "middle"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (6, 16.0)])
def test_each_wait_is_twice_as_long_give_or_take_a_fifth(attempt, middle):
    assert all(0.8 * middle <= wait <= 1.2 * middle for wait in waits(attempt))


@pytest.mark.parametrize("attempt", [7, 10, 61, 1000, 10**9])
def test_waits_stop_growing_at_the_bound_however_often_it_failed(attempt):
    assert all(24.0 <= wait <= 36.0 for wait in waits(attempt))


def test_clients_that_failed_at_once_do_not_come_back_at_once():
    assert len(set(waits(1))) > 40


def test_the_jitter_can_be_the_whole_wait():
    found = [backoff(3, first=0.25, most=4.0, jitter=1.0) for _ in range(200)]
    assert 0 <= min(found) < 0.3
    assert 1.7 < max(found) <= 2.0


def test_of_equal_lines_the_first_is_written_and_then_one_at_growing_intervals(clock):
    repeats, written = Repeats(), []
    for second in range(int(8 * FIRST_LINE)):
        clock(1000.0 + second)
        if (times := repeats.again("refused")) is not None:
            written.append((second, times))
    assert written == [(0, ""), (30, "; 31 times in 30 s"), (90, "; 91 times in 90 s"), (210, "; 211 times in 210 s")]


def test_their_intervals_grow_up_to_an_hour(clock):
    repeats, written = Repeats(), []
    for minute in range(24 * 60):
        clock(1000.0 + 60 * minute)
        if repeats.again("refused") is not None:
            written.append(minute)
    assert written[-1] - written[-2] == LONGEST_LINE / 60
    assert len(written) < 40


def test_different_lines_are_counted_apart_and_very_many_as_one(clock):
    clock(1000.0)
    repeats = Repeats()
    assert (repeats.again("a"), repeats.again("b"), repeats.again("a")) == ("", "", None)
    assert sum(repeats.again(f"pid {number}") is not None for number in range(1000)) < 30


def test_lines_that_differ_only_in_a_name_that_the_broker_made_are_equal(clock):
    clock(1000.0)
    repeats, line = Repeats(), "access to queue 'amq.gen-{}' in vhost '/' refused; <0.{}.0> is down"
    written = [repeats.again(line.format(*each)) for each in (("vNIAKm3-_s", 12), ("yC5DIUf", 13), ("-dod_0", 14))]
    assert written == ["", None, None]


def test_the_end_says_how_often_a_line_that_was_kept_back_came_and_what_comes_then_is_new(clock):
    clock(1000.0)
    repeats = Repeats()
    assert repeats.again("refused") == ""
    assert repeats.over() is None
    for second in range(5):
        clock(1000.0 + second)
        repeats.again("refused")
    assert (len(repeats), repeats.over(), len(repeats)) == (1, "; 5 times in 4 s", 0)
    assert repeats.again("refused") == ""
