"""What a real broker refuses: each is one clear error at once, says whether anything ran, and leaves the rest alone."""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
from collections.abc import Callable, Iterator

import pika
import pytest

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
from amqp_rpc.errors import AccessRefused, AmqpRpcError, MessageTooLarge, NotAllAccepted
from tests import nodes
from tests.conftest import require_node
from tests.waiting import until

pytestmark = pytest.mark.node

#: The broker's limit here; ours is far above it.
LIMIT = 65536


@pytest.fixture
def name(queue_name: str) -> str:
    """A name that a service may have."""
    return queue_name.replace(".", "_")


@pytest.fixture(scope="module")
def small(all_nodes: nodes.Nodes) -> Iterator[Node]:
    """A node that takes small messages only."""
    require_node()
    node = all_nodes.new(parameters={"rabbit": {"max_message_size": str(LIMIT)}})
    node.start(timeout=nodes.START_TIMEOUT)
    yield node
    node.close()


def vhost(node: Node, name: str, limits: str) -> str:
    """Make a virtual host with limits; return its URL."""
    node.ctl("add_vhost", name)
    node.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    node.ctl("set_vhost_limits", "-p", name, limits)
    return f"{node.url.rstrip('/')}/{name}"


def user(node: Node, name: str, limits: str = "{}") -> str:
    """Make a user with limits; return his URL."""
    node.ctl("add_user", name, "secret")
    node.ctl("set_permissions", name, ".*", ".*", ".*")
    node.ctl("set_user_limits", name, limits)
    return node.url.replace("guest:guest", f"{name}:secret")


def counted(queue: str) -> tuple[Service, collections.Counter[int]]:
    service, ran = Service(queue), collections.Counter[int]()

    @service.task(queue=f"{queue}.tasks")
    def keep(number: int, _body: bytes) -> None:
        ran[number] += 1

    @service.rpc
    def echo(body: bytes, times: int = 1) -> bytes:
        ran[len(body)] += 1
        return body * times

    return service, ran


