"""What a service says of its subscriptions, before any broker is there."""

from __future__ import annotations

from typing import Any

import pytest

from amqp_rpc import ConfigurationError, Event, Exchange, Server, Service
from amqp_rpc.service.subscription import EventSignature


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
        (["a"], {"exchange": Exchange("logs", "fanout")}, "leave the topic away"),
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
