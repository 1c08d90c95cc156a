"""The options that several commands share, and the values that the words of a command line stand for.

An option has one name, as a flag, as a keyword and as an ``AMQP_RPC_*`` variable.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, get_args

import click

from amqp_rpc.cli.exits import Exit, fail, one_line_errors
from amqp_rpc.message import codec
from amqp_rpc.message.codec import ContentType
from amqp_rpc.message.exchanges import DEFAULT, Exchange, Kind, as_exchange
from amqp_rpc.message.settings import DEFAULT_HEARTBEAT, DEFAULT_TIMEOUT
from amqp_rpc.service.signature import CALL_OPTIONS, Options

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def option(
    name: str, *, also: tuple[str, ...] = (), show_default: bool | str = True, **attributes: Any
) -> Callable[[F], F]:
    """Return the decorator of an option ``--name``, which is also read from ``AMQP_RPC_NAME``."""
    variable = f"AMQP_RPC_{name.partition('/')[0].upper().replace('-', '_')}"
    return click.option(
        f"--{name}", envvar=[variable, *also], show_envvar=True, show_default=show_default, **attributes
    )


url_option = option(
    "url",
    also=("AMQP_URL",),
    metavar="URL",
    show_default="amqp://guest:guest@localhost:5672/",
    help="The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS.",
)


def seconds_option(name: str, default: float, help_text: str, **attributes: Any) -> Callable[[F], F]:
    """Return the decorator of an option in seconds."""
    return option(name, default=default, metavar="SECONDS", help=help_text, **({"type": float} | attributes))


def timeout_option(help_text: str) -> Callable[[F], F]:
    """Return the decorator of ``--timeout``."""
    return seconds_option("timeout", DEFAULT_TIMEOUT, help_text)


heartbeat_option = seconds_option("heartbeat", DEFAULT_HEARTBEAT, "Seconds between heartbeats.")


def exchange_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that name an exchange, and pass it the `Exchange`."""

    @click.option("--exchange", metavar="NAME", default=DEFAULT.name, show_default=True, help="The exchange of events.")
    @click.option("--type", "kind", type=click.Choice(get_args(Kind)), default="topic", show_default=True,
                  help="The type of the exchange.")  # fmt: skip
    @click.option("--transient", is_flag=True, help="The exchange is not durable, as in RabbitMQ's tutorials.")
    @functools.wraps(function)
    def command(*args: Any, exchange: str, kind: Kind, transient: bool, **options: Any) -> None:
        with one_line_errors():
            made = Exchange(exchange, kind, durable=not transient) if exchange else as_exchange(exchange)
            function(*args, exchange=made, **options)

    return command


def header_option(help_text: str) -> Callable[[F], F]:
    """Return the decorator of ``--header``, which passes the headers as a dictionary."""
    return click.option(
        "--header", "headers", multiple=True, metavar="NAME=VALUE", help=help_text, callback=_headers_of
    )


def _headers_of(_context: click.Context, _option: click.Parameter, words: tuple[str, ...]) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            fail(f"a header is NAME=VALUE, not {word!r}", Exit.USAGE)
        if name in headers:
            fail(f"header {name} is given twice", Exit.USAGE)
        headers[name] = value_of(text)
    return headers


content_type_option = click.option(
    "--content-type",
    type=click.Choice(get_args(ContentType)),
    show_default=codec.MSGPACK,
    help="How the arguments travel. With text/plain all words are one text, the whole body.",
)


def value_of(word: str) -> Any:
    """Return the value of a word: JSON if it parses as JSON, otherwise text."""
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return word


def arguments_of(
    words: tuple[str, ...], options: Options = CALL_OPTIONS, *, content_type: str | None = None
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments of words: values, then ``name=value`` pairs.

    The names of options of a call, or task, can't be arguments of the function. As text, the words are one argument.
    """
    if content_type is not None and not codec.packed(content_type):
        return [" ".join(words)], {}
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for word in words:
        name, equals, rest = word.partition("=")
        if equals and name in options.names:
            kind = "call" if options is CALL_OPTIONS else "task"
            fail(f"{name} is an option of the {kind}, not an argument: --{name.replace('_', '-')}", Exit.USAGE)
        if equals and name in named:
            fail(f"{name} is given twice", Exit.USAGE)
        if equals and name.isidentifier():
            named[name] = value_of(rest)
        elif named:
            fail(f"{word!r} follows named arguments; positional arguments come first", Exit.USAGE)
        else:
            positional.append(value_of(word))
    return positional, named


class WithNegativeNumbers(click.Command):
    """A command that accepts negative numbers as arguments: ``amqp-rpc call fib -1``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the words that are left after the options."""
        # click leaves unknown options among the arguments; one that is not a number was meant as an option.
        ctx.ignore_unknown_options = True
        rest = super().parse_args(ctx, args)
        if "--" not in args:
            for word in ctx.params["arguments"]:
                if word.startswith("-") and not isinstance(value_of(word), int | float):
                    raise click.NoSuchOption(word, ctx=ctx)
        return rest


class Time(click.ParamType):  # type: ignore[type-arg] # generic in the newest versions of click only
    """A time in ISO 8601, local unless it has a zone; with ``ago`` also an age, such as ``90m``."""

    name = "time"

    def __init__(self, *, ago: bool) -> None:
        self._ago = ago

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time of a text."""
        if isinstance(value, datetime):
            return value
        if self._ago and (match := _AGO.fullmatch(value.removesuffix("ago").strip())):
            number, unit = match.groups()
            return datetime.now(UTC) - timedelta(**{_UNITS[unit]: float(number)})
        try:
            return datetime.fromisoformat(value).astimezone()
        except ValueError:
            ago = " or an age such as 90s, 15m, 2h or 7d" if self._ago else ""
            self.fail(f"{value!r} is not a time in ISO 8601 such as 2026-01-31T12:00{ago}", param, ctx)
