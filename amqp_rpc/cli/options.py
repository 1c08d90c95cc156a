"""The options that several commands share, and the values of the words of a command line, and of lines of JSON.

An option has one name, as a flag, as a keyword and as an ``AMQP_RPC_*`` variable.
"""

from __future__ import annotations

import functools
import json
import math
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast, get_args

import click

from amqp_rpc.cli.exits import Exit, code_of, fail, one_line_errors, spoken
from amqp_rpc.cli.output import decoded_as_json
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, ConfigurationError, InvalidArguments, NotConnected
from amqp_rpc.message import codec
from amqp_rpc.message.codec import ContentType
from amqp_rpc.message.exchanges import DEFAULT, Exchange, Kind, as_exchange
from amqp_rpc.message.settings import DEFAULT_HEARTBEAT, DEFAULT_TIMEOUT, OPTIONS_IN_A_URL, broker_addresses
from amqp_rpc.message.text import plural
from amqp_rpc.message.timing import LONGEST
from amqp_rpc.service.signature import CALL_OPTIONS, Options

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
#: The function of a command.
Command = Callable[..., None]
#: Positional arguments, and named ones.
Arguments = tuple[list[Any], dict[str, Any]]

#: The most lines that are worked on together.
_BATCH = 200

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


class _Weaker(click.Option):
    """An option whose variable the library reads, since it counts less than a URL does."""

    def resolve_envvar_value(self, ctx: click.Context) -> None:
        """Return no value."""


#: The arguments of `Client` that say where the broker is, and who is believed there.
Broker = dict[str, Any]

_BROKER_FLAGS: list[Callable[[Any], Any]] = [
    option(
        "url",
        also=("AMQP_URL",),
        metavar="URL",
        show_default="amqp://guest:guest@localhost:5672/",
        help="The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS.",
    ),
    option("cacertfile", metavar="FILE", show_default="the system's", cls=_Weaker,
           help="TLS: the authorities to trust, in PEM."),
    option("certfile", metavar="FILE", cls=_Weaker, help="TLS: this program's certificate, in PEM."),
    option("keyfile", metavar="FILE", show_default="in --certfile", cls=_Weaker, help="TLS: its key."),
    option("keyfile-password-file", metavar="FILE", cls=_Weaker, help="TLS: a file with the key's password."),
    option("verify", type=click.Choice(["verify_peer", "verify_none"]), show_default="verify_peer",
           cls=_Weaker, help="TLS: verify_none checks no certificate."),
    option("server-name-indication", metavar="NAME", show_default="the host of the URL",
           cls=_Weaker, help="TLS: the name that the broker's certificate must have."),
    option("minimum-version", type=click.Choice(["tlsv1.2", "tlsv1.3"], case_sensitive=False), show_default="tlsv1.2",
           cls=_Weaker, help="TLS: the oldest version that is spoken."),
    option("auth-mechanism", type=click.Choice(["plain", "external"], case_sensitive=False), show_default="plain",
           cls=_Weaker, help="The login: external takes the user from --certfile."),
    option("password-file", metavar="FILE", cls=_Weaker,
           help="A file with the user's password, instead of one in the URL."),
    option("user-id", type=click.Choice(["sent", "none"], case_sensitive=False), show_default="none", cls=_Weaker,
           help="sent: each message has the name of its user, which RabbitMQ checks."),
]  # fmt: skip

_KEYS_FLAG = option("keys", metavar="FILE", help="A file of keys: only what is signed with one of them is believed.")


def broker_flags(command: F) -> F:
    """Give a command the options of connections to a broker, and ``keys``, each as an argument of its own."""
    for flag in (_KEYS_FLAG, *reversed(_BROKER_FLAGS)):
        command = flag(command)
    return command


def broker_options(function: F) -> F:
    """Give a command the options of connections to a broker, and pass it them as ``broker``: ``Client(**broker)``."""

    @broker_flags
    @functools.wraps(function)
    def command(*args: Any, **options: Any) -> None:
        broker: Broker = {name: options.pop(name) for name in ("url", *OPTIONS_IN_A_URL)}
        with one_line_errors():
            unverified = broker_addresses(**broker).unverified()
        if unverified is not None:
            # These commands show no log.
            click.echo(f"amqp-rpc: {unverified}", err=True)
        function(*args, broker=broker | {"keys": options.pop("keys")}, **options)

    return cast(F, command)


def seconds_option(name: str, default: float, help_text: str, **attributes: Any) -> Callable[[F], F]:
    """Return the decorator of an option in seconds."""
    return option(name, default=default, metavar="SECONDS", help=help_text, **({"type": float} | attributes))


