"""With keys a server runs only what is signed, each once, and a client believes only signed replies."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.errors import CallTimeout, NotAuthorized, PublishRefused, RemoteError
from amqp_rpc.message.envelope import PROBE
from tests.waiting import until

WEB, SHOP, BAD = {"web": "w" * 32}, {"shop": "s" * 32}, {"web": "b" * 32}


class Place:
    def __init__(self, name: str) -> None:
        self.name = name
        self.ran: Counter[str] = Counter()
        self.service = Service(name)
        self.queue = f"{name}.tasks"

        @self.service.rpc
        def charge(amount: int) -> int:
            self.ran["charge"] += 1
            if amount < 0:
                raise ValueError("negative")
            return amount

        @self.service.task(queue=self.queue, retries=1, backoff=(0.1, 0.1))
        def work(amount: int) -> int:
            self.ran["work"] += 1
            if amount < 0:
                raise ValueError("negative")
            return amount

        @self.service.subscribe(f"{name}.#", retries=1, backoff=(0.1, 0.1))
        def heard(amount: int) -> None:
            self.ran["heard"] += 1
            if amount < 0:
                raise ValueError("negative")

    @property
    def call(self) -> str:
        return f"{self.name}.charge"


@pytest.fixture
def place(queue_name: str) -> Place:
    return Place(queue_name.replace(".", "_"))


@contextlib.contextmanager
def channel(url: str) -> Iterator[Any]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def test_calls_tasks_events_retries_and_dead_letters_are_signed_and_run(place: Place, url: str) -> None:
    # The server has both keys, and each client its own.
    with Server(place.service, url=url, keys=SHOP | WEB) as server:
        for keys in (WEB, SHOP):
            place.ran.clear()
            with Client(url, timeout=60, keys=keys) as client:
                assert client.call(place.call, 5) == 5
                assert list(client.map(place.call, range(20))) == list(range(20))
                with pytest.raises(RemoteError):
                    client.call(place.call, -1)
                assert client.enqueue("work", 7, queue=place.queue).result() == 7
                assert client.enqueue("work", 8, queue=place.queue, delay=0.2).result() == 8
                with pytest.raises(RemoteError):
                    client.enqueue("work", -1, queue=place.queue).result()
                assert place.ran["work"] == 4
                client.publish(f"{place.name}.a", 1)
                client.publish(f"{place.name}.a", -1)
                until(lambda: place.ran["heard"] == 3)
                dead = client.dead_letters(place.queue)
                letter = until(dead.list)[0]
                assert dead.replay(ids=letter.id) == [letter.id]
                until(lambda: place.ran["work"] == 6)
                # It has failed again.
                until(lambda dead=dead: dead.drop(all=True))  # type: ignore[misc]
        assert server.counters["unproved"] == 0


@pytest.mark.parametrize("keys", [None, BAD, SHOP], ids=["unsigned", "wrong", "unknown"])
def test_what_is_not_signed_is_a_dead_letter_and_runs_nothing(place: Place, url: str, keys: Any) -> None:
    with Server(place.service, url=url, keys=WEB) as server, Client(url, timeout=60, keys=keys) as client:
        # Only a caller without keys believes an answer that is not signed.
        with pytest.raises(CallTimeout if keys else NotAuthorized) as refused:
            client.call(place.call, 5, timeout=1)
        assert refused.value.may_have_run is bool(keys)
        client.enqueue("work", 7, queue=place.queue)
        client.publish(f"{place.name}.a", 1)
        until(lambda: server.counters["unproved"] == 3)
        # A server's own check of its queue of calls is not signed. That is no way in.
        with channel(url) as liar:
            for exchange, key in (("amqp_rpc.events", f"{place.name}.a"), ("", place.queue)):
                properties = pika.BasicProperties(type=PROBE, content_type="application/json")
                liar.basic_publish(exchange, key, b"1", properties)
        until(lambda: server.counters["unproved"] == 5)
        assert place.ran == {}
        queues = f"rpc_queue.{place.name}", place.queue, f"events.{place.name}.heard"
        for queue in queues:
            letters = until(lambda queue=queue: client.dead_letters(queue).list())  # type: ignore[misc]
            assert all(letter.reason.startswith("not allowed: it") for letter in letters)
        # A replay would sign it.
        with Client(url, timeout=60, keys=WEB) as operator, pytest.raises(PublishRefused, match="is not replayed: it"):
            operator.dead_letters(place.queue).replay(all=True)


def test_what_comes_again_is_a_dead_letter_and_runs_once(place: Place, url: str) -> None:
    copied: list[tuple[Any, bytes]] = []
    # Someone reads what waits, and sends it again later.
    with Client(url, timeout=60, keys=WEB) as client, channel(url) as thief:
        client.enqueue("work", 7, queue=place.queue)
        _, properties, body = until(lambda: _taken(thief, place.queue))
        copied.append((properties, body))
        thief.basic_publish("", place.queue, body, properties)
        with Server(place.service, url=url, keys=WEB) as server:
            until(lambda: place.ran["work"] == 1)
            for _ in range(3):
                thief.basic_publish("", place.queue, body, properties)
            until(lambda: server.counters["unproved"] == 3)
            [reason] = {letter.reason for letter in until(lambda: client.dead_letters(place.queue).list())}
            assert reason == "not allowed: it came before"
            assert client.enqueue("work", 8, queue=place.queue).result() == 8
        assert place.ran["work"] == 2


def _taken(channel: Any, queue: str) -> Any:
    taken = channel.basic_get(queue, auto_ack=True)
    return taken if taken[0] is not None else None


def test_what_a_server_died_with_is_not_taken_for_a_copy(place: Place, url: str) -> None:
    with Client(url, timeout=60, keys=WEB) as client:
        handle = client.enqueue("work", 7, queue=place.queue)
        with channel(url) as dying:
            until(lambda: dying.basic_get(place.queue)[0])
        with Server(place.service, url=url, keys=WEB) as server:
            assert handle.result() == 7
            assert server.counters["unproved"] == 0


def test_a_reply_that_is_not_signed_is_not_believed(place: Place, url: str) -> None:
    name, forged = f"rpc_queue.{place.name}", threading.Event()
    with channel(url) as liar:
        liar.queue_declare(name, durable=True)

        def lie(raw: Any, method: Any, properties: Any, _body: bytes) -> None:
            answer = pika.BasicProperties(
                correlation_id=properties.correlation_id, type="result", content_type="application/msgpack"
            )
            raw.basic_publish("", properties.reply_to, b"\x2a", answer)
            raw.basic_ack(method.delivery_tag)
            forged.set()

        liar.basic_consume(name, lie)
        with Client(url, timeout=60, keys=WEB) as client, Client(url, timeout=60) as naive:
            future, believed = client.submit(place.call, 5, timeout=2), naive.submit(place.call, 5, timeout=20)
            for _ in range(200):
                liar.connection.process_data_events(time_limit=0.05)
                if future.done() and believed.done():
                    break
            assert believed.result() == 42
            with pytest.raises(CallTimeout):
                future.result()
    assert forged.is_set()


def test_an_event_for_two_subscriptions_of_one_server_is_no_copy(queue_name: str, url: str) -> None:
    heard: Counter[str] = Counter()
    service = Service(queue_name.replace(".", "_"))

    @service.subscribe(f"{service.name}.#")
    def first(_value: int) -> None:
        heard["first"] += 1

    @service.subscribe(f"{service.name}.#")
    def second(_value: int) -> None:
        heard["second"] += 1

    with Server(service, url=url, keys=WEB) as server, Client(url, timeout=60, keys=WEB) as client:
        client.publish(f"{service.name}.a", 1)
        until(lambda: heard == {"first": 1, "second": 1})
        assert server.counters["unproved"] == 0


def test_items_and_their_receipts_are_signed_and_others_are_dead_letters(queue_name: str, url: str) -> None:
    with (
        Client(url, timeout=60, keys=WEB) as client,
        # Its own key is another one.
        Client(url, timeout=60, keys=SHOP | WEB) as consumer,
        Client(url, timeout=60) as stranger,
        channel(url) as thief,
        client.queue(queue_name) as mine,
        consumer.queue(queue_name) as other,
        stranger.queue(queue_name) as theirs,
    ):
        mine.put({"a": 1})
        _, properties, body = until(lambda: _taken(thief, queue_name))
        for _ in range(2):
            thief.basic_publish("", queue_name, body, properties)
        theirs.put({"a": 2})
        mine.put({"a": 3})
        assert [other.get(timeout=30), other.get(timeout=30)] == [{"a": 1}, {"a": 3}]
        for _ in range(2):
            other.task_done()
        mine.join(timeout=30)
        letters = until(lambda: _two(client.dead_letters(queue_name).list()))
        assert sorted(letter.reason for letter in letters) == [
            "not allowed: it came before",
            "not allowed: it is not signed",
        ]
        with pytest.raises(PublishRefused, match="is not replayed"):
            client.dead_letters(queue_name).replay(all=True)


def _two(found: list[Any]) -> list[Any] | None:
    return found if len(found) == 2 else None


def test_only_signed_events_are_listened_to(queue_name: str, url: str) -> None:
    topic = queue_name.replace(".", "_")
    with (
        Client(url, timeout=60, keys=WEB) as client,
        Client(url, timeout=60, keys=BAD) as stranger,
        Client(url, timeout=60) as unsigned,
        contextlib.closing(client.listen(f"{topic}.*")) as events,
    ):
        stranger.publish(f"{topic}.a", 1)
        unsigned.publish(f"{topic}.a", 2)
        client.publish(f"{topic}.a", 3)
        assert next(events).payload == 3


def test_rotation_needs_no_restart(place: Place, url: str, tmp_path: Any) -> None:
    path = tmp_path / "keys"

    def written(keys: dict[str, str]) -> None:
        (tmp_path / "new").write_text("".join(f"{name} {key}\n" for name, key in keys.items()))
        (tmp_path / "new").replace(path)

    written(WEB)
    with Server(place.service, url=url, keys=path), Client(url, timeout=60, keys=SHOP) as client:
        with pytest.raises(CallTimeout):
            client.call(place.call, 5, timeout=0.5)
        written(WEB | SHOP)
        until(lambda: _answer(client, place.call))


def _answer(client: Client, function: str) -> object:
    with contextlib.suppress(CallTimeout):
        return client.call(function, 5, timeout=0.5)
    return None
