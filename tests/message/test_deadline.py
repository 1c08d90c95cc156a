"""A deadline is a point in time: what is left of it shrinks, and what is no time is refused."""

from __future__ import annotations

import time
from decimal import Decimal

import pytest

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.deadline import LONGEST, Deadline


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


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), LONGEST + 1, 10**400])
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="more than 0 and at most 2000000 seconds"):
        Deadline.after(wrong)


@pytest.mark.parametrize("right", [1, 0.001, LONGEST])
def test_what_is_in_range_is_taken(right):
    assert Deadline.after(right).remaining() > 0
