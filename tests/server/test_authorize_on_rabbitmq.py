"""`authorize=` by the user whom RabbitMQ has checked: the same on every attempt, and whoever lies is refused."""

from __future__ import annotations

from collections import Counter

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker

from amqp_rpc import Client, NotAuthorized, Server, Service
from amqp_rpc.broker.node import Node
from amqp_rpc.message.headers import SENDER
from amqp_rpc.service.context import context
from tests.waiting import until

USERS = "servers", "web", "guest"


@pytest.fixture
def urls(node: Node, queue_name: str) -> dict[str, str]:
    """A virtual host of its own, by the users that may do everything there."""
    host, auth = queue_name.replace(".", "_"), "rabbit_auth_backend_internal"
    new = ", ".join(f'{auth}:add_user(<<"{host}_{user}">>, <<"secret">>, V)' for user in USERS)
    may = ", ".join(f'{auth}:set_permissions(<<"{host}_{user}">>, V, A, A, A, V)' for user in USERS)
    node.ctl("eval", f'V = <<"{host}">>, A = <<".*">>, rabbit_vhost:add(V, V), {new}, {may}.')
    place = f"{node.url.rstrip('/')}/{host}"
    return {user: place.replace("guest:guest", f"{host}_{user}:secret") for user in USERS}


def test_a_function_runs_for_the_user_who_sent_the_message_on_each_attempt(urls: dict[str, str]) -> None:
    ran: Counter[str] = Counter()
    service = Service("shop", authorize=lambda sender: str(sender.user_id).endswith("_web"))

    @service.rpc
    def charge(amount: int) -> str | None:
        return context().user_id

    @service.task(retries=1, backoff=(0.1, 0.1))
    def work(amount: int) -> str | None:
        ran[f"work {context().attempt}"] += 1
        if context().attempt == 1:
            raise ValueError("again")
        return context().user_id

    @service.subscribe("orders.#", retries=1, backoff=(0.1, 0.1))
    def heard(amount: int) -> None:
        ran[f"heard {context().attempt}"] += 1
        if context().attempt == 1:
            raise ValueError("again")

    tasks = "task_queue.shop"
    with (
        Server(service, url=urls["servers"], user_id="sent") as server,
        Client(urls["web"], user_id="sent", timeout=60) as web,
        Client(urls["guest"], user_id="sent", timeout=60) as guest,
        Client(urls["web"], timeout=60) as nobody,
    ):
        user = web.call("shop.charge", 5)
        assert str(user).endswith("_web")
        assert web.enqueue("work", 5, queue=tasks, delay=0.2).result() == user
        web.publish("orders.a", 5)
        until(lambda: ran == {"work 1": 1, "work 2": 1, "heard 1": 1, "heard 2": 1})
        for other in (guest, nobody):
            with pytest.raises(NotAuthorized) as refused:
                other.call("shop.charge", 5)
            assert not refused.value.may_have_run
            with pytest.raises(NotAuthorized):
                other.enqueue("work", 5, queue=tasks).result()
            other.publish("orders.a", 5)
        until(lambda: server.counters["unauthorized"] == 6)
        # A replay is sent by who replays it.
        letters = web.dead_letters(tasks)
        assert len(until(letters.list)) == 2
        letters.replay(all=True)
        until(lambda: ran["work 2"] == 3)
        assert ran["heard 1"] == 1


def test_no_one_writes_another_user_s_name(urls: dict[str, str]) -> None:
    asked: list[str | None] = []

    def authorize(sender: object) -> bool:
        asked.append(getattr(sender, "user_id", None))
        return False

    service = Service("shop", authorize=authorize)

    @service.task
    def work() -> None: ...

    with Server(service, url=urls["servers"], user_id="sent"):
        connection = pika.BlockingConnection(pika.URLParameters(urls["guest"]))
        channel = connection.channel()
        # In the header by which a server's copy names it; also of a task that a server moves first.
        for user in (None, pika.URLParameters(urls["guest"]).credentials.username):
            properties = pika.BasicProperties(type="work", headers={SENDER: "web"}, user_id=user)
            channel.basic_publish("", "task_queue.shop", b"", properties)
            channel.basic_publish("", "amqp_rpc.arrivals.task_queue.shop", b"", properties)
        until(lambda: len(asked) == 4)
        assert "web" not in asked
        # And RabbitMQ refuses the property.
        properties = pika.BasicProperties(user_id=pika.URLParameters(urls["web"]).credentials.username)
        channel.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker, match="user_id property set to"):
            channel.basic_publish("", "task_queue.shop", b"", properties)
        connection.close()