def timeout_option(help_text: str) -> Callable[[F], F]:
    """Return the decorator of ``--timeout``."""
    return seconds_option("timeout", DEFAULT_TIMEOUT, help_text)


heartbeat_option: Callable[[F], F] = seconds_option("heartbeat", DEFAULT_HEARTBEAT, "Seconds between heartbeats.")


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


content_type_option: Callable[[F], F] = click.option(
    "--content-type",
    type=click.Choice(get_args(ContentType)),
    metavar="TYPE",
    show_default=codec.MSGPACK,
    help="How the arguments travel: application/msgpack, application/json, application/octet-stream, or text/plain, "
    "with which all words are one text, the whole body.",
)


def stdin_option(help_text: str) -> Callable[[F], F]:
    """Return the decorator of ``--stdin``."""
    return click.option("--stdin", is_flag=True, help=help_text)


def lines_help(result: str) -> str:
    """Return the help of ``--stdin`` for a command that takes arguments; ``result`` is what its line has, as JSON."""
    return f"""\
With --stdin, each line is JSON: a list of positional arguments, an object of
named ones, both ([[1], {{"x": 2}}]), or one argument. Each has a line of JSON
on standard output, in order: {{"line": 1, {result}}}, or
{{"line": 2, "error": "…"}}."""


def function_arguments(options: Options, *, header: str, stdin: str) -> Callable[[Command], Command]:
    """Return the decorator of a command that takes a function and its arguments, as words or as lines of JSON.

    Args:
        options: Those of the call, or task, which no argument may be named as.
        header: The help of ``--header``.
        stdin: The help of ``--stdin``. The command has None for its arguments then.
    """

    def decorated(function: Command) -> Command:
        @click.argument("function")
        @click.argument("arguments", nargs=-1)
        @broker_options
        @content_type_option
        @header_option(header)
        @stdin_option(stdin)
        @functools.wraps(function)
        def command(*, arguments: tuple[str, ...], stdin: bool, content_type: str | None, **given: Any) -> None:
            no_words_beside_stdin(arguments, stdin=stdin)
            words = None if stdin else arguments_of(arguments, options, content_type=content_type)
            function(arguments=words, content_type=content_type, **given)

        return command

    return decorated


def work_on_lines(read: Callable[[Any], T], work: Callable[[list[T]], Iterable[dict[str, Any] | AmqpRpcError]]) -> None:
    """Do the work of the lines of JSON on standard input, and print a line of JSON for each, in their order.

    A line that fails is reported with its number, and the others go on. The first failure gives the exit code. The
    lines that are there are one batch: nothing waits for a line that is not there yet.

    Args:
        read: Turns the value of a line into an item of work.
        work: Does a batch of them; returns for each what is printed of it, or its error.
    """
    count, failures, first = 0, 0, (0, AmqpRpcError())
    try:
        for batch in _batches():
            items = [(number, _item(read, line)) for number, line in batch]
            try:
                ends = iter(work([item for _, item in items if not isinstance(item, AmqpRpcError)]))
                for number, item in items:
                    end = item if isinstance(item, AmqpRpcError) else next(ends)
                    if isinstance(end, ConfigurationError | NotConnected | AccessRefused):
                        raise end
                    count = number
                    if isinstance(end, AmqpRpcError):
                        first = first if failures else (number, end)
                        failures += 1
                        text = spoken(end)
                        click.echo(f"amqp-rpc: line {number}: {text}", err=True)
                        end = {"error": text}
                    click.echo(decoded_as_json({"line": number, **end}))
            # Settings are the same for all lines, and without a broker none is any better.
            except (ConfigurationError, BrokerError) as error:
                fail(f"line {count + 1}: {spoken(error)}; it and the lines after it were not done", code_of(error))
    except KeyboardInterrupt:
        fail(f"interrupted; the lines up to {count} were done", Exit.INTERRUPTED)
    if failures:
        fail(f"{plural(failures, 'line', 'lines')} of {count} failed; the first is line {first[0]}", code_of(first[1]))


def _item(read: Callable[[Any], T], line: bytes) -> T | AmqpRpcError:
    try:
        return read(json.loads(line.decode()))
    except UnicodeDecodeError as error:
        return InvalidArguments(f"it is not text in UTF-8: {error.reason} at byte {error.start + 1}")
    except (ValueError, RecursionError) as error:
        return error if isinstance(error, AmqpRpcError) else InvalidArguments(f"it is not JSON: {error}")
    except AmqpRpcError as error:
        return error


