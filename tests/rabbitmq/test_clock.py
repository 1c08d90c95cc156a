"""Schedules through a real broker: each tick once, whoever dies, and the latest one after an outage."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import pytest

from amqp_rpc import Server, Service
from tests.waiting import until

Serve = Callable[..., Server]


def test_of_two_servers_each_tick_is_enqueued_once(serve: Serve, service: Service) -> None:
    ran: list[str] = []

    @service.every(0.1)
    @service.task
    def tick() -> None:
        ran.append("x")

    serve(service)
    serve(service)
    until(lambda: len(ran) > 10)
