"""Room for calls in flight is bounded, given in the order of arrival, and given back."""

from __future__ import annotations

import threading

from amqp_rpc.client.call import Capacity
from amqp_rpc.message.timing import Deadline
from tests.waiting import until


def test_no_more_calls_than_there_is_room_for_get_room():
    capacity = Capacity(calls=2, size=1000)
    assert [capacity.take(1), capacity.take(1)] == [None, None]
    assert capacity.take(1) is not None


def test_no_more_bytes_than_there_is_room_for_get_room():
    capacity = Capacity(calls=100, size=10)
    assert capacity.take(6) is None
    waiting = capacity.take(5)
    assert waiting is not None
    assert capacity.leave(waiting)
    assert capacity.take(4) is None


def test_a_single_call_gets_room_however_large_it_is():
    capacity = Capacity(calls=2, size=10)
    assert capacity.take(1000) is None
    assert not capacity.fits(1)
    capacity.give(1000)
    assert capacity.fits(1)


def test_room_that_is_given_back_goes_to_those_that_wait_in_their_order():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = [capacity.take(1) for _ in range(3)]
    assert all(room is not None and not room.done() for room in waiting)
    capacity.give(1)
    assert [room.done() for room in waiting] == [True, False, False]
    capacity.give(1)
    assert [room.done() for room in waiting] == [True, True, False]


def test_room_is_not_taken_ahead_of_those_that_wait():
    capacity = Capacity(calls=100, size=10)
    assert capacity.take(9) is None
    large = capacity.take(5)
    assert large is not None
    assert not capacity.fits(1)
    small = capacity.take(1)
    assert small is not None
    # Only the large one kept it from its room.
    assert capacity.leave(large)
    assert small.done()


def test_a_place_that_has_got_room_can_not_be_left():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = capacity.take(1)
    assert waiting is not None
    capacity.give(1)
    assert not capacity.leave(waiting)


def test_a_thread_that_waits_goes_on_when_room_is_given_back():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    room = capacity.take(1)
    assert room is not None
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(room.wait(Deadline.after(20).at)))
    waiting.start()
    capacity.give(1)
    waiting.join(20)
    assert got == [True]


def test_closing_gives_room_to_all():
    capacity = Capacity(calls=1, size=10)
    assert capacity.take(1) is None
    waiting = [capacity.take(1) for _ in range(5)]
    capacity.close()
    until(lambda: all(room is not None and room.done() for room in waiting))
    assert capacity.take(1) is None
