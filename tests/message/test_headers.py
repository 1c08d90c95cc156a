"""Headers are read from any program's messages: no value may raise, and none is taken for what it is not."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message import headers
from amqp_rpc.message.headers import (
    DECISIVE,
    FOR_PEOPLE,
    RESERVED,
    check_headers,
    delivery_count,
    only_carried,
    others,
    read_count,
    read_reason,
    read_text,
    read_time,
)

ANYTHING = st.none() | st.integers(-(2**63), 2**64) | st.floats() | st.binary() | st.text() | st.lists(st.booleans())


@pytest.mark.parametrize(("value", "read"), [(0, 0), (7, 7), (-1, 5), (True, 5), (2.0, 5), ("2", 5), (None, 5)])
def test_a_count_is_a_whole_number_from_0(value, read):
    assert read_count(value, 5) == read


@pytest.mark.parametrize(
    ("value", "per_second", "read"),
    [
        (1_700_000_000, 1, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_500, 1000, datetime(2023, 11, 14, 22, 13, 20, 500_000, tzinfo=UTC)),
        (datetime(2023, 1, 1), 1, datetime(2023, 1, 1, tzinfo=UTC)),  # noqa: DTZ001 - as pika reads AMQP's timestamps
        (True, 1, None),
        ("1700000000", 1, None),
        (2**64, 1, None),
        (float("nan"), 1, None),
    ],
)
def test_a_time_is_a_number_or_a_timestamp(value, per_second, read):
    assert read_time(value, per_second=per_second) == read


@pytest.mark.parametrize(("value", "read"), [("a", "a"), (b"\xff", "\\xff"), (None, None), (3, "3")])
def test_a_text_that_is_not_utf_8_is_escaped(value, read):
    assert read_text(value) == read


def test_the_reason_of_a_death_is_ours_or_the_brokers():
    assert read_reason({"reason": "ours", "x-first-death-reason": "rejected"}) == "ours"
    assert read_reason({"x-first-death-reason": "rejected"}) == "rejected"
    assert read_reason({}) is None


class Long(int):
    """As pika's class of whole numbers of 64 bits."""


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        (None, None),
        ({}, None),
        ({"x-delivery-count": 3}, 3),
        ({"x-delivery-count": "3"}, None),
        ({"x-delivery-count": -3}, None),
        ({"x-acquired-count": 3}, 0),
        ({"x-acquired-count": 3, "x-delivery-count": 2}, 2),
        ({"x-delivery-count": True}, None),
        ({"x-delivery-count": Long(2)}, 2),
    ],
)
def test_the_delivery_count_is_a_quorum_queues(given, counted):
    assert delivery_count(given) == counted


def test_the_headers_that_the_broker_or_a_plugin_reads_are_left_out():
    read = {"x-death": [], "x-delay": 5, "x-deduplication-header": "a", "CC": ["q"], "BCC": ["q"]}
    assert only_carried({**read, "mine": 1, 5: 2, "X-Request-Id": "b", "cc": "c"}) == {
        "mine": 1, 5: 2, "X-Request-Id": "b", "cc": "c",
    }  # fmt: skip
    assert only_carried(None) == {}


@settings(max_examples=50, deadline=None)
@given(ANYTHING)
def test_nothing_that_amqp_can_carry_makes_reading_fail(value):
    read_count(value, 0)
    read_text(value)
    read_time(value, per_second=1000)


def test_every_header_of_ours_is_either_for_people_or_decisive():
    names = {value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)}
    assert names - {headers.BROKER_PREFIX, headers.ITEM_ID} - {"x-delivery-count", "x-first-death-reason"} == RESERVED
    assert DECISIVE | FOR_PEOPLE | {headers.WANTS_ALIVE} == RESERVED


@pytest.mark.parametrize("given", [{"attempt": 1}, {"x-delay": 1}, {5: 1}, {"amqp_rpc.topic": "x"}, [("a", 1)]])
def test_headers_that_mean_something_to_us_can_t_be_given(given):
    with pytest.raises(ConfigurationError):
        check_headers(given, "an event")


def test_a_reserved_header_is_refused_with_the_kind_of_the_message():
    with pytest.raises(ConfigurationError, match="a task can't have a header 'attempt'"):
        check_headers({"attempt": 1}, "a task")


def test_headers_of_ones_own_are_copied():
    mine = {"tenant": "acme"}
    assert check_headers(mine, "a call") == mine
    assert check_headers(mine, "a call") is not mine
    assert check_headers(None, "a call") == {}


def test_the_senders_own_headers_are_neither_ours_nor_the_brokers():
    assert others({"attempt": 2, "deadline": 5, "x-death": [], "traceparent": "00-1", "tenant": 3}) == {
        "traceparent": "00-1",
        "tenant": 3,
    }
