"""When what must not be lost is published, and when another server publishes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from amqp_rpc.amqp.channel import Channel, Delivery
from amqp_rpc.message.envelope import Properties
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
