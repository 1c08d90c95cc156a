"""A service is a list of functions that stay functions; an error about one names the place where it is registered."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from amqp_rpc import Event, Exchange, Server, Service
from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_NAME, dead_letter_queue
from amqp_rpc.service.catalog import Catalog
from amqp_rpc.service.function import registered, registered_task
from amqp_rpc.service.signature import EventSignature


def double(n: int) -> int:
    return 2 * n


def fresh():
    """A function of its own for each test: a function remembers its first registration."""

    def f(n: int) -> int:
        return 2 * n

    return f


class TestRegistering:
    def test_the_function_stays_the_function_that_it_is(self):
        function = fresh()
        assert Service().rpc(function) is function
        assert function(4) == 8

    def test_it_is_listed_with_what_was_said_of_it(self):
        service = Service("billing")
        service.rpc(name="twice", idempotent=True, default=True)(fresh())
        function = service.functions["twice"]
        assert (function.name, function.service, function.queue) == ("twice", "billing", "rpc_queue.billing")
        assert (function.idempotent, function.default, function.asynchronous) == (True, True, False)

    def test_nothing_is_idempotent_or_default_unless_it_says_so(self):
        service = Service()
        service.rpc()(fresh())
        assert (service.functions["f"].idempotent, service.functions["f"].default) == (False, False)

    def test_an_async_function_is_known_for_one(self):
        service = Service()

        @service.rpc
        async def wait() -> None: ...

        assert service.functions["wait"].asynchronous

    def test_a_bound_method_can_be_registered(self):
        class Bank:
            def charge(self, amount: int) -> int:
                return amount

        service = Service()
        service.rpc(Bank().charge)
        assert service.functions["charge"].call(5) == 5

    def test_a_lambda_can_be_registered_under_a_name(self):
        service = Service()
        service.rpc(name="f")(lambda n: n)
        assert list(service.functions) == ["f"]

    @pytest.mark.parametrize("wrong", ["fib", 5, int, None.__class__])
    def test_what_is_no_function_is_refused(self, wrong):
        with pytest.raises(ConfigurationError, match=r"@service.rpc takes a function, not "):
            Service().rpc(wrong)

    @pytest.mark.parametrize("name", ["", "a.b", "x" * 256])
    def test_a_name_that_cannot_be_called_is_refused(self, name):
        with pytest.raises(ConfigurationError, match="can't name a function"):
            Service().rpc(name=name)(fresh())

    def test_a_name_that_is_taken_is_refused_with_both_places(self):
        service = Service()
        service.rpc(double)
        line = double.__code__.co_firstlineno
        with pytest.raises(
            ConfigurationError, match=rf"test_service.py:\d+: 'double' is registered already, at .*:{line}"
        ):
            service.rpc(name="double")(fresh())

    def test_a_second_default_is_refused(self):
        service = Service()
        service.rpc(name="a", default=True)(fresh())
        with pytest.raises(ConfigurationError, match="'a' is the default function already"):
            service.rpc(name="b", default=True)(fresh())

    def test_a_refused_function_is_not_listed(self):
        service = Service()
        with pytest.raises(ConfigurationError):
            service.rpc(lambda timeout: timeout)
        assert service.functions == {}

    def test_what_is_given_out_is_a_copy(self):
        service = Service()
        service.functions["f"] = None
        assert service.functions == {}


class TestNames:
    def test_a_service_without_a_name_has_the_queue_of_the_tutorials(self):
        assert Service().queue == "rpc_queue"

    @pytest.mark.parametrize("name", ["", "a.b", "x" * 246, "é" * 123])
    def test_a_name_that_cannot_be_in_a_queues_name_is_refused(self, name):
        with pytest.raises(ConfigurationError, match="can't name a service"):
            Service(name)

    def test_no_service_has_the_queue_where_dead_letters_of_another_go(self):
        with pytest.raises(ConfigurationError):
            Service("dead")

    def test_every_service_has_a_dead_letter_queue_with_a_name_that_amqp_takes(self):
        longest = 0
        for length in range(1, 256):
            try:
                longest = max(longest, len(dead_letter_queue(Service("x" * length).queue)))
            except ConfigurationError:
                break
        assert 250 < longest <= LONGEST_NAME

    def test_it_is_shown_with_its_functions(self):
        service = Service("billing")
        assert repr(service) == "Service('billing': no functions)"
        service.rpc(fresh())
        assert repr(service) == "Service('billing': f)"


class TestTheFunctionObject:
    def test_it_knows_what_it_was_registered_as(self):
        function = fresh()
        Service("billing").rpc(name="twice")(function)
        assert (registered(function).queue, registered(function).name) == ("rpc_queue.billing", "twice")

    def test_the_first_registration_names_it(self):
        function = fresh()
        Service("one").rpc(function)
        Service("two").rpc(function)
        assert registered(function).service == "one"

    def test_one_that_was_never_registered_is_refused_with_advice(self):
        with pytest.raises(
            ConfigurationError, match=r"'fresh' is not registered with any service; decorate it with @serv"
        ):
            registered(fresh)

    def test_a_task_is_not_registered_for_calls_nor_the_reverse(self):
        with pytest.raises(ConfigurationError, match=r"'.*f' is a task: client\.enqueue"):
            registered(Service().task(fresh()))
        with pytest.raises(ConfigurationError, match=r"'.*f' is no task: client\.call"):
            registered_task(Service().rpc(fresh()))

    def test_a_wrapper_of_a_registered_function_is_called_as_what_it_was_registered_itself(self):
        inner = Service().rpc(fresh())

        @functools.wraps(inner)
        def outer(n: int) -> int:
            return inner(n) + 1

        Service("outer").rpc(outer)
        assert registered(outer).queue == "rpc_queue.outer"


class TestSeveralQueues:
    def test_the_first_is_the_default_and_each_has_the_task(self):
        service, function = Service("pages"), fresh()
        service.task(queue=["web", "urgent", "web"], retries=1)(function)
        assert [(task.queue, task.name) for task in service.tasks] == [("web", "f"), ("urgent", "f")]
        found = registered_task(function).task
        assert found is not None
        assert (found.queue, found.queues) == ("web", ("web", "urgent"))
        assert list(Catalog([service], queues="urgent").tasks) == ["urgent"]

    def test_a_schedule_enqueues_into_the_first(self):
        service = Service()
        service.every("1m", args=(1,))(service.task(queue=("web", "urgent"))(fresh()))
        assert [schedule.queue for schedule in service.schedules] == ["web"]

    @pytest.mark.parametrize(
        ("queue", "why"),
        [([], "names no queue"), (["web", ""], "can't name a task queue"), (5, "can't name a task queue")],
    )
    def test_what_names_no_queue_is_refused(self, queue, why):
        with pytest.raises(ConfigurationError, match=why):
            Service().task(queue=queue)(fresh())

    def test_a_queue_that_a_server_does_not_have_is_refused_with_advice(self):
        service = Service()
        service.task(queue="web")(fresh())
        with pytest.raises(
            ConfigurationError, match=r"no service here has a queue 'urgent'.*queue=\['web', 'urgent'\]"
        ):
            Catalog([service], queues="urgent")


def subscribed(function: Any, *topics: str, **options: Any) -> Any:
    service = Service("mail")
    service.subscribe(*(topics or ("a",)), **options)(function)
    return service.subscriptions[0]


def plain(order: dict) -> None: ...


def both(event: Event, order: dict) -> None: ...


def neither() -> None: ...


def only_event(event: Event) -> None: ...


def maybe_event(order: dict, event: Event | None = None) -> None: ...


def with_default(order: dict, note: str = "") -> None: ...


def unhinted(order) -> None: ...


@pytest.mark.parametrize(
    ("function", "roles"),
    [
        (plain, ("order", None)),
        (both, ("order", "event")),
        (neither, (None, None)),
        (maybe_event, ("order", "event")),
        (only_event, (None, "event")),
        (with_default, ("order", None)),
        (unhinted, ("order", None)),
    ],
)
def test_a_handler_takes_the_payload_the_event_both_or_neither(function: Any, roles: Any) -> None:
    signature = subscribed(function).signature
    assert isinstance(signature, EventSignature)
    assert signature.roles() == roles


def two(a: int, b: int) -> None: ...


def two_events(a: Event, b: Event) -> None: ...


def keyword(order: dict, *, note: str) -> None: ...


@pytest.mark.parametrize("function", [two, two_events, keyword])
def test_a_handler_that_takes_more_is_refused_and_told_how_to_write_it(function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"an event has one payload: write .*\(payload\)"):
        subscribed(function)


def test_its_queue_is_named_after_the_service_and_the_function_unless_it_says_otherwise() -> None:
    assert subscribed(plain).queue == "events.mail.plain"
    assert subscribed(plain, name="receipt").queue == "events.mail.receipt"
    assert subscribed(plain, queue="receipts").queue == "receipts"
    service = Service()
    service.subscribe("a")(plain)
    assert service.subscriptions[0].queue == "events.plain"


@pytest.mark.parametrize(
    ("topics", "options", "said"),
    [
        (["a..b"], {}, "has an empty word"),
        (["a"], {"mode": "latest"}, "mode is 'shared' .* with history.*'broadcast' .* no history"),
        (["a"], {"exchange": Exchange("logs", "fanout")}, "leave out the topic"),
        (["a"], {"retries": -1}, "retries is a whole number"),
        (["a"], {"queue": "rpc_queue"}, "can't name a task queue"),
        (["a"], {"queue": "x" * 190, "mode": "broadcast"}, "can't have delays"),
        (["a"], {"queue_type": "stream"}, "queue_type is"),
    ],
)
def test_what_can_t_be_subscribed_to_names_the_file_and_the_function(topics: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        subscribed(plain, *topics, **options)
    assert f"{__file__}:" in str(raised.value)
    assert "plain()" in str(raised.value)


def test_a_decorator_without_a_topic_says_how_it_is_written() -> None:
    with pytest.raises(ConfigurationError, match=r"@service.subscribe\('orders.\*.paid'\)"):
        Service().subscribe(plain)  # type: ignore[arg-type]


def test_two_subscriptions_can_t_share_a_queue() -> None:
    service = Service("mail")
    service.subscribe("a", "b.*")(plain)
    with pytest.raises(ConfigurationError, match="one function takes several topics"):
        service.subscribe("c")(plain)
    other = Service("other")
    other.subscribe("a", queue="events.mail.plain")(both)
    with pytest.raises(ConfigurationError, match="registered already"):
        Server(service, other)
    third = Service("third")
    third.task(queue="events.mail.plain")(neither)
    with pytest.raises(ConfigurationError, match="registered already"):
        Server(service, third)


def test_a_server_of_subscriptions_alone_consumes_no_queue_of_calls() -> None:
    service = Service("mail")
    service.subscribe("a")(plain)
    server = Server(service)
    assert server.functions == server.tasks == {}
    assert list(server.events) == ["events.mail.plain"]
    assert Server(service, queues="events.mail.plain").events
    with pytest.raises(ConfigurationError, match="no service here has a queue"):
        Server(service, queues="events.mail")


def test_it_stays_the_function_that_it_is() -> None:
    service = Service()

    @service.subscribe("a")
    def add(n: int) -> int:
        return n + 1

    assert add(2) == 3


def later(order: Later) -> None: ...  # noqa: F821 - the module defines it further down


def test_a_type_hint_that_is_not_there_yet_is_looked_at_when_it_is_served() -> None:
    service = Service("mail")
    service.subscribe("a")(later)
    with pytest.raises(ConfigurationError, match="type hint that fails"):
        Server(service)
