"""Room for calls is bounded, waited for, and given back."""

from __future__ import annotations

import threading

from amqp_rpc.client.calls import Capacity
from amqp_rpc.message.timing import Deadline
from tests.waiting import until

SOON, LATER = 0.05, 20.0


def test_no_more_calls_than_there_is_room_for_are_let_in():
    capacity = Capacity(calls=2, size=1000)
    assert [capacity.take(1, Deadline.after(SOON).at) for _ in range(3)] == [True, True, False]
    capacity.give(1)
    assert capacity.take(1, Deadline.after(SOON).at)


def test_no_more_bytes_than_there_is_room_for_are_let_in():
    capacity = Capacity(calls=100, size=10)
    assert capacity.take(6, Deadline.after(SOON).at)
    assert not capacity.take(5, Deadline.after(SOON).at)
    assert capacity.take(4, Deadline.after(SOON).at)


def test_a_single_call_is_let_in_however_large_it_is():
    capacity = Capacity(calls=2, size=10)
    assert capacity.take(1000, Deadline.after(SOON).at)
    assert not capacity.fits(1)
    capacity.give(1000)
    assert capacity.fits(1)


def test_who_waits_is_let_in_when_room_is_given_back():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1, Deadline.after(SOON).at)
    let_in: list[bool] = []
    waiting = threading.Thread(target=lambda: let_in.append(capacity.take(1, Deadline.after(LATER).at)))
    waiting.start()
    capacity.give(1)
    waiting.join(LATER)
    assert let_in == [True]


def test_closing_lets_everybody_in():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1, Deadline.after(SOON).at)
    let_in: list[bool] = []
    threads = [
        threading.Thread(target=lambda: let_in.append(capacity.take(1, Deadline.after(LATER).at))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    capacity.close()
    until(lambda: len(let_in) == 5)
    assert all(let_in)
