"""The count of unfinished items: right for receipts in any order and twice, and small."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.queues.items import Unfinished


def test_nothing_put_is_nothing_to_wait_for() -> None:
    assert Unfinished().outcome().done()


def test_it_is_told_once_the_last_is_done() -> None:
    unfinished = Unfinished()
    numbers = [unfinished.add() for _ in range(3)]
    outcome = unfinished.outcome()
    for number in (numbers[2], numbers[0], numbers[2]):
        unfinished.done(number)
        assert not outcome.done()
    assert len(unfinished) == 1
    unfinished.done(numbers[1])
    assert outcome.done()
    assert unfinished.lost() == 0


@given(st.permutations(range(30)), st.integers(0, 30))
def test_any_order_will_do_and_twice_is_once(order: list[int], so_far: int) -> None:
    unfinished = Unfinished()
    assert [unfinished.add() for _ in order] == list(range(30))
    for number in order[:so_far]:
        unfinished.done(number)
        unfinished.done(number)
    assert len(unfinished) == 30 - so_far
    assert unfinished.outcome().done() == (so_far == 30)
    assert len(unfinished._open) <= 30


def test_what_was_never_put_is_not_done() -> None:
    unfinished = Unfinished()
    unfinished.add()
    unfinished.done(1)
    unfinished.done(-1)
    assert len(unfinished) == 1


def test_a_million_that_are_not_done_take_a_megabyte() -> None:
    unfinished = Unfinished()
    for _ in range(1_000_000):
        unfinished.add()
    assert len(unfinished) == len(unfinished._open) == 1_000_000


def test_what_is_done_takes_no_room_unless_an_older_one_is_not() -> None:
    unfinished = Unfinished()
    for _ in range(10_000):
        unfinished.done(unfinished.add())
    assert len(unfinished._open) == 0
    oldest = unfinished.add()
    for _ in range(10_000):
        unfinished.done(unfinished.add())
    assert len(unfinished) == 1
    assert len(unfinished._open) == 10_001
    unfinished.done(oldest)
    assert unfinished.outcome().done()
    assert len(unfinished._open) == 0


def test_what_is_lost_sight_of_is_not_waited_for_and_is_said_once() -> None:
    unfinished = Unfinished()
    numbers = [unfinished.add() for _ in range(4)]
    unfinished.done(numbers[1])
    outcome = unfinished.outcome()
    assert unfinished.lose() == 3
    assert outcome.done()
    assert (unfinished.lost(), unfinished.lost()) == (3, 0)
    # A receipt that comes after all changes nothing.
    unfinished.done(numbers[0])
    assert len(unfinished) == 0
    later = unfinished.add()
    assert len(unfinished) == 1
    unfinished.done(later)
    assert unfinished.outcome().done()


def test_the_end_is_told_to_all() -> None:
    unfinished = Unfinished()
    unfinished.add()
    outcome = unfinished.outcome()
    unfinished.end()
    assert outcome.done()
    assert len(unfinished) == 1


def test_threads_may_put_while_another_is_done() -> None:
    unfinished = Unfinished()
    added: list[int] = []

    def put() -> None:
        for _ in range(5000):
            number = unfinished.add()
            added.append(number)

    def finish() -> None:
        count = 0
        while count < 20_000:
            if added:
                unfinished.done(added.pop())
                count += 1

    threads = [threading.Thread(target=put) for _ in range(4)] + [threading.Thread(target=finish)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(unfinished) == 0
    assert len(unfinished._open) == 0


def test_a_receipt_counts_for_the_item_that_it_has_the_proof_of_and_for_no_other() -> None:
    unfinished = Unfinished("me")
    for _ in range(3):
        unfinished.add()
    first = unfinished.identity(0)
    proof = first.rpartition("-")[2]
    guesses = [
        f"me-1-{proof}",
        "me-1-",
        "me-1",
        "me",
        "",
        "me--",
        "me-z-y",
        f"me-1-{'0' * 32}",
        "me--1-x",
        "me-1-é\ud800",
    ]
    for guess in guesses:
        unfinished.received(guess)
    assert len(unfinished) == 3
    unfinished.received(Unfinished("me").identity(0))
    assert len(unfinished) == 3
    for _ in range(2):
        unfinished.received(first)
    assert len(unfinished) == 2
    unfinished.received(unfinished.identity(2))
    assert len(unfinished) == 1
