"""The trial of a queue before it is consumed costs nobody a call, whatever else happens to the queue meanwhile."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.message.envelope import PROBE
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.server import redelivered_check
from tests.served_by import Raw
from tests.waiting import until

Serve = Callable[..., Server]


@pytest.fixture
def before_trials(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen at the moment in which a trial begins, the first time."""

    def set_up(happen: Callable[[], object]) -> None:
        real = redelivered_check._Trial.begin
        todo = [happen]

        def begin(self: Any, channel: Any) -> None:
            if todo:
                todo.pop()()
            real(self, channel)

        monkeypatch.setattr(redelivered_check._Trial, "begin", begin)

    return set_up


def test_a_call_that_comes_during_the_trial_is_served(
    raw: Raw, serve: Serve, service: Service, before_trials: Callable[..., None]
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

    before_trials(call)
    server = serve(service)
    until(lambda: _polled(raw), what="the answer")
    assert [(properties.type, json.loads(body)) for properties, body in raw.replies] == [("result", 42)]
    until(lambda: server.counters["result"] == 1 and not server._state.unacked, what="its acknowledgement")


def test_another_servers_probe_is_not_left_in_the_queue(
    raw: Raw, serve: Serve, service: Service, client: Client, before_trials: Callable[..., None]
) -> None:
    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    def probe() -> None:
        raw.send(service.queue, b"", type=PROBE, message_id="another's")
        until(lambda: raw.count(service.queue) == 1, what="the probe in the queue")

    before_trials(probe)
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


def test_a_server_that_is_stopped_during_the_trial_consumes_nothing(
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
        trials: list[Callable[[], object]] = []
        real = redelivered_check._Trial.begin
        monkeypatch.setattr(redelivered_check._Trial, "begin", lambda *given: trials.append(lambda: real(*given)))
        raw.channel.queue_delete(service.queue)
        until(lambda: trials, what="the trial of the new queue")
        stopped = threading.Thread(target=server.stop)
        stopped.start()
        until(lambda: server._consumers._ending, what="the drain")
        server._connection.post(trials[0])
        go_on.set()
        stopped.join(20)
        assert not stopped.is_alive()
        assert held.exception() is None
        assert server.counters["consumed"] == 1
    assert raw.channel.queue_declare(service.queue, passive=True).method.consumer_count == 0


def _polled(raw: Raw) -> int:
    raw.connection.process_data_events(0.01)
    return len(raw.replies)
