"""Tasks that come again: when what becomes of one is another worker's to say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.message.envelope import Properties
from amqp_rpc.server.redelivery import deaths
from amqp_rpc.server.replies import _is_another_s


@pytest.mark.parametrize(
    ("is_open", "counted", "expected"),
    [
        (True, None, False),
        (True, 3, False),
        (False, None, True),
        (False, 3, True),
        (False, 15, False),
        (False, "", True),
    ],
)
def test_what_lost_its_channel_is_another_s_unless_the_broker_is_about_to_drop_it(
    is_open: bool, counted: Any, expected: bool
) -> None:
    """RabbitMQ 4 drops what a quorum queue got back 20 times: its dead letter must not wait for a 21st."""
    channel = cast(Channel, SimpleNamespace(is_open=is_open))
    headers = None if counted is None else {"x-delivery-count": counted}
    assert _is_another_s(Delivery(channel, 1, True, Properties(headers=headers), b"")) is expected


@pytest.mark.parametrize(
    ("before", "counted", "expected"),
    [(0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 7, 2), (1, 1, 2), (1, 7, 2), (2, 1, 3), (2, 3, 3), (4, 7, 5), (3, None, 4)],
)
def test_a_task_that_a_stopping_broker_gave_to_many_is_not_taken_for_what_ended_them(
    before: int, counted: int | None, expected: int
) -> None:
    headers = {} if counted is None else {"x-delivery-count": counted}
    assert deaths(before, Properties(headers=headers)) == expected
