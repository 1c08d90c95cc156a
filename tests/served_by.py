"""A server in this process, a client for it, and a raw AMQP channel that can send what no client of ours would."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from amqp_rpc import Client, Server, Service
from amqp_rpc.amqp import declare
from amqp_rpc.message.topology import dead_letter_arguments, task_arguments
from tests.waiting import until

Serve = Callable[..., Server]
#: As workers declare queues of dead letters.
DEAD = dead_letter_arguments(task_arguments("quorum"))


@pytest.fixture(autouse=True)
def new_queues_are_used_at_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Don't wait until what is new would survive the end of the broker, where no test ends the broker."""
    # Not the fixture `monkeypatch`: it would be set up before all others, and undone after they are closed.
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("ends_node") is None:
            patch.setattr(declare, "LASTING_AFTER", 0.01)
        yield


@pytest.fixture
def service() -> Service:
    """A service whose queue no other test uses."""
    return Service(f"t{secrets.token_hex(6)}")


def noting(queue: str) -> tuple[Service, Callable[[int], None], list[int]]:
    """A service with one task, that task, and the numbers that it has run with."""
    service, ran = Service(), list[int]()

    @service.task(queue=queue)
    def work(n: int) -> None:
        ran.append(n)

    return service, work, ran


@pytest.fixture
def serve(url: str) -> Iterator[Callable[..., Server]]:
    """Start a server for services, with `Server`'s options; it is stopped when the test ends."""
    servers: list[Server] = []

    def start(*services: Service, **options: Any) -> Server:
        server = Server(*services, url=url, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop(drain_timeout=5)


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout=20) as client:
        yield client


@dataclass
class Raw:
    """A RabbitMQ client that knows nothing of ours."""

    connection: Any
    channel: Any
    reply_queue: str
    replies: list[tuple[Any, bytes]] = field(default_factory=list)

    def send(self, queue: str, body: bytes, **properties: Any) -> None:
        self.channel.basic_publish("", queue, body, pika.BasicProperties(**properties))

    def ask(self, queue: str, body: bytes, **properties: Any) -> tuple[Any, bytes]:
        """Send a request and return the properties and the body of its reply."""
        before = len(self.replies)
        self.send(queue, body, **{"reply_to": self.reply_queue, "correlation_id": "1", **properties})
        until(lambda: self._poll(before), what="a reply")
        return self.replies[-1]

    def get(self, queue: str) -> tuple[Any, bytes]:
        """Take one message from a queue, which may have to arrive yet."""

        def take() -> tuple[Any, bytes] | None:
            method, properties, body = self.channel.basic_get(queue, auto_ack=True)
            return (properties, body) if method else None

        return until(take, what=f"a message in {queue}")

    def count(self, queue: str) -> int:
        """Return how many messages of a queue wait to be delivered."""
        return int(self.channel.queue_declare(queue, passive=True).method.message_count)

    def _poll(self, before: int) -> bool:
        self.connection.process_data_events(0.01)
        return len(self.replies) > before


class ClassicByDefault(BlockingChannel):
    """Declares classic queues unless another type is asked for: a virtual host may have another default."""

    def queue_declare(self, queue: str, *, passive: bool = False, arguments: Any = None, **more: Any) -> Any:
        if not passive and queue and not more.get("exclusive"):
            arguments = {"x-queue-type": "classic", **(arguments or {})}
        return super().queue_declare(queue, passive=passive, arguments=arguments, **more)


@pytest.fixture
def raw(url: str) -> Iterator[Raw]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.__class__ = ClassicByDefault
    queue = channel.queue_declare("", exclusive=True).method.queue
    raw = Raw(connection, channel, queue)
    channel.basic_consume(queue, lambda _c, _m, properties, body: raw.replies.append((properties, body)), auto_ack=True)
    yield raw
    if connection.is_open:
        connection.close()


@pytest.fixture
def queue(raw: Raw) -> str:
    """A task queue of the test's own, whose dead letters' queue is there before a server asks for it."""
    name = f"t{secrets.token_hex(6)}"
    declare_dead(raw, name)
    return name


def declare_dead(raw: Raw, queue: str) -> None:
    """Declare the queue of dead letters: RabbitMQ 3.10 can't be asked for messages while another one declares it."""
    raw.channel.queue_declare(f"{queue}.dead", durable=True, arguments=DEAD)


def dead_letter(raw: Raw, queue: str, *, timeout: float = 20.0) -> Any:
    """Wait for the one dead letter of a queue; return its properties."""
    method, properties, _ = until(
        lambda: got if (got := raw.channel.basic_get(f"{queue}.dead"))[0] else None, timeout=timeout
    )
    assert method.message_count == 0
    return properties


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """The event that slow handlers wait for; they end with the test."""
    event = threading.Event()
    yield event
    event.set()


def lines(path: Path) -> list[list[str]]:
    """The words of each line that served functions have written down: a word, and the number of their process."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
