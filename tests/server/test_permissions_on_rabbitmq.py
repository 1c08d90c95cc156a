"""Each role works on a new virtual host with exactly the permissions that are printed for it, and may do no more.

And a refusal says at once which right is missing, with the command that gives it.
"""

from __future__ import annotations

import json
import shlex
import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from amqp_rpc import Client, Server, Service
from amqp_rpc.broker.node import Node
from amqp_rpc.cli import main
from amqp_rpc.errors import AccessRefused, RemoteError
from tests.waiting import until

#: How often an administrator has to do what a refusal says until something works.
MOST_ROUNDS = 5


class Place:
    """A virtual host of its own, and a user who may do what he is allowed to."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self.vhost = self.user = name
        self.all = f"{node.url.rstrip('/')}/{name}"
        self.url = self.all.replace("guest:guest", f"{name}:secret")
        # As `rabbitmqctl add_vhost`, `add_user` and so on, which take seconds each.
        internal, none = "rabbit_auth_backend_internal", ", ".join(['<<"^$">>'] * 3)
        node.ctl(
            "eval",
            f'V = <<"{name}">>, All = <<".*">>, rabbit_vhost:add(V, V), {internal}:add_user(V, <<"secret">>, V), '
            f"{internal}:set_permissions(V, V, {none}, V), "
            f'{internal}:set_permissions(<<"guest">>, V, All, All, All, V).',
        )

    def allow(self, role: str, target: str, *flags: str) -> None:
        """Do what ``amqp-rpc permissions`` prints."""
        words = ["permissions", role, target, "--user", self.user, "--vhost", self.vhost, *flags]
        self.run(CliRunner().invoke(main, words).stdout)

    def set(self, configure: str = "^$", write: str = "^$", read: str = "^$") -> None:
        self._node.ctl("set_permissions", "-p", self.vhost, self.user, configure, write, read)

    def run(self, line: str) -> None:
        program, *words = shlex.split(line)
        assert program == "rabbitmqctl"
        self._node.ctl(*words)

    def until_allowed(self, act: Callable[[], Any]) -> Any:
        """Do something; as often as it is refused, do what the refusal says, and try again."""
        for _ in range(MOST_ROUNDS):
            try:
                return act()
            except AccessRefused as error:
                refusal = error
            assert not refusal.may_have_run
            assert f"User '{self.user}' lacks the right to " in str(refusal)
            # What follows is advice, after a full stop.
            self.run(str(refusal).partition("needs: ")[2].partition(". ")[0].rstrip("."))
        return pytest.fail("it is still not allowed")


@pytest.fixture
def name(queue_name: str) -> str:
    return queue_name.replace(".", "_")


@pytest.fixture
def place(node: Node, name: str) -> Place:
    return Place(node, name)


class Served:
    """A service with everything, in a module of its own, and what it ran."""

    def __init__(self, name: str) -> None:
        self.ran: Counter[str] = Counter()
        self.work, self.mail, self.clock = (Service(f"{name}_{part}") for part in "bcd")
        # With a bound: its server has one thing more to declare.
        self.rpc = Service(f"{name}_a", max_length=1000)
        self.queue = f"{name}.thumbs"

        @self.rpc.rpc
        def charge(amount: int) -> int:
            self.ran["charge"] += 1
            return amount

        @self.work.task(queue=self.queue, retries=1, backoff=(0.1, 0.1))
        def resize(size: int) -> int:
            self.ran["resize"] += 1
            if size < 0:
                raise ValueError("negative")
            return size

        @self.mail.subscribe("orders.#", retries=1, backoff=(0.1, 0.1))
        def write(order: int) -> None:
            self.ran["write"] += 1
            if order < 0:
                raise ValueError("negative")

        @self.mail.subscribe("orders.#", mode="broadcast", retries=1, backoff=(0.1, 0.1))
        def show(order: int) -> None:
            self.ran["show"] += 1
            if order < 0:
                raise ValueError("negative")

        @self.clock.every("1s")
        @self.clock.task(queue=f"{name}.ticks", result=False)
        def tick() -> None:
            self.ran["tick"] += 1


@pytest.fixture
def served(name: str, monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served(name)
    module = ModuleType(name)
    for part in ("rpc", "work", "mail", "clock"):
        setattr(module, part, getattr(served, part))
    monkeypatch.setitem(sys.modules, name, module)
    return served


def refused(act: Callable[[], object], right: str) -> None:
    with pytest.raises(AccessRefused, match=f"lacks the right to {right} "):
        act()


def test_a_server_answers_calls_and_keeps_dead_letters_and_may_publish_no_event(
    place: Place, served: Served, name: str
) -> None:
    place.allow("server", f"{name}:rpc")
    with Server(served.rpc, url=place.url), Client(place.all, timeout=60) as client:
        assert client.call(f"{name}_a.charge", 5) == 5
        client.publish(served.rpc.queue, 5, exchange="", content_type="application/json")
        until(lambda: client.dead_letters(served.rpc.queue).list())
        with Client(place.url, timeout=60) as limited:
            refused(lambda: limited.publish("orders.x", 1), "(configure|write)")


def test_a_caller_calls_and_enqueues_and_may_declare_no_queue(place: Place, served: Served, name: str) -> None:
    with Server(served.rpc, served.work, url=place.all):
        place.allow("caller", f"{name}:rpc", "--delay", "--unique")
        with Client(place.url, timeout=60) as client:
            assert client.call(f"{name}_a.charge", 5) == 5
            assert client.enqueue("resize", 7, queue=served.queue).result() == 7
            assert client.enqueue("resize", 8, queue=served.queue, delay=0.3).result() == 8
            assert client.enqueue("resize", 9, queue=served.queue, unique_for=60).result() == 9
            refused(lambda: client.enqueue("resize", 7, queue=f"{name}.new"), "configure")
            refused(lambda: client.publish("orders.x", 1), "(configure|write)")


def test_a_worker_runs_retries_and_buries_and_may_read_no_other_queue(place: Place, served: Served, name: str) -> None:
    place.allow("worker", f"{name}:work")
    with Server(served.work, url=place.url), Client(place.all, timeout=60) as client:
        assert client.enqueue("resize", 7, queue=served.queue, delay=0.3).result() == 7
        with pytest.raises(RemoteError):
            client.enqueue("resize", -1, queue=served.queue).result()
        until(lambda: client.dead_letters(served.queue).list())
        assert served.ran["resize"] == 3
        client.enqueue("other", queue=f"{name}.other")
        with Client(place.url, timeout=60) as limited:
            refused(lambda: limited.queue(f"{name}.other").get(timeout=20), "read")


def test_a_subscriber_handles_events_and_retries_them_and_may_publish_none(
    place: Place, served: Served, name: str
) -> None:
    place.allow("subscriber", f"{name}:mail")
    with Server(served.mail, url=place.url), Client(place.all, timeout=60) as client:
        client.publish("orders.x", 1)
        client.publish("orders.x", -1)
        until(lambda: (served.ran["write"], served.ran["show"]) == (3, 3))
        for queue in (f"events.{name}_c.write", f"events.{name}_c.show"):
            until(lambda queue=queue: client.dead_letters(queue).list())  # type: ignore[misc]
        with Client(place.url, timeout=60) as limited:
            refused(lambda: limited.publish("orders.x", 1), "write")


def test_a_publisher_publishes_the_topics_that_it_may_and_may_call_nothing(
    place: Place, served: Served, name: str
) -> None:
    with Server(served.mail, served.rpc, url=place.all):
        place.allow("publisher", f"{name}:mail")
        with Client(place.url, timeout=60) as client:
            client.publish("orders.x", 1)
            client.publish("orders.x", 2)
            until(lambda: served.ran["write"] == 2)
            refused(lambda: client.call(f"{name}_a.charge", 5), "(configure|write)")
            client.publish("orders.x", 3)
            until(lambda: served.ran["write"] == 3)
            place.run(f"rabbitmqctl set_topic_permissions -p {name} {name} amqp_rpc.events '^orders[.].*' '.*'")
            refused(lambda: client.publish("payments.x", 1), "write topic")
            client.publish("orders.x", 4)
            until(lambda: served.ran["write"] == 4)


def test_a_scheduler_ticks_and_may_read_no_other_queue(place: Place, served: Served, name: str) -> None:
    place.allow("scheduler", f"{name}:clock")
    with Server(served.clock, url=place.url), Client(place.all, timeout=60) as client:
        until(lambda: served.ran["tick"] >= 2)
        client.enqueue("other", queue=f"{name}.other")
        with Client(place.url, timeout=60) as limited:
            refused(lambda: limited.queue(f"{name}.other").get(timeout=20), "read")


def test_a_listener_sees_events_and_may_publish_none(place: Place, served: Served, name: str) -> None:
    with Server(served.mail, url=place.all), Client(place.all, timeout=60) as client:
        place.allow("listener", "amqp_rpc.events")
        with Client(place.url, timeout=60) as limited:
            with limited.listen("orders.#") as events:
                client.publish("orders.x", 7)
                assert next(events).payload == 7
            refused(lambda: limited.publish("orders.x", 1), "write")


def test_a_server_of_everything_has_the_rights_of_all_its_parts(
    place: Place, served: Served, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[name], "service", served.mail, raising=False)
    served.mail.rpc(lambda: 1, name="one")
    place.allow("server", name)
    with Server(served.mail, url=place.url), Client(place.all, timeout=60) as client:
        assert client.call(f"{name}_c.one") == 1
        client.publish("orders.x", 1)
        until(lambda: served.ran["write"])


def letters(place: Place, served: Served, count: int) -> None:
    with Server(served.work, url=place.all), Client(place.all, timeout=60) as client:
        client.enqueue_many("resize", [(-1,)] * count, queue=served.queue)
        until(lambda: len(client.dead_letters(served.queue).list()) == count)


def test_an_operator_replays_and_drops_dead_letters_and_may_not_read_those_of_another_queue(
    place: Place, served: Served, name: str
) -> None:
    letters(place, served, 2)
    with Client(place.all) as client:
        client.enqueue("other", queue=f"{name}.other")
        client.publish(f"{name}.other.dead", 1, exchange="")
    place.allow("operator", f"{name}:work")
    with Client(place.url, timeout=60) as client:
        dead = client.dead_letters(served.queue)
        first, second = dead.list()
        assert dead.replay(ids=first.id) == [first.id]
        assert dead.drop(ids=second.id) == [second.id]
        refused(lambda: client.dead_letters(f"{name}.other").list(), "read")


def test_who_may_only_read_dead_letters_sees_them_each_time(
    place: Place, served: Served, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    letters(place, served, 3)
    place.set(read=rf"^{name}\.thumbs\.dead$")
    caplog.clear()
    with Client(place.url, timeout=60) as client:
        dead = client.dead_letters(served.queue)

        def all_are_there() -> bool:
            # The last reader's come back to a quorum queue a moment later.
            return len(dead.list()) == 3

        for _ in range(8):
            until(all_are_there)
        refused(lambda: dead.replay(all=True), "write")
        until(all_are_there)


def test_a_queue_between_processes_needs_rights_to_its_own_names_alone(place: Place, name: str) -> None:
    own, replies = rf"{name}_items(\.dead)?", r"amq\.gen-.*"
    place.set(configure=f"^({own}|{replies})$", write=r"^amq\.default$", read=f"^({own}|{replies})$")
    with Client(place.url, timeout=60) as client, client.queue(f"{name}_items") as items:
        items.put(1)
        assert items.get(timeout=60) == 1
        items.task_done()
        items.join(timeout=60)
        assert items.qsize() == 0
        refused(lambda: client.queue(f"{name}_others").put(1), "configure")


def test_a_refusal_says_at_once_what_is_missing_and_the_command_that_gives_it(
    place: Place, served: Served, name: str
) -> None:
    with Server(served.rpc, served.work, served.mail, url=place.all), Client(place.all) as client:
        client.queue(f"{name}.items").put(0)
        # This needs no right.
        done = CliRunner().invoke(main, ["queues", served.queue, "--url", place.url, "--json"])
        assert (done.exit_code, json.loads(done.stdout)["queues"][0]["consumers"]) == (0, 1), done.output
        # With one client, whose connection stays; and with a new one each time.
        with Client(place.url, timeout=60) as limited:
            place.until_allowed(lambda: limited.call(f"{name}_a.charge", 5))
            place.until_allowed(lambda: limited.publish("orders.x", 1))
            place.until_allowed(lambda: limited.queue(f"{name}.items").get(timeout=20))
        place.set()

        def enqueue() -> Any:
            with Client(place.url, timeout=60) as limited:
                return limited.enqueue("resize", 7, queue=served.queue, delay=0.2).result()

        assert place.until_allowed(enqueue) == 7
        place.set()

        def listen() -> None:
            with Client(place.url, timeout=60) as limited:
                limited.listen("orders.#").close()

        place.until_allowed(listen)


def test_a_server_that_may_not_do_its_work_is_not_ready_and_says_what_it_lacks(place: Place, served: Served) -> None:
    def start() -> None:
        with Server(served.work, url=place.url):
            pass

    # The delay queues are there: it has to publish retries alone.
    with Server(served.work, url=place.all):
        pass
    place.set(configure=".*", write=r"^(?!amqp_rpc\.delay\.\d).*", read=".*")
    with pytest.raises(AccessRefused, match=r"lacks the right to write exchange 'amqp_rpc\.delay\.00'"):
        start()
    place.set()
    with pytest.raises(AccessRefused) as caught:
        start()
    place.run(str(caught.value).partition("needs: ")[2])
    # One command is for all that it does.
    start()


def test_a_task_is_not_lost_with_the_right_to_publish_its_retry(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    service, ran, fine = Service(name), Counter[int](), threading.Event()

    # The broker remembers the rights of a channel until it has been idle for a moment.
    @service.task(queue=f"{name}.t", retries=100, backoff=(3, 3))
    def work(number: int) -> int:
        ran[number] += 1
        if not fine.is_set():
            raise ValueError("not yet")
        return number

    place.set(".*", ".*", ".*")
    with Server(service, url=place.url), Client(place.all, timeout=60) as client:
        task = client.enqueue(work, 7)
        until(lambda: ran[7] == 1)
        place.set(".*", r"^(?!amqp_rpc\.delay\.\d).*", ".*")
        until(lambda: "retries: the broker closed the channel: 403" in caplog.text, timeout=40, what="a refusal")
        fine.set()
        place.set(".*", ".*", ".*")
        assert task.result(timeout=60) == 7
        assert client.dead_letters(f"{name}.t").list() == []


@pytest.mark.usefixtures("served")
class TestCommand:
    def test_it_prints_json(self, name: str) -> None:
        done = CliRunner().invoke(main, ["permissions", "operator", f"{name}:work", "--user", "ann", "--json"])
        assert json.loads(done.stdout) == {
            "role": "operator", "target": f"{name}:work", "user": "ann", "vhost": "/",
            "configure": "^$", "write": r"^amq\.default$", "read": rf"^{name}\.thumbs\.dead$",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["worker", "{}:rpc"], 22, "a worker runs tasks, and {}:rpc has none"),
            (["scheduler", "thumbs"], 20, "the schedules of 'thumbs' are not known"),
            (["server", "no_such_module:service"], 20, "no_such_module"),
            (["boss", "thumbs"], 2, "boss"),
        ],
    )
    def test_what_has_no_permissions_is_one_line(self, name: str, words: list[str], code: int, said: str) -> None:
        done = CliRunner().invoke(main, ["permissions", *(word.format(name) for word in words)])
        assert (done.exit_code, done.stdout) == (code, "")
        assert said.format(name) in done.stderr
