"""Names on the broker, which other programs rely on."""

from __future__ import annotations

import pytest

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import call_queue, dead_letter_queue, split_call, unique


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
