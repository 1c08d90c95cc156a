"""An event that was confirmed is never lost to a shared subscriber: killed workers, brokers, connections that break."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
from tests.programs import serving
from tests.served_by import Raw, dead_letter, declare_dead, lines
from tests.waiting import until


def test_the_event_of_a_worker_that_is_killed_goes_to_another_one(url: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with serving("tests.served_events", url=url) as first:
        client.publish("tevents.stay", str(path), mandatory=True)
        until(lambda: lines(path))
        with serving("tests.served_events", url=url) as second:
            first.send(signal.SIGKILL)
            until(lambda: len(lines(path)) == 2)
            assert lines(path) == [
                ["tevents.stay", "False", str(first.pid)],
                ["tevents.stay", "True", str(second.pid)],
            ]


def test_an_event_that_kills_its_workers_ends_among_the_dead_letters(
    url: str, client: Client, raw: Raw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ran"
    monkeypatch.setenv("TEST_MOST_CRASHES", "3")
    declare_dead(raw, "events.tevents.note_and_die")
    with serving("tests.served_events", "--processes", "4", url=url):
        identity = client.publish("tevents.die", str(path), mandatory=True)
        properties = dead_letter(raw, "events.tevents.note_and_die", timeout=100)
        assert properties.message_id == identity
        assert properties.headers["reason"].startswith("3 workers died, one after another")
        assert properties.headers["amqp_rpc.topic"] == "tevents.die"
        assert len(lines(path)) == 3


def test_each_process_of_a_server_is_an_instance(url: str, client: Client, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    with serving("tests.served_events", "--processes", "2", url=url) as server:
        client.publish("tevents.all", str(path), mandatory=True)
        until(lambda: len(lines(path)) == 2)
        assert sorted(int(pid) for _, pid in lines(path)) == sorted(server.children())


def subscribe(service: Service, ran: list[int], mode: str = "shared") -> None:
    @service.subscribe(f"{service.name}.*", mode=mode)  # type: ignore[arg-type]
    def work(n: int) -> None:
        ran.append(n)


@pytest.mark.ends_node
@pytest.mark.timeout(300)
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_what_waits_for_a_subscriber_and_its_bindings_survive_the_end_of_the_broker(
    node: Node, service: Service, end: str
) -> None:
    ran: list[int] = []
    subscribe(service, ran)
    # Ready means that it lasts: the broker may be killed at once.
    Server(service, url=node.url).__enter__().stop()
    with Client(node.url, timeout=90) as client:
        client.publish_many(((f"{service.name}.a", n) for n in range(50)), mandatory=True)
        getattr(node, end)()
        node.start()
        # No subscriber has been there since.
        client.publish_many(((f"{service.name}.a", n) for n in range(50, 60)), mandatory=True)
        with Server(service, url=node.url):
            until(lambda: set(ran) == set(range(60)), timeout=120)


@pytest.mark.ends_node
@pytest.mark.timeout(300)
def test_a_broker_that_is_killed_as_soon_as_a_subscriber_is_ready_forgets_neither_its_queue_nor_its_bindings(
    node: Node, service: Service
) -> None:
    ran: list[int] = []
    subscribe(service, ran)
    with Client(node.url, timeout=90) as client:
        # The levels of delay are there by then: while they are made, the broker writes down all the rest as well.
        before = Service(f"before_{service.name}")
        subscribe(before, [])
        with Server(before, url=node.url):
            client.enqueue("nobody", queue=before.name, delay=60)
        server = Server(service, url=node.url)
        server.start()
        client.publish(f"{service.name}.a", 0, mandatory=True)
        node.kill()
        server.stop(drain_timeout=1)
        node.start()
        client.publish(f"{service.name}.a", 1, mandatory=True)
        with Server(service, url=node.url):
            until(lambda: set(ran) == {0, 1}, timeout=120)


@pytest.mark.ends_node
@pytest.mark.timeout(300)
def test_what_is_published_while_brokers_and_connections_end_comes_to_a_shared_subscriber(
    node: Node, service: Service
) -> None:
    ran: list[int] = []
    subscribe(service, ran)
    published: list[int] = []
    ending = threading.Event()
    with Client(node.url, timeout=90) as client, Server(service, url=node.url, threads=2):

        def publish() -> None:
            n = 0
            while not ending.is_set():
                client.publish(f"{service.name}.a", n)
                published.append(n)
                n += 1
                ending.wait(0.005)

        publishing = threading.Thread(target=publish)
        publishing.start()

        def fifty_more() -> None:
            seen = len(published)
            until(lambda: len(published) > seen + 50, timeout=60)

        fifty_more()
        node.ctl("close_all_connections", "test")
        for end in (node.stop, node.kill):
            fifty_more()
            end()
            node.start()
        fifty_more()
        ending.set()
        publishing.join(90)
        until(lambda: set(published) <= set(ran), timeout=120)


def instances(node: Node) -> set[str]:
    return {name for name in node.ctl("list_queues", "name").split() if name.startswith("amqp_rpc.instance.")}


def test_a_broadcast_subscriber_is_there_again_after_its_connection_was_lost(node: Node, service: Service) -> None:
    ran: list[int] = []
    subscribe(service, ran, "broadcast")
    others = instances(node)
    with Client(node.url, timeout=60) as client, Server(service, url=node.url) as server:
        client.publish(f"{service.name}.a", 1, mandatory=True)
        until(lambda: ran == [1])
        node.ctl("close_all_connections", "test")
        until(lambda: server.counters["consumed"] >= 2)
        client.publish(f"{service.name}.a", 2, mandatory=True)
        until(lambda: ran == [1, 2])
        assert len(instances(node) - others) == 1


def test_what_an_instance_that_is_gone_was_to_try_again_does_not_stay_in_the_broker(
    node: Node, vhost: str, service: Service
) -> None:
    @service.subscribe(service.name, mode="broadcast", retries=1, backoff=(0.4, 0.4))
    def fail() -> None:
        raise OSError

    def delayed() -> int:
        """Count what the levels hold; what they can't hand on is not among what is ready."""
        place = vhost.rpartition("/")[2]
        query = 'element(2, element(2, ra:local_query({list_to_atom("V_amqp_rpc.delay.0~b"), node()}, fun F/1)))'
        query = query.replace("fun F/1", "fun rabbit_fifo:query_messages_total/1").replace("V_", f"{place}_")
        return sum(int(node.ctl("eval", query.replace("~b", str(level)) + ".")) for level in range(3))

    with Client(vhost, timeout=60) as client:
        with Server(service, url=vhost) as server:
            client.publish(service.name, mandatory=True)
            until(lambda: server.counters["retried"] == 1 and not server._state.unacked)
        until(lambda: delayed() == 0)


def test_an_exchange_that_somebody_deletes_is_declared_again(node: Node, service: Service) -> None:
    ran: list[int] = []
    subscribe(service, ran)
    with Client(node.url, timeout=60) as client:
        client.publish(f"{service.name}.a", 1)
        node.ctl(
            "eval", 'rabbit_exchange:delete(rabbit_misc:r(<<"/">>, exchange, <<"amqp_rpc.events">>), false, <<"t">>).'
        )
        client.publish(f"{service.name}.a", 2)
        with Server(service, url=node.url):
            client.publish(f"{service.name}.a", 3, mandatory=True)
            until(lambda: ran == [3])
