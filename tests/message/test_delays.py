"""Delays in the broker: every delay passes the levels that add up to it, no other, and is never short."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import delays
from amqp_rpc.message.delays import (
    LEVELS,
    LONGEST_DELAY,
    UNIT,
    arrived,
    delayed_key,
    held,
    highest_level,
    passed,
    units,
)


def matches(binding: str, key: str) -> bool:
    """As a topic exchange decides: https://www.rabbitmq.com/tutorials/tutorial-five-python."""
    words = [{"*": "[^.]+", "#": ".*"}.get(word, re.escape(word)) for word in binding.split(".")]
    return re.fullmatch(r"\.".join(words), key) is not None


def held_for(key: str, level: int) -> int:
    """The units that a message with this key is held for, from this level on, as the broker would route it."""
    total = 0
    for each in range(level, -1, -1):
        # Exactly one of the two bindings of a level takes it, or it would be lost or doubled.
        assert matches(held(each), key) != matches(passed(each), key)
        total += 2**each if matches(held(each), key) else 0
    return total


@given(st.integers(1, 2**LEVELS - 1), st.sampled_from(["thumbnails", "task_queue.billing", "1", "0.1.0"]))
def test_a_message_is_held_for_its_delay_and_arrives_at_its_queue_alone(count, queue):
    key = delayed_key(count, queue)
    assert held_for(key, highest_level(count)) == count
    assert matches(arrived(queue), key)
    assert not any(matches(arrived(other), key) for other in ("other", f"a.{queue}", f"{queue}.b"))


@given(st.floats(0, LONGEST_DELAY, allow_nan=False))
def test_no_delay_is_short_and_none_is_long_by_more_than_a_unit(seconds):
    # A millionth of a unit is what binary fractions are forgiven.
    assert -UNIT * 1e-6 <= units(seconds) * UNIT - seconds <= UNIT * 1.001


@pytest.mark.parametrize(("seconds", "count"), [(0, 0), (0.01, 1), (0.1, 1), (0.3, 3), (0.31, 4), (60, 600)])
def test_a_delay_is_rounded_up_to_units(seconds, count):
    assert units(seconds) == count


@pytest.mark.parametrize("seconds", [-1, LONGEST_DELAY + 1, float("nan"), float("inf"), "30", True])
def test_a_delay_that_can_t_be_is_refused(seconds):
    with pytest.raises(ConfigurationError, match="a delay is a number of seconds from 0 to"):
        units(seconds)


def test_a_queue_whose_name_leaves_no_room_for_a_delay_is_refused():
    delayed_key(1, "q" * (255 - 2 * LEVELS))
    with pytest.raises(ConfigurationError, match="can't have delays"):
        delayed_key(1, "q" * (256 - 2 * LEVELS))


def test_the_bindings_of_the_levels_have_one_word_for_each_level_above():
    assert held(LEVELS - 1) == "1.#"
    assert passed(delays.LEVELS - 2) == "*.0.#"
