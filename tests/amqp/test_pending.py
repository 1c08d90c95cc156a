"""A call ends once, however it leaves the table, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from amqp_rpc.amqp.pending import InFlight


@dataclass(eq=False)
class Call:
    expires_at: float


@pytest.fixture
def pending() -> InFlight[Call]:
    return InFlight()


def enter(pending: InFlight[Call], identity: str, expires_at: float) -> Call:
    call = Call(expires_at)
    pending.add(identity, call)
    pending.watch(call)
    return call


def test_a_call_is_taken_once(pending):
    call = enter(pending, "a", 5.0)
    assert pending.take("a") is call
    assert pending.take("a") is None
    assert len(pending) == 0


@pytest.mark.parametrize("identity", ["b", None, b"a", "", 5])
def test_a_reply_to_nobody_takes_nothing(pending, identity):
    enter(pending, "a", 5.0)
    assert pending.take(identity) is None
    assert len(pending) == 1


def test_calls_expire_at_their_time_and_the_others_stay(pending):
    first, second = enter(pending, "a", 5.0), enter(pending, "b", 6.0)
    assert list(pending.expired(4.9)) == []
    assert list(pending.expired(5.0)) == [first]
    assert [second] == [call for _, call in pending]
    assert list(pending.expired(10.0)) == [second]
    assert len(pending) == 0


def test_a_call_that_was_taken_does_not_expire(pending):
    enter(pending, "a", 5.0)
    pending.take("a")
    assert list(pending.expired(9.0)) == []


def test_the_earliest_time_is_known_and_moves_on(pending):
    assert pending.earliest == float("inf")
    enter(pending, "a", 7.0)
    enter(pending, "b", 5.0)
    enter(pending, "c", 6.0)
    assert pending.earliest == 5.0
    list(pending.expired(5.5))
    assert pending.earliest == 6.0
    list(pending.expired(8.0))
    assert pending.earliest == float("inf")


def test_the_table_may_change_while_it_is_looked_at(pending):
    for identity in "abc":
        enter(pending, identity, 5.0)
    for identity, _ in pending:
        pending.take(identity)
    assert len(pending) == 0
