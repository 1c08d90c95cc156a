"""On a virtual host whose queues are quorum queues by default, ours are of the types that are meant."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest

from amqp_rpc import AlreadyQueued, Client, Server, Service
from amqp_rpc.broker.node import Node
from tests.waiting import until

pytestmark = pytest.mark.node


@pytest.fixture
def quorum(node: Node) -> Iterator[str]:
    """The URL of a virtual host whose queues are quorum queues by default."""
    host = f"v{secrets.token_hex(4)}"
    node.ctl("add_vhost", host, "--default-queue-type", "quorum")
    node.ctl("set_permissions", "-p", host, "guest", ".*", ".*", ".*")
    yield f"{node.url}{host}"
    node.ctl("delete_vhost", host)


@pytest.fixture
def types(node: Node, quorum: str) -> Callable[[], dict[str, str]]:
    """Return the types of all queues by their names."""

    def ask() -> dict[str, str]:
        rows = node.ctl("list_queues", "-p", quorum.rpartition("/")[2], "name", "type", "--no-table-headers")
        return dict(row.split() for row in rows.splitlines())

    return ask


def test_every_queue_of_ours_has_its_type(quorum: str, types: Callable[[], dict[str, str]]) -> None:
    service = Service("typed")

    @service.rpc
    def double(n: int) -> int:
        return 2 * n

    @service.task(queue="kept", retries=1, backoff=(0.1, 0.1))
    def keep() -> str:
        return "kept"

    @service.task(queue="sorted", queue_type="classic", max_priority=9)
    def put_in_order() -> str:
        return "in order"

    @service.subscribe("typed.#", queue="shared")
    def each(_event: object) -> None:
        """Take it."""

    @service.subscribe("typed.#", mode="broadcast")
    def every(_event: object) -> None:
        """Take it."""

    @service.every("1h")
    @service.task(queue="hourly")
    def tick() -> None:
        """Do nothing."""

    with Client(quorum, timeout=60) as client, Server(service, url=quorum):
        assert client.call(double, 4, timeout=30) == 8
        assert client.enqueue(keep, delay=0.1).result(timeout=60) == "kept"
        assert client.enqueue(put_in_order).result(timeout=60) == "in order"
        client.enqueue(keep, unique_for=60)
        with client.queue("items", queue_type="classic") as items:
            items.put(1)
        found = types()
    meant = {name: kind for name, kind in found.items() if not name.startswith("amqp_rpc.delay.")}
    of_quorum = {name for name, kind in meant.items() if kind == "quorum"}
    assert of_quorum == {
        "kept", "kept.dead", "shared", "shared.dead", "hourly", "hourly.dead", "amqp_rpc.clock.typed",
        "amqp_rpc.arrivals.kept", "amqp_rpc.arrivals.sorted", "amqp_rpc.arrivals.shared", "amqp_rpc.arrivals.hourly",
    }  # fmt: skip
    assert {"rpc_queue.typed", "sorted", "sorted.dead", "items", "amqp_rpc.gone", "amqp_rpc.bindings.shared"} <= set(
        meant
    )
    for prefix in ("amq.gen-", "amqp_rpc.unique.", "amqp_rpc.instance."):
        assert any(name.startswith(prefix) for name in meant), f"no queue {prefix}…"
    assert set(meant.values()) == {"quorum", "classic"}


def test_a_unique_task_is_accepted_once(quorum: str) -> None:
    with Client(quorum, timeout=60) as client:
        client.enqueue("work", 1, queue="work", unique_for=60)
        for _ in range(3):
            with pytest.raises(AlreadyQueued):
                client.enqueue("work", 1, queue="work", unique_for=60)


def test_an_item_of_a_classic_queue_survives_any_number_of_consumers(quorum: str) -> None:
    with Client(quorum, timeout=60) as client:
        with client.queue("items", queue_type="classic") as items:
            items.put("precious")
        # RabbitMQ 4 drops it from a quorum queue after 20.
        for _ in range(30):
            with client.queue("items", queue_type="classic") as items:
                assert items.get(timeout=10) == "precious"
        with client.queue("items", queue_type="classic") as items:
            until(lambda: items.qsize() == 1, what="the item in its queue")
