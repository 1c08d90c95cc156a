"""The check of a queue before it is consumed costs no call, whatever else happens to the queue meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.amqp.channel import BrokerAnswer
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.message.envelope import PROBE
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.server import redelivered_check
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.fixture
def before_check(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen at the moment at which a check begins, the first time."""

    def set_up(happen: Callable[[], object]) -> None:
        real = redelivered_check.flags_redelivered
        todo = [happen]

        async def check(*given: Any) -> bool:
            if todo:
                todo.pop()()
            return await real(*given)

        monkeypatch.setattr(redelivered_check, "flags_redelivered", check)

    return set_up


def test_a_call_that_comes_during_the_check_is_served(
    raw: Raw, serve: Serve, service: Service, before_check: Callable[..., None]
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    def call() -> None:
        raw.send(
            service.queue, b"[[21],{}]", content_type="application/json", type="double",
            reply_to=raw.reply_queue, correlation_id="1",
        )  # fmt: skip
        until(lambda: raw.count(service.queue) == 1, what="the call in the queue")

    before_check(call)
    server = serve(service)
    until(lambda: _polled(raw), what="the answer")
    assert [(properties.type, json.loads(body)) for properties, body in raw.replies] == [("result", 42)]
    until(lambda: server.counters["result"] == 1 and not server._state.unacked, what="its acknowledgement")


def test_another_servers_probe_is_not_left_in_the_queue(
    raw: Raw, serve: Serve, service: Service, client: Client, before_check: Callable[..., None]
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    def probe() -> None:
        raw.send(service.queue, b"", type=PROBE, message_id="another's")
        until(lambda: raw.count(service.queue) == 1, what="the probe in the queue")

    before_check(probe)
    server = serve(service)
    assert client.call(double, 2) == 4
    assert server.counters == {"consumed": 1, "result": 1}
    assert raw.count(service.queue) == 0


def test_a_probe_that_reaches_a_server_is_let_go(raw: Raw, serve: Serve, service: Service, client: Client) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    server = serve(service)
    raw.send(service.queue, b"", type=PROBE)
    until(lambda: server.counters["probe"] == 1, what="the probe")
    assert client.call(double, 2) == 4
    with pytest.raises(pika.exceptions.ChannelClosedByBroker):
        raw.channel.queue_declare(dead_letter_queue(service.queue), passive=True)


def test_a_server_that_is_stopped_during_the_check_consumes_nothing(
    url: str, raw: Raw, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @service.rpc
    def wait() -> None:
        begun.set()
        go_on.wait(30)

    with Server(service, url=url, threads=1) as server, Client(url) as client:
        held = client.submit(wait)
        assert begun.wait(20)
        checks: list[BrokerAnswer[None]] = []
        real = redelivered_check.flags_redelivered

        async def check(*given: Any) -> bool:
            checks.append(BrokerAnswer())
            await checks[0]
            return await real(*given)

        monkeypatch.setattr(redelivered_check, "flags_redelivered", check)
        raw.channel.queue_delete(service.queue)
        until(lambda: checks, what="the check of the new queue")
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        until(lambda: not server._consumers[0].wanted(), what="the drain")
        server._connection.post(checks[0].arrive, None)
        go_on.set()
        stopped.join(20)
        assert not stopped.is_alive()
        assert held.exception() is None
        assert server.counters["consumed"] == 1
    assert raw.channel.queue_declare(service.queue, passive=True).method.consumer_count == 0


def test_a_queue_that_is_busy_for_a_second_is_checked_all_the_same(
    raw: Raw, serve: Serve, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    waited, checked = [0.0], []
    real, pause = redelivered_check.flags_redelivered, Connection.pause

    async def check(*given: Any) -> bool:
        checked.append(await real(*given))
        return checked[-1]

    def busy(connection: Connection, seconds: float) -> BrokerAnswer[None]:
        waited[0] += seconds
        if waited[0] > 0.5 and raw.count(service.queue):
            raw.channel.basic_get(service.queue, auto_ack=True)
        return pause(connection, 0.0)

    raw.channel.queue_declare(service.queue, durable=True, arguments={"x-queue-type": "classic"})
    raw.send(service.queue, b"", type=PROBE)
    until(lambda: raw.count(service.queue) == 1, what="the message in the queue")
    monkeypatch.setattr(redelivered_check, "flags_redelivered", check)
    monkeypatch.setattr(Connection, "pause", busy)
    serve(service)
    assert checked == [True]


def test_a_queue_that_stays_busy_is_consumed_unchecked_and_the_log_says_so(
    raw: Raw, serve: Serve, service: Service, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    @service.rpc(default=True)
    def double(n: int) -> int:
        return 2 * n

    raw.channel.queue_declare(service.queue, durable=True, arguments={"x-queue-type": "classic"})
    raw.send(service.queue, b"21", reply_to=raw.reply_queue, correlation_id="1")
    until(lambda: raw.count(service.queue) == 1, what="the call in the queue")
    serve(service)
    until(lambda: _polled(raw), what="the answer")
    assert [body for _, body in raw.replies] == [b"42"]
    assert f"queue {service.queue}: not checked for its `redelivered` flag" in caplog.text


def _polled(raw: Raw) -> int:
    raw.connection.process_data_events(0.01)
    return len(raw.replies)
