"""What ``publish`` and ``listen`` say alike of an exchange, and of an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, get_args

import click

from amqp_rpc.cli.call import value
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import fail
from amqp_rpc.message import codec
from amqp_rpc.message.exchanges import DEFAULT, Exchange, Kind, as_exchange

F = TypeVar("F", bound=Callable[..., Any])


def exchange_options(function: F) -> F:
    """Give a command the options that name an exchange; `exchange_of` reads them."""
    for option in (
        click.option("--transient", is_flag=True, help="The exchange is not durable, as in RabbitMQ's tutorials."),
        click.option("--type", "kind", type=click.Choice(get_args(Kind)), default="topic", show_default=True,
                     help="The exchange's kind."),
        click.option("--exchange", metavar="NAME", default=DEFAULT.name, show_default=True,
                     help="Where events are published."),
    ):  # fmt: skip
        function = option(function)
    return function


def header_option(help_text: str) -> Callable[[F], F]:
    """Return the decorator of an option that gives headers; `headers_of` reads it."""
    return click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help=help_text)


def exchange_of(name: str, kind: str, *, transient: bool) -> Exchange:
    """Return the exchange that the options name."""
    return Exchange(name, cast(Kind, kind), durable=not transient) if name else as_exchange(name)


def headers_of(words: tuple[str, ...]) -> dict[str, Any]:
    """Return the headers that an option gives, each value as JSON where it parses and as text where it doesn't."""
    headers: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            fail(f"a header is NAME=VALUE, not {word!r}", Exit.USAGE)
        headers[name] = value(text)
    return headers


def shown(payload: object) -> str:
    """Return a payload as one prints it: text as it is, everything else as JSON."""
    return payload if isinstance(payload, str) else codec.encode(payload, codec.JSON, limit=2**62).decode()
