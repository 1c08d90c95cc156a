"""Waits between attempts grow, stay within their bound, and differ between clients."""

from __future__ import annotations

import pytest

from amqp_rpc.message.retry import backoff


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
