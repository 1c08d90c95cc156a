"""``amqp-rpc call``: one call from the shell, its result as JSON."""

from __future__ import annotations

import json
from typing import Any

import click

from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import exit_code, fail, one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.client.client import Client
from amqp_rpc.errors import RemoteError
from amqp_rpc.message import codec
from amqp_rpc.message.settings import DEFAULT_TIMEOUT
from amqp_rpc.service.signature import CALL_OPTIONS, Options

_EPILOG = f"""\b
Arguments are JSON where they parse and text where they don't; name=value gives a named one.
  amqp-rpc call fib 30
  amqp-rpc call fib -- -1                      or just -1; behind -- nothing is an option
  amqp-rpc call billing.charge amount=3 note=\\"a=b\\"
\b
Exit codes: {Exit.OK:d} result, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.NO_SERVER:d} no server, {Exit.TIMEOUT:d} timeout,
{Exit.MAYBE_EXECUTED:d} the server died and the function may have run, {Exit.REMOTE_ERROR:d} the function raised,
{Exit.BAD_ARGUMENTS:d} bad arguments, {Exit.NO_FUNCTION:d} no such function, {Exit.CONFIGURATION:d} wrong settings.
"""


class WithNegativeNumbers(click.Command):
    """A command that takes negative numbers for what they are: ``amqp-rpc call fib -1``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return what is left when the options are taken."""
        # click leaves what it does not know among the arguments; what is no number there was meant as an option.
        ctx.ignore_unknown_options = True
        rest = super().parse_args(ctx, args)
        if "--" not in args:
            for word in ctx.params["arguments"]:
                if word.startswith("-") and not isinstance(value(word), int | float):
                    raise click.NoSuchOption(word, ctx=ctx)
        return rest


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@click.argument("function")
@click.argument("arguments", nargs=-1)
@url_option
@option("timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="Seconds that the call may take.")
@option("wait-for-server", is_flag=True, help="Wait for a server, within the timeout, where there is none.")
@click.option("--traceback", is_flag=True, help="Show the server's traceback when the function raises.")
def call(
    function: str,
    arguments: tuple[str, ...],
    url: str | None,
    timeout: float,
    *,
    wait_for_server: bool,
    traceback: bool,
) -> None:
    """Call FUNCTION on a server and print its result as JSON."""
    positional, named = parse(arguments)
    with one_line_errors():
        client = Client(url)
        try:
            result = client.submit(
                function, *positional, timeout=timeout, wait_for_server=wait_for_server, **named
            ).result()
        except RemoteError as error:
            if traceback and error.traceback:
                click.echo(error.traceback, err=True)
            fail(f"{error.type}: {error.message}", exit_code(error))
        finally:
            client.close()
        print_result(result)


def print_result(result: object) -> None:
    """Print a result as JSON."""
    # A result of the server's limit may be longer as JSON, and printing has none.
    click.echo(codec.encode(result, codec.JSON, limit=2**62).decode())


def parse(arguments: tuple[str, ...], options: Options = CALL_OPTIONS) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments that words on a command line stand for.

    Args:
        arguments: The words.
        options: What is not an argument of the function.
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, rest = argument.partition("=")
        if equals and name in options.names:
            what = "call" if options is CALL_OPTIONS else "task"
            fail(f"{name} is an option of the {what}, not an argument: --{name.replace('_', '-')}", Exit.USAGE)
        if equals and name in named:
            fail(f"{name} is given twice", Exit.USAGE)
        if equals and name.isidentifier():
            named[name] = value(rest)
        elif named:
            fail(f"{argument!r} stands behind named arguments; positional ones come first", Exit.USAGE)
        else:
            positional.append(value(argument))
    return positional, named


def value(text: str) -> Any:
    """Return what a word on a command line stands for: JSON where it parses, else text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