class TestSize:
    def test_of_many_tasks_the_large_one_is_refused_and_each_other_runs_once(self, small: Node, name: str) -> None:
        service, ran = counted(name)
        with Server(service, url=small.url), Client(small.url, timeout=20) as client:
            keep = f"{name}.tasks"
            with pytest.raises(NotAllAccepted) as caught:
                client.enqueue_many("keep", [(i, b"x" * (200_000 if i == 50 else 10)) for i in range(100)], queue=keep)
            assert list(caught.value.errors) == [50]
            error = caught.value.errors[50]
            assert type(error) is MessageTooLarge
            assert not error.may_have_run
            assert str(LIMIT) in str(error)
            assert "its body has 2000" in str(error)
            until(lambda: len(ran) == 99)
            client.enqueue("keep", 100, b"", queue=keep).result(timeout=20)
        assert ran == dict.fromkeys([*range(50), *range(51, 101)], 1)

    def test_a_call_that_is_too_large_did_not_run_and_the_others_of_its_client_go_on(
        self, small: Node, name: str
    ) -> None:
        service, ran = counted(name)
        with Server(service, url=small.url), Client(small.url, timeout=20) as client:
            others = [client.submit("echo", b"x" * size, queue=service.queue) for size in range(1, 50)]
            with pytest.raises(MessageTooLarge, match=rf"echo\(\) was not sent: its body has .* is {LIMIT} ") as caught:
                client.call("echo", b"x" * 100_000, queue=service.queue)
            assert not caught.value.may_have_run
            assert [len(other.result()) for other in others] == list(range(1, 50))
            assert len(client.call("echo", b"x" * 60_000, queue=service.queue)) == 60_000
        assert ran[100_000] == 0

    def test_a_result_that_is_too_large_is_an_error_that_says_that_it_ran_and_others_replies_come(
        self, small: Node, name: str
    ) -> None:
        service, ran = counted(name)
        with Server(service, url=small.url), Client(small.url, timeout=20) as client:
            others = [client.submit("echo", b"x" * size, queue=service.queue) for size in range(1, 50)]
            with pytest.raises(MessageTooLarge, match=f"ran, and its result was not sent: .* is {LIMIT} ") as caught:
                client.call("echo", b"x" * 1000, 100, queue=service.queue)
            assert caught.value.may_have_run
            assert [len(other.result()) for other in others] == list(range(1, 50))
        assert ran[1000] == 1

    def test_an_event_and_an_item_are_refused_and_their_client_goes_on(self, small: Node, name: str) -> None:
        with Client(small.url, timeout=20) as client, client.queue(name) as queue:
            for send in (lambda body: client.publish("a.b", body), queue.put):
                with pytest.raises(MessageTooLarge, match=str(LIMIT)) as caught:
                    send(b"x" * 100_000)
                assert not caught.value.may_have_run
                send(b"x" * 50_000)
            assert queue.get(timeout=20) == b"x" * 50_000

    def test_four_threads_go_on_beside_one_whose_messages_and_results_are_too_large(
        self, small: Node, name: str
    ) -> None:
        service, ran = counted(name)
        keep, failed, over = f"{name}.tasks", list[AmqpRpcError](), threading.Event()
        done: collections.Counter[str] = collections.Counter()

        def goes_on(what: str, send: Callable[[int], object]) -> None:
            while not over.is_set():
                try:
                    send(done[what])
                    done[what] += 1
                except AmqpRpcError as error:
                    failed.append(error)

        with Server(service, url=small.url), Client(small.url, timeout=30) as client, client.queue(name) as queue:

            def task(first: int) -> Callable[[int], object]:
                return lambda n: client.enqueue("keep", first + n, b"", queue=keep)

            def call(_: int) -> object:
                return client.call("echo", b"x", queue=service.queue)

            sends = {"a": task(1_000_000), "b": task(2_000_000), "c": call, "d": call}
            threads = [threading.Thread(target=goes_on, args=each) for each in sends.items()]
            for thread in threads:
                thread.start()
            try:
                for size in (100_000, 3_000_000):
                    for act in (
                        lambda body: client.call("echo", body, queue=service.queue),
                        lambda body: client.call("echo", body, queue=service.queue, idempotent=True),
                        lambda body: client.enqueue("keep", 0, body, queue=keep),
                        lambda body: client.enqueue("keep", 0, body, queue=keep, unique_for=60),
                        lambda body: client.publish("a.b", body),
                        queue.put,
                    ):
                        with pytest.raises(MessageTooLarge, match=str(LIMIT)) as caught:
                            act(b"x" * size)
                        assert not caught.value.may_have_run
                    with pytest.raises(MessageTooLarge, match="ran, and its result was not sent") as caught:
                        client.call("echo", b"x" * 1000, size // 1000, queue=service.queue)
                    assert caught.value.may_have_run
                    # The others are in the middle of their work.
                    before = dict(done)
                    until(lambda before=before: all(done[each] > before.get(each, 0) for each in sends))
            finally:
                over.set()
                for thread in threads:
                    thread.join(60)
            assert failed == []
            kept = [first + n for what, first in (("a", 1_000_000), ("b", 2_000_000)) for n in range(done[what])]
            until(lambda: all(ran[n] for n in kept), what="all tasks")
        assert {ran[n] for n in kept} == {1}
        assert ran[1] == done["c"] + done["d"]
        assert ran[0] == 0

    def test_a_publisher_who_may_write_to_one_exchange_alone_learns_the_limit_as_well(
        self, small: Node, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        got: collections.Counter[bytes] = collections.Counter()
        service = Service(name)

        @service.subscribe(f"{name}.#", queue=name)
        def note(body: bytes) -> None:
            got[body[:10]] += 1

        url = user(small, name)
        small.ctl("set_permissions", name, r"^(amq\.gen.*|amqp_rpc\.events)$", r"^amqp_rpc\.events$", r"^amq\.gen.*$")
        with Server(service, url=small.url), Client(url, timeout=30) as client:
            bodies = [b"%010d" % n for n in range(200)]
            errors: list[AmqpRpcError] = []

            def publish(some: list[bytes]) -> None:
                for body in some:
                    try:
                        client.publish(f"{name}.a", body)
                    except AmqpRpcError as error:
                        errors.append(error)

            others = [threading.Thread(target=publish, args=(bodies[each::2],)) for each in range(2)]
            for other in others:
                other.start()
            with pytest.raises(MessageTooLarge, match=str(LIMIT)) as caught:
                client.publish(f"{name}.b", b"x" * 100_000)
            assert not caught.value.may_have_run
            client.publish(f"{name}.c", b"x" * 60_000)
            for other in others:
                other.join(60)
            until(lambda: len(got) == 201)
        assert errors == []
        assert set(got.values()) == {1}
        assert "closed the channel" not in caplog.text


class TestLimits:
    def test_a_bound_on_connections_is_not_a_virtual_host_that_does_not_exist(self, small: Node) -> None:
        url = vhost(small, "few", '{"max-connections": 0}')
        with Client(url, timeout=20) as client, pytest.raises(AccessRefused) as caught:
            client.call("fib", 30)
        assert "connection limit (0) is reached" in str(caught.value)
        assert "exist" not in str(caught.value)
        assert not caught.value.may_have_run

    def test_a_server_that_needs_a_connection_more_than_there_may_be_says_so_at_once(self, small: Node) -> None:
        url = vhost(small, "one", '{"max-connections": 1}')
        with Client(url, timeout=20) as client:
            client.enqueue("work", queue="one")
            # RabbitMQ 4 counts a connection a moment after it is open.
            until(lambda: "one" in small.ctl("list_connections", "vhost"))
            with pytest.raises(AccessRefused, match=r"connection limit \(1\) is reached"):
                Server(counted("one")[0], url=url).start(timeout=60)

    def test_a_bound_on_queues_is_not_a_queue_with_other_arguments(self, small: Node) -> None:
        url = vhost(small, "none", '{"max-queues": 1}')
        with Client(url, timeout=60) as client, client.queue("items") as queue:
            for act in (
                lambda: client.enqueue("work", queue="new"),
                lambda: client.enqueue("work", queue="new", unique_for=60),
                lambda: client.enqueue("work", queue="new", delay=5),
                lambda: queue.put(1),
                lambda: queue.get(timeout=60),
            ):
                with pytest.raises(AccessRefused, match=r"queue limit in vhost 'none' \(1\) is reached") as caught:
                    act()
                assert "exists" not in str(caught.value)
                assert not caught.value.may_have_run
        with pytest.raises(AccessRefused, match="queue limit in vhost"):
            Server(counted("none")[0], url=url).start(timeout=60)

    def test_a_users_bound_on_channels_is_an_error_at_once_and_no_storm(
        self, small: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = user(small, "lim", '{"max-channels": 2}')
        with Client(url, timeout=60) as client, pytest.raises(AccessRefused, match="user limit of") as caught:
            client.enqueue("work", queue="lim")
        assert not caught.value.may_have_run
        with pytest.raises(AccessRefused, match="user limit of"):
            Server(counted("lim")[0], url=url).start(timeout=60)
        assert len(caplog.records) < 20

    def test_where_the_broker_allows_one_channel_each_is_an_error_at_once(
        self, small: Node, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(pika.connection.Parameters, "DEFAULT_CHANNEL_MAX", 1)
        with Client(small.url, timeout=60) as client, client.queue("one") as queue:
            for act in (
                lambda: client.call("fib", 30),
                lambda: client.enqueue("work", queue="one"),
                lambda: client.publish("a.b", 1),
                lambda: queue.put(1),
            ):
                with pytest.raises(AccessRefused, match=r"1 channels \(channel_max\)") as caught:
                    act()
                assert not caught.value.may_have_run
        with pytest.raises(
            AccessRefused, match=r"\(channel_max\), and all are in use: raise channel_max in rabbitmq.conf"
        ):
            Server(counted(name)[0], url=small.url).start(timeout=60)
        assert not [record for record in caplog.records if record.exc_info]


class TestStorm:
    def test_a_connection_that_is_closed_just_after_it_was_opened_comes_back_slower_and_is_said_once(
        self, small: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = user(small, "storm")
        service = counted("storm")[0]
        with Server(service, url=url):
            small.ctl("set_user_limits", "storm", '{"max-channels": 1}')
            caplog.clear()
            small.ctl("close_all_connections", "test")
            threading.Event().wait(8)
            said = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
            small.ctl("clear_user_limits", "storm", "all")
            with Client(small.url, timeout=60) as client:
                assert client.call("echo", b"x", queue=service.queue, wait_for_server=True) == b"x"
        assert sum("user limit of" in line for line in said) <= 2
        assert len(said) < 12, said


class TestRights:
    @pytest.fixture
    def url(self, small: Node, name: str) -> Iterator[str]:
        yield user(small, name)
        small.ctl("delete_user", name)

    @staticmethod
    def allow(node: Node, url: str, *, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        node.ctl("set_permissions", url.split("//")[1].split(":", maxsplit=1)[0], configure, write, read)

    def test_without_the_right_to_configure_a_new_queue_is_refused_at_once(
        self, small: Node, url: str, name: str
    ) -> None:
        with Client(url, timeout=60) as client:
            client.enqueue("work", queue=name)
            self.allow(small, url, configure="^amq.gen")
            refused(lambda: client.enqueue("work", queue=f"{name}.new"), "403 ACCESS_REFUSED")
            client.enqueue("work", queue=name)

    def test_without_the_right_to_read_a_client_says_so_in_a_line_or_two(
        self, small: Node, url: str, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with Client(url, timeout=60) as client:
            client.enqueue("work", queue=name)
            self.allow(small, url, read="^$")
            small.ctl("close_all_connections", "test")
            for _ in range(4):
                with pytest.raises(AccessRefused, match=r"echo\(\) was not sent: .*403 ACCESS_REFUSED"):
                    client.call("echo", b"x", queue=name)
        assert sum("amq.gen" in record.message for record in caplog.records if record.levelno > logging.INFO) <= 2

    def test_without_the_right_to_write_nothing_ran(self, small: Node, url: str, name: str) -> None:
        service, ran = counted(name)
        with Server(service, url=small.url), Client(url, timeout=60) as client:
            keep = f"{name}.tasks"
            assert client.call("echo", b"x", queue=service.queue) == b"x"
            client.enqueue("keep", 1000, b"", queue=keep).result()
            self.allow(small, url, write="^$")
            calls = refused(lambda: client.call("echo", b"xx", queue=service.queue), "403 ACCESS_REFUSED")
            tasks = refused(lambda: client.enqueue("keep", 2000, b"", queue=keep), "403 ACCESS_REFUSED")
            refused(lambda: client.publish("a.b", 1), "403 ACCESS_REFUSED")
            self.allow(small, url)
            assert client.call("echo", b"xxx", queue=service.queue, wait_for_server=True) == b"xxx"
        assert (ran[2], ran[2000]) == (calls, tasks)


def refused(act: Callable[[], object], words: str) -> int:
    """Do something until the broker has noticed that the right is gone; return how often it was done before."""
    done = 0

    def does() -> AmqpRpcError | None:
        nonlocal done
        try:
            act()
        except AmqpRpcError as error:
            return error
        done += 1
        # The broker forgets what a channel's user may do once the channel has been idle for a second.
        threading.Event().wait(2)
        return None

    error = until(does)
    assert type(error) is AccessRefused, repr(error)
    assert words in str(error)
    assert not error.may_have_run
    return done


class TestServerWithoutTheRightToWrite:
    def test_it_does_not_start(self, node: Node, name: str) -> None:
        url = user(node, name)
        node.ctl("set_permissions", name, ".*", "^amq.gen-.*$", ".*")
        service, _ = counted(name)
        with pytest.raises(AccessRefused, match=r"403 ACCESS_REFUSED .* lacks the right to write "):
            Server(service, url=url).start(timeout=30)

    def test_one_that_loses_it_runs_no_more_than_it_can_answer_later(
        self, node: Node, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = user(node, name)
        service, ran = counted(name)
        caplog.set_level(logging.DEBUG, "amqp_rpc.amqp.keeper")
        with Server(service, url=url, threads=2), Client(node.url, timeout=60) as client:
            call = f"{name}.echo"
            assert client.call(call, b"x") == b"x"
            node.ctl("set_permissions", name, ".*", "^$", ".*")

            def lost() -> bool:
                # The first reply is lost with the right: the broker says so only then. And it remembers the rights of a
                # channel until the channel has been idle for a moment.
                client.submit(call, b"xx")
                with contextlib.suppress(AssertionError):
                    return until(lambda: "replies: " in caplog.text, timeout=2.0)
                return False

            until(lost, timeout=30, what="the loss in the log")
            waiting = [client.submit(call, b"xxx") for _ in range(10)]
            until(lambda: ran[3] >= 2, what="those that it has taken")
            # The channel that replaces the first one is refused too.
            until(lambda: caplog.text.count("replies: ") > 1, what="another refusal")
            node.ctl("set_permissions", name, ".*", ".*", ".*")
            assert [each.result(timeout=30) for each in waiting] == [b"xxx"] * 10
        assert "replies: works again" in caplog.text
        assert ran[3] == 10
