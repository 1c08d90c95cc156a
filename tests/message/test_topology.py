"""Names on the broker, which other programs rely on; and every delay passes the levels that add up to it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import topology
from amqp_rpc.message.topology import (
    LEVELS,
    LONGEST_DELAY,
    UNIT,
    arrived_binding,
    call_queue,
    dead_letter_queue,
    delayed_key,
    held_binding,
    highest_level,
    passed_binding,
    split_call,
    unique,
    units,
)


@pytest.mark.parametrize(("service", "queue"), [(None, "rpc_queue"), ("billing", "rpc_queue.billing")])
def test_the_queue_of_a_service_is_called(service, queue):
    assert queue == call_queue(service)


def test_dead_letters_of_a_queue_are_beside_it():
    assert dead_letter_queue("rpc_queue.billing") == "rpc_queue.billing.dead"


@pytest.mark.parametrize(
    ("target", "expected"),
    [("fib", ("rpc_queue", "fib")), ("billing.charge", ("rpc_queue.billing", "charge"))],
)
def test_a_target_names_a_queue_and_a_function(target, expected):
    assert expected == split_call(target)


@pytest.mark.parametrize("target", ["", ".", ".fib", "billing."])
def test_a_target_without_a_function_or_with_an_empty_service_is_refused(target):
    with pytest.raises(ConfigurationError, match="names no function"):
        split_call(target)


def test_the_longest_names_that_amqp_takes_are_taken():
    assert split_call("f" * 255)
    assert split_call("s" * 245 + ".f")


@pytest.mark.parametrize("target", ["f" * 256, "é" * 128, "s" * 246 + ".f"], ids=["ascii", "two bytes each", "service"])
def test_a_name_too_long_for_amqp_is_refused(target):
    with pytest.raises(ConfigurationError, match="at most 255 bytes"):
        split_call(target)


def test_a_key_is_taken_for_sixty_seconds_however_that_is_written():
    assert unique("q", b"key", 60) == unique("q", b"key", 60.0)
    assert unique("q", b"key", 60) != unique("q", b"key", 30)


def matches(binding: str, key: str) -> bool:
    """As a topic exchange decides: https://www.rabbitmq.com/tutorials/tutorial-five-python."""
    words = [{"*": "[^.]+", "#": ".*"}.get(word, re.escape(word)) for word in binding.split(".")]
    return re.fullmatch(r"\.".join(words), key) is not None


def held_for(key: str, level: int) -> int:
    """The units that a message with this key is held for, from this level on, as the broker would route it."""
    total = 0
    for each in range(level, -1, -1):
        # Exactly one of the two bindings of a level takes it, or it would be lost or doubled.
        assert matches(held_binding(each), key) != matches(passed_binding(each), key)
        total += 2**each if matches(held_binding(each), key) else 0
    return total


@given(st.integers(1, 2**LEVELS - 1), st.sampled_from(["thumbnails", "task_queue.billing", "1", "0.1.0"]))
def test_a_message_is_held_for_its_delay_and_arrives_at_its_queue_alone(count, queue):
    key = delayed_key(count, queue)
    assert held_for(key, highest_level(count)) == count
    assert matches(arrived_binding(queue), key)
    assert not any(matches(arrived_binding(other), key) for other in ("other", f"a.{queue}", f"{queue}.b"))


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
    assert held_binding(LEVELS - 1) == "1.#"
    assert passed_binding(topology.LEVELS - 2) == "*.0.#"


def test_the_sign_of_a_bound_has_a_name_that_amqp_takes_however_long_the_queue_s_is() -> None:
    assert topology.bounded("rpc_queue.billing") == "amqp_rpc.bounded.rpc_queue.billing"
    longest = [topology.bounded("ä" * 100 + each) for each in ("a" * 50, "b" * 50)]
    assert longest[0] != longest[1]
    assert all(len(each.encode()) <= 255 for each in longest)


@given(st.integers(1, 2**LEVELS - 1), st.text(min_size=1, max_size=20))
def test_the_queue_of_a_delayed_message_is_read_from_its_routing_key(count: int, queue: str) -> None:
    assert topology.delayed_queue(delayed_key(count, queue)) == queue


@pytest.mark.parametrize(
    "key", ["", "thumbnails", "0.1.thumbnails", delayed_key(1, "x")[:-1], "x" + delayed_key(1, "x")]
)
def test_another_routing_key_is_that_of_no_delayed_message(key: str) -> None:
    assert topology.delayed_queue(key) is None
