"""The tutorial's client, extended to several calls in flight."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic

from benchmarks import closed
from benchmarks.open_loop import Pacer, Schedule
from benchmarks.protocol import PATIENCE, Payloads, Reply, Request, answer, check


class Client:
    """One connection, with a queue for answers; not for several threads, as pika's connections are not."""

    def __init__(self) -> None:
        self._queue = os.environ["BENCH_QUEUE"]
        parameters = pika.URLParameters(os.environ["AMQP_URL"])
        parameters.heartbeat = 0  # it reads only while it calls, and others have their turns in between
        self.connection = pika.BlockingConnection(parameters)
        self._channel = self.connection.channel()
        self._answers = self._channel.queue_declare(queue="", exclusive=True).method.queue
        self.waiting: dict[str, Callable[[str], None]] = {}
        self._channel.basic_consume(queue=self._answers, on_message_callback=self._on_response, auto_ack=True)

    def _on_response(
        self, _channel: BlockingChannel, _method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        self.waiting.pop(properties.correlation_id)(body.decode())

    def submit(self, text: str, then: Callable[[str], None]) -> None:
        """Send a call; its answer is given to ``then`` while `wait` runs."""
        identity = str(uuid.uuid4())
        self.waiting[identity] = then
        self._channel.basic_publish(
            exchange="",
            routing_key=self._queue,
            properties=pika.BasicProperties(reply_to=self._answers, correlation_id=identity),
            body=text.encode(),
        )

    def wait(self, *, most: float = PATIENCE) -> None:
        """Process data until no call is in flight."""
        until = time.monotonic() + most
        while self.waiting:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(self.waiting)} calls were not answered within {most:g} s")
            self.connection.process_data_events(time_limit=1)

    def call(self, text: str) -> str:
        """Send a call, and return its answer."""
        answers: list[str] = []
        self.submit(text, answers.append)
        self.wait()
        return answers[0]


def one(request: Request) -> Reply:
    return closed.one(connected().call, request)


def many(request: Request) -> Reply:
    client, payload, calls = connected(), Payloads(request["size"]), 0

    def submit() -> None:
        nonlocal calls
        sent = payload(calls)
        calls += 1
        client.submit(sent, lambda text: answered(sent, text))

    def answered(sent: str, text: str) -> None:
        check(sent, text)
        if clock.runs():
            submit()

    clock = closed.Clock(request["seconds"])
    for _ in range(request["in_flight"]):
        submit()
    client.wait(most=request["seconds"] + PATIENCE)
    return clock.reply(calls)


def threads(request: Request) -> Reply:
    """Give each thread a connection, because pika's are for one thread (its FAQ)."""
    while len(connections) < request["threads"]:
        connections.append(Client())
    return closed.threads([client.call for client in connections[: request["threads"]]], request)


def open_loop(request: Request) -> Reply:
    client, schedule = connected(), Schedule(request)

    def tick() -> None:
        for number, body in schedule.due():
            client.submit(body, lambda text, number=number: schedule.answered(number, text))  # type: ignore[misc]

    with Pacer(schedule, lambda: client.connection.add_callback_threadsafe(tick)):
        while not schedule.ended:
            client.connection.process_data_events(time_limit=1)
    client.wait()
    return schedule.reply()


def connected() -> Client:
    """Return a connected client; one whose case failed, or that was idle for too long, is not used again."""
    if connections and (connections[0].waiting or not connections[0].connection.is_open):
        connections.clear()
    if not connections:
        connections.append(Client())
    return connections[0]


connections: list[Client] = []

if __name__ == "__main__":
    answer({"one": one, "many": many, "threads": threads, "open": open_loop})