def _batches() -> Iterator[list[tuple[int, bytes]]]:
    """Yield the lines of standard input with their numbers, as many as are there; blank ones are left out."""
    lines: queue.Queue[tuple[int, bytes] | None] = queue.Queue(_BATCH)

    def read() -> None:
        # A file of its own: at the end of this program nothing must wait for the lock of Python's.
        with open(sys.stdin.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    lines.put((number, line))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    line = lines.get()
    while line is not None:
        batch: list[tuple[int, bytes]] = []
        while line is not None and len(batch) < _BATCH:
            batch.append(line)
            try:
                line = lines.get_nowait()
            except queue.Empty:
                break
        else:
            yield batch
            continue
        yield batch
        line = lines.get()


def arguments_in(value: Any, options: Options = CALL_OPTIONS) -> Arguments:
    """Return the positional and the named arguments in a line of JSON.

    A list has positional arguments, and an object named ones; a list of a list and an object has both, as on the wire.
    Any other value is one argument.

    Raises:
        InvalidArguments: A name is that of an option of the call, or task.
    """
    positional: list[Any] = [value]
    named: dict[str, Any] = {}
    match value:
        case [list() as args, dict() as kwargs]:
            positional, named = args, kwargs
        case list():
            positional = value
        case dict():
            positional, named = [], value
    for name in named:
        _check_name(name, options)
    return positional, named


def no_words_beside_stdin(words: tuple[str, ...], *, stdin: bool) -> None:
    """End the program if arguments are given twice."""
    if stdin and words:
        fail(f"--stdin reads the arguments from standard input: leave out {words[0]!r}", Exit.USAGE)


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
        if equals:
            try:
                _check_name(name, options)
            except InvalidArguments as error:
                fail(str(error), Exit.USAGE)
        if equals and name in named:
            fail(f"{name} is given twice", Exit.USAGE)
        if equals and name.isidentifier():
            named[name] = value_of(rest)
        elif named:
            fail(f"{word!r} follows named arguments; positional arguments come first", Exit.USAGE)
        else:
            positional.append(value_of(word))
    return positional, named


def _check_name(name: str, options: Options) -> None:
    if name in options.names:
        kind = "call" if options is CALL_OPTIONS else "task"
        raise InvalidArguments(f"{name} is an option of the {kind}, not an argument: --{name.replace('_', '-')}")


class WithNegativeNumbers(click.Command):
    """A command that accepts negative numbers as arguments: ``amqp-rpc call fib -1``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the words that are left after the options."""
        # Before click takes the words apart.
        protected = len(args) - args.index("--") - 1 if "--" in args else 0
        # click leaves unknown options among the arguments; one that is not a number was meant as an option.
        ctx.ignore_unknown_options = True
        rest = super().parse_args(ctx, args)
        # The last of them are those behind "--".
        named = [ctx.params[each.name] for each in self.params if isinstance(each, click.Argument) and each.name]
        words = [word for value in named for word in (value if isinstance(value, tuple) else [value]) if word]
        for word in words[: max(0, len(words) - protected)]:
            if word.startswith("-") and not isinstance(value_of(word), int | float):
                message = f"No such option {word!r}; an argument that begins with - goes behind --"
                raise click.NoSuchOption(word, message, ctx=ctx)
        return rest


class Seconds(click.FloatRange):
    """A number of seconds; not NaN, which is in every range, nor more than a wait can last."""

    def __init__(self, *, min_open: bool = False) -> None:
        super().__init__(min=0, max=LONGEST, min_open=min_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number of a text."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


class Time(click.ParamType):  # type: ignore[type-arg] # generic in the newest versions of click only
    """A time in ISO 8601, local unless it has a zone; with ``ago`` also an age, such as ``90m``."""

    name = "time"

    def __init__(self, *, ago: bool) -> None:
        self._ago = ago

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the time of a text."""
        if isinstance(value, datetime):
            return value
        try:
            if self._ago and (match := _AGO.fullmatch(value.removesuffix("ago").strip())):
                number, unit = match.groups()
                return datetime.now(UTC) - timedelta(**{_UNITS[unit]: float(number)})
            return datetime.fromisoformat(value).astimezone()
        # An age of more years than a calendar has, and a first or last day that is in no other zone.
        except (ValueError, OverflowError):
            ago = " or an age such as 90s, 15m, 2h or 7d" if self._ago else ""
            self.fail(f"{value!r} is not a time in ISO 8601 such as 2026-01-31T12:00{ago}", param, ctx)
