"""Exchanges, which route events to the queues that are bound to them, and the rules of bindings. Pure.

AMQP 0-9-1 has four kinds: https://www.rabbitmq.com/tutorials/amqp-concepts#exchanges
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import EVENTS, LONGEST_NAME

Kind = Literal["topic", "fanout", "direct", "headers"]

_WILDCARDS = "*#"
_MATCH = "x-match"
#: https://www.rabbitmq.com/docs/exchanges#headers
_MATCHES = ("all", "any", "all-with-x", "any-with-x")


def _check_text(text: str, what: str) -> int:
    try:
        return len(text.encode())
    except (AttributeError, UnicodeEncodeError) as error:
        raise ConfigurationError(f"{what} is text that AMQP can carry, not {text!r}: {error}") from error


def _check_size(text: str, what: str) -> None:
    size = _check_text(text, what)
    if size > LONGEST_NAME:
        raise ConfigurationError(f"{text[:40]!r}…: {what} has at most {LONGEST_NAME} bytes in AMQP, not {size}")


@dataclass(frozen=True, slots=True)
class Exchange:
    """An exchange for events: clients publish to it, subscriptions bind queues to it, and both declare it.

    Args:
        name: Its name. ``"amq.topic"`` and the like exist on every broker. ``""``, of kind direct, is AMQP's default
            exchange: a topic is a queue's name there, for programs that know no other exchange.
        kind: ``"topic"``: patterns of words, with ``*`` for one and ``#`` for any number. ``"direct"``: the very topic.
            ``"fanout"``: everything. ``"headers"``: by the event's headers.
        durable: Whether it survives a restart of the broker (True). Those of RabbitMQ's tutorials don't.

    Raises:
        ConfigurationError: It has no name, a name of more than 255 bytes, or another kind.

    Example:
        >>> Exchange("logs", "fanout")
        Exchange(name='logs', kind='fanout', durable=True)
    """

    name: str
    kind: Kind = "topic"
    durable: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigurationError(f"an exchange is of kind {', '.join(get_args(Kind))}, not {self.kind!r}")
        if not self.name and self.kind != "direct":
            raise ConfigurationError(
                f"the exchange without a name, AMQP's default exchange, is of kind direct, not {self.kind}: a topic is "
                "a queue's name there"
            )
        _check_size(self.name, "an exchange's name")

    def __str__(self) -> str:
        """Return its name for errors."""
        return f"{self.kind} exchange {self.name!r}" if self.name else "default exchange"


#: The exchange of events, unless another one is named.
DEFAULT = Exchange(EVENTS)


def as_exchange(exchange: str | Exchange | None) -> Exchange:
    """Return an exchange; a name is that of a durable topic exchange, and ``""`` the default exchange."""
    if exchange is None:
        return DEFAULT
    if isinstance(exchange, str):
        return Exchange(exchange, "topic" if exchange else "direct")
    if not isinstance(exchange, Exchange):
        raise ConfigurationError(
            f"exchange= is the name of a topic exchange, or Exchange('logs', 'fanout'), not {exchange!r}"
        )
    return exchange


@dataclass(frozen=True, slots=True, order=True)
class Binding:
    """A rule for the events of an exchange that go to a queue.

    Args:
        exchange: Its name.
        key: The pattern, or the very topic; empty for fanout and headers.
        arguments: The headers that a headers exchange compares, sorted.
    """

    exchange: str
    key: str
    arguments: tuple[tuple[str, Any], ...] = ()


def bindings(exchange: Exchange, patterns: Sequence[str], headers: Mapping[str, Any] | None) -> tuple[Binding, ...]:
    """Return the bindings of a subscription to some topics, or for a headers exchange to some headers.

    Raises:
        ConfigurationError: A topic can never match, or this kind of exchange does not compare topics or headers.
    """
    if not exchange.name:
        raise ConfigurationError(
            "AMQP's default exchange binds every queue by its name, and has no other bindings: an event that is "
            "published to it for a queue reaches the subscription with that queue=; topics belong to another exchange"
        )
    if exchange.kind == "headers":
        if patterns:
            raise ConfigurationError(f"a {exchange} compares headers alone: give headers={{…}}, and no topic")
        return (Binding(exchange.name, "", _matched(exchange, headers)),)
    if headers is not None:
        raise ConfigurationError(f"headers= is for exchanges of kind headers, and this is a {exchange}")
    if exchange.kind == "fanout":
        if patterns:
            raise ConfigurationError(f"a {exchange} routes every event to every queue: leave out the topic")
        return (Binding(exchange.name, ""),)
    if not patterns:
        every = ", '#' for every event" if exchange.kind == "topic" else ""
        raise ConfigurationError(f"a subscription to a {exchange} needs a topic at least{every}")
    for pattern in patterns:
        check_topic(pattern, "a topic to subscribe to")
        (_check_pattern if exchange.kind == "topic" else _check_plain)(pattern)
    return tuple(Binding(exchange.name, pattern) for pattern in dict.fromkeys(patterns))


def recorded(exchange: Any, key: Any, arguments: Any) -> Binding:
    """Return the binding that a record names; any program may have written it.

    Raises:
        ConfigurationError: No subscription can have it: AMQP can't carry it, or it is one of the default exchange.
    """
    if not (isinstance(exchange, str) and exchange and isinstance(arguments, dict)):
        raise ConfigurationError("a binding has the name of an exchange, a key, and its arguments by their names")
    check_topic(key)
    if arguments:
        return Binding(exchange, key, _matched(Exchange(exchange, "headers"), arguments))
    return Binding(Exchange(exchange).name, key)


def check_topic(topic: str, what: str = "a topic") -> None:
    """Raise `ConfigurationError` unless a topic is text of at most 255 bytes: it is a routing key in AMQP."""
    if not isinstance(topic, str):
        raise ConfigurationError(f"{what} is text, such as 'orders.eu.paid', not {topic!r}")
    _check_size(topic, what)


def check_published(topic: str, exchange: Exchange) -> None:
    """Raise `ConfigurationError` unless an event can have a topic: words and no pattern, for a topic exchange."""
    check_topic(topic)
    if exchange.kind != "topic":
        return
    if not topic or ".." in topic or "." in (topic[0], topic[-1]):
        where = "has an empty word" if topic else "is empty"
        raise ConfigurationError(
            f"the topic {topic!r} {where}: it is words with dots between them, as 'orders.eu.paid'. '*' in a "
            "subscription stands for one word"
        )
    if ("*" in topic or "#" in topic) and (wildcards := set(topic.split(".")) & set(_WILDCARDS)):
        raise ConfigurationError(
            f"the topic {topic!r} has the wildcard {min(wildcards)!r}: a subscription has a pattern, and an event has "
            "one topic"
        )


def other_exchange(exchange: str, error: object) -> str:
    """Return the error text for an exchange that exists with another kind; ``exchange`` is its text, as here."""
    return (
        f"there is an exchange of that name, and it is no {exchange}: {error}. Say what it is, with "
        "exchange=Exchange(name, kind, durable=…), take another name, or delete it"
    )


def _check_pattern(pattern: str) -> None:
    """Check the words of a pattern: https://www.rabbitmq.com/docs/exchanges#topic ."""
    for word in pattern.split("."):
        if not word:
            where = "has an empty word" if pattern else "is empty"
            raise ConfigurationError(
                f"the pattern {pattern!r} {where}: it is words with dots between them, as 'orders.*.paid'; '*' stands "
                "for any one word, and '#' for any number of them"
            )
        if len(word) > 1 and any(wildcard in word for wildcard in _WILDCARDS):
            raise ConfigurationError(
                f"the pattern {pattern!r} never matches what {word!r} seems to mean: '*' and '#' stand for whole "
                "words, and are ordinary characters inside of one; there is no wildcard for a part of a word"
            )


