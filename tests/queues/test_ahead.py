"""How many items come ahead: one, more for who keeps up, and one again for who does not."""

from __future__ import annotations

from amqp_rpc.queues.ahead import MOST, Ahead


def pace(ahead: Ahead, seconds: float, *, taken: int = 0, now: float = 0.0, rounds: int = 20) -> int:
    """Take items at a pace, and come for more whenever as many as came ahead are taken; return how many may come."""
    for _ in range(rounds):
        taken += ahead.count
        now += seconds * ahead.count
        ahead.waits(taken, now)
    return ahead.count


def test_at_first_one_comes() -> None:
    assert Ahead(0.0).count == 1


def test_who_is_fast_is_given_many_and_never_more_than_the_most() -> None:
    assert pace(Ahead(0.0), 0.00001) == MOST


def test_who_takes_a_tenth_of_a_second_is_given_one_at_a_time() -> None:
    assert pace(Ahead(0.0), 0.1) == 1


def test_no_more_come_than_are_taken_in_a_tenth_of_a_second() -> None:
    for seconds in (0.02, 0.005, 0.001, 0.0005):
        assert pace(Ahead(0.0), seconds) * seconds <= 0.1


def test_who_has_waited_long_before_is_fast_when_it_is_fast() -> None:
    ahead = Ahead(0.0)
    ahead.waits(1, 1000.0)
    assert ahead.count == 1
    assert pace(ahead, 0.0001, taken=1, now=1000.0) == MOST


def test_nothing_changes_before_what_came_was_taken() -> None:
    ahead = Ahead(0.0)
    assert not ahead.waits(0, 1.0)
    assert ahead.waits(1, 0.01)
    assert not ahead.waits(2, 0.011)


def test_more_that_are_worked_at_together_make_room_for_more_and_not_without_end() -> None:
    ahead, counts = Ahead(0.0), []
    for _ in range(8):
        ahead.held()
        counts.append(ahead.count)
    assert counts == sorted(counts)
    assert 8 <= counts[-1] < MOST


def test_what_came_in_vain_comes_no_more() -> None:
    ahead = Ahead(0.0)
    pace(ahead, 0.00001)
    ahead.wasted(20)
    assert ahead.count == 20
    ahead.wasted(0)
    assert ahead.count == 1
