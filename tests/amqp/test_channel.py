"""One acknowledgement for as many deliveries as possible, and never for one that is not settled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.amqp.channel import Acks


@pytest.mark.parametrize(
    ("settled", "acknowledged"),
    [
        ([[1], [2], [3]], [[(1, False)], [(2, False)], [(3, False)]]),
        ([[1, 2, 3]], [[(3, True)]]),
        ([[3, 1, 2], [4, 5]], [[(3, True)], [(5, True)]]),
        ([[2], [1]], [[(2, False)], [(1, False)]]),
        # 2 was acknowledged alone: the broker does not know it any more, and 3 covers 1.
        ([[2], [1, 3]], [[(2, False)], [(3, True)]]),
        ([[2, 4], [1], [3]], [[(2, False), (4, False)], [(1, False)], [(3, False)]]),
        ([[5, 1, 2, 7]], [[(2, True), (5, False), (7, False)]]),
    ],
)
def test_what_is_acknowledged(settled, acknowledged):
    acks = Acks()
    assert [acks.settle(tags) for tags in settled] == acknowledged


@given(st.permutations(range(1, 40)), st.lists(st.integers(1, 8), min_size=40, max_size=40))
def test_every_delivery_is_acknowledged_once_and_none_before_it_is_settled(order, sizes):
    acks, waiting, settled = Acks(), set(order), set()
    rest = list(order)
    for size in sizes:
        tags, rest = rest[:size], rest[size:]
        if not tags:
            break
        settled |= set(tags)
        for tag, multiple in acks.settle(tags):
            assert tag in waiting, "the broker closes the channel for a tag that it does not know"
            covered = {each for each in waiting if each <= tag} if multiple else {tag}
            assert covered <= settled
            waiting -= covered
        assert not settled & waiting
    assert not waiting
