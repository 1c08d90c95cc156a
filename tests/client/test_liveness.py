"""Lost calls are found by the reports of servers and the state of the queue."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.amqp.pending import InFlight
from amqp_rpc.client.future import PendingCall
from amqp_rpc.client.liveness import Liveness
from amqp_rpc.client.reply import Decoder

QUEUE = "rpc_queue"


class Watched:
    """A `Liveness` with calls, and what it has found."""

    def __init__(self) -> None:
        self.pending: InFlight[PendingCall] = InFlight()
        self.liveness = Liveness(self.pending)
        self.asked: list[str] = []
        self.lost: list[str] = []

    def write(
        self, identity: str, *, idempotent: bool = True, timeout: float = 10.0, queue: str = QUEUE
    ) -> PendingCall:
        call = PendingCall(
            identity, queue, "f", b"", timeout=timeout,
            idempotent=idempotent, wait_for_server=False, chunk=False, decoder=Decoder(None, 1000),
        )  # fmt: skip
        self.pending.add(identity, call)
        call.written = True
        self.liveness.written(call)
        return call

    def answer(self, identity: str, *, reports: bool = True) -> None:
        call = self.pending.take(identity)
        assert call is not None
        self.liveness.answered(call, reports=reports)

    def look(self, times: int) -> None:
        for _ in range(times):
            self.asked += self.liveness.look()

    def inspect(self, messages: int, consumers: int) -> None:
        state = QueueState(QUEUE, messages=messages, consumers=consumers)
        self.lost += [call.identity for call in self.liveness.lost(state)]


@pytest.fixture
def watched() -> Watched:
    """Its queue's server is known to send reports."""
    watched = Watched()
    watched.write("first")
    watched.answer("first")
    return watched


@pytest.mark.parametrize(("timeout", "looks"), [(1.0, 3), (10.0, 3), (15.0, 3), (30.0, 6), (50.0, 10), (600.0, 10)])
def test_the_queue_is_asked_for_after_a_tenth_of_the_timeout_within_bounds(watched, timeout, looks):
    watched.write("a", timeout=timeout)
    watched.look(looks - 1)
    assert watched.asked == []
    watched.look(1)
    assert watched.asked == [QUEUE]


def test_servers_without_reports_are_never_suspected():
    watched = Watched()
    watched.write("first")
    watched.answer("first", reports=False)
    watched.write("a")
    watched.look(100)
    assert watched.asked == []


def test_a_call_that_is_not_in_its_queue_any_more_is_lost(watched):
    watched.write("a")
    watched.look(3)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == ["a"]


def test_a_call_that_may_wait_in_its_queue_is_not_lost(watched):
    watched.write("a")
    watched.look(3)
    watched.inspect(messages=1, consumers=1)
    assert watched.lost == []


def test_a_report_restarts_the_silence(watched):
    watched.write("a")
    watched.look(2)
    watched.liveness.reported(["a", "unknown", 7, None, ["a"], b"a"])
    watched.look(2)
    watched.inspect(messages=0, consumers=1)
    assert watched.asked == watched.lost == []
    watched.look(1)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == ["a"]


def test_a_call_that_a_server_died_with_may_wait_in_its_queue_again(watched):
    watched.write("a")
    watched.liveness.reported(["a"])
    watched.look(10)
    watched.inspect(messages=1, consumers=1)
    assert watched.lost == []


def test_without_a_server_an_idempotent_call_waits_and_another_one_is_lost(watched):
    watched.write("pure")
    watched.write("once", idempotent=False)
    watched.liveness.reported(["pure", "once"])
    watched.look(3)
    watched.inspect(messages=2, consumers=0)
    assert watched.lost == ["once"]


def test_a_call_that_must_not_run_twice_and_may_run_still_is_left_alone(watched):
    watched.write("once", idempotent=False)
    watched.liveness.reported(["once"])
    watched.look(3)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == []


def test_a_call_in_a_queue_without_servers_that_was_never_reported_is_left_alone(watched):
    watched.write("once", idempotent=False)
    watched.look(3)
    watched.inspect(messages=1, consumers=0)
    assert watched.lost == []


def test_a_call_that_was_not_written_is_not_watched(watched):
    watched.write("a").written = False
    watched.look(100)
    watched.inspect(messages=0, consumers=1)
    assert watched.asked == watched.lost == []


def test_a_call_that_is_written_again_is_silent_from_then_on(watched):
    call: Any = watched.write("a")
    watched.liveness.reported(["a"])
    watched.look(3)
    watched.liveness.written(call)
    watched.look(2)
    watched.inspect(messages=0, consumers=1)
    assert watched.lost == []
