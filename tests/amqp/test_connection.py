"""What a connection logs, and what pika does not."""

from __future__ import annotations

import logging

import pika
import pika.exceptions
import pytest

from amqp_rpc import Client, NotConnected

#: Nobody listens at these ports.
DEAD = "amqp://127.0.0.1:1", "amqp://127.0.0.1:2"


def test_an_address_that_fails_is_not_in_the_log_as_an_error_of_pika(caplog: pytest.LogCaptureFixture) -> None:
    with Client(",".join(DEAD), timeout=5) as client, pytest.raises(NotConnected):
        client.call("fib", 1)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_nothing_is_logged_where_the_next_address_works(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Client(",".join([*DEAD, url])) as client:
        assert client.queue_states(["nosuch"]) == {"nosuch": None}
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_connection_that_the_program_makes_itself_is_logged_by_pika(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        pika.BlockingConnection(pika.URLParameters(DEAD[0]))
    assert any(record.name.startswith("pika.") for record in caplog.records)
