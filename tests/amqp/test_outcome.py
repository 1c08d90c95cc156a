"""An outcome is set once, and wakes every thread that waits for it."""

from __future__ import annotations

import threading
import time

from amqp_rpc.amqp.pending import Outcome
from tests.waiting import until

LONG = 60.0


def in_time() -> float:
    return time.monotonic() + LONG


def test_who_asks_before_it_is_told_hears_that_it_is_not_known():
    assert Outcome[int]().done() is False
    assert Outcome[int]().wait(time.monotonic()) is False


def test_who_asks_after_it_was_told_hears_it_at_once():
    outcome = Outcome[int]()

    outcome.tell(1)

    assert outcome.wait(time.monotonic() - 1)
    assert outcome.value == 1


def test_the_first_word_counts():
    outcome = Outcome[int]()

    outcome.tell(1)
    outcome.tell(2)

    assert outcome.value == 1


def test_all_that_wait_are_told():
    outcome = Outcome[str]()
    heard: list[str] = []

    def wait() -> None:
        assert outcome.wait(in_time())
        heard.append(outcome.value)

    waiting = [threading.Thread(target=wait) for _ in range(5)]
    for thread in waiting:
        thread.start()
    until(lambda: len(outcome._waiters) == 5)
    outcome.tell("done")
    for thread in waiting:
        thread.join(LONG)

    assert heard == ["done"] * 5


def test_who_has_waited_in_vain_is_forgotten():
    outcome = Outcome[int]()

    assert not outcome.wait(time.monotonic() + 0.001)

    assert outcome._waiters == []


def test_each_callback_is_called_once_whether_it_comes_before_or_after():
    outcome = Outcome[int]()
    called: list[str] = []

    outcome.on_done(lambda: called.append("before"))
    outcome.on_done(lambda: called.append("second"))
    outcome.tell(1)
    outcome.on_done(lambda: called.append("after"))

    assert called == ["before", "second", "after"]


def test_nobody_waits_on_when_two_threads_meet_at_that_very_moment():
    for _ in range(300):
        outcome, ended = Outcome[int](), []
        waiter = threading.Thread(target=lambda outcome=outcome, ended=ended: ended.append(outcome.wait(in_time())))
        teller = threading.Thread(target=outcome.tell, args=(1,))
        waiter.start()
        teller.start()
        waiter.join(LONG)
        teller.join(LONG)
        assert ended == [True]