def _check_plain(topic: str) -> None:
    if set(topic.split(".")) & set(_WILDCARDS):
        raise ConfigurationError(
            f"a direct exchange compares topics whole, and no event has {topic!r}: exchanges of kind topic have "
            "wildcards"
        )


def _matched(exchange: Exchange, headers: Mapping[str, Any] | None) -> tuple[tuple[str, Any], ...]:
    compared = dict(headers or {})
    how = compared.pop(_MATCH, _MATCHES[0])
    if how not in _MATCHES:
        raise ConfigurationError(f"{_MATCH} is {', '.join(_MATCHES)}, not {how!r}")
    if not compared:
        raise ConfigurationError(f"a subscription to a {exchange} needs headers={{'format': 'pdf'}} or the like")
    for name, value in compared.items():
        if not isinstance(name, str) or not isinstance(value, str | int | None):
            raise ConfigurationError(f"headers= compares text, whole numbers and booleans, not {name!r}: {value!r}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigurationError(f"header {name!r} is {value!r}: AMQP has whole numbers of 64 bits at most")
        if isinstance(value, str):
            _check_text(value, f"header {name!r}")
        _check_size(name, "a header's name")
        if name.startswith("x-") and not how.endswith("-with-x"):
            raise ConfigurationError(
                f"header {name!r} is not compared, since its name begins with 'x-': add '{_MATCH}': '{how}-with-x'"
            )
    return tuple(sorted({_MATCH: how, **compared}.items()))
