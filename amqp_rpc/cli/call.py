"""``amqp-rpc call``: make one call and print its result as JSON. One command, one module: a seam."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import click

from amqp_rpc.cli.exits import Exit, fail_with, one_line_errors
from amqp_rpc.cli.options import (
    Arguments,
    Broker,
    WithNegativeNumbers,
    arguments_in,
    function_arguments,
    lines_help,
    option,
    timeout_option,
    work_on_lines,
)
from amqp_rpc.cli.output import decoded_as_json
from amqp_rpc.client.client import Client
from amqp_rpc.errors import AmqpRpcError, CallError, CodecError, RemoteError
from amqp_rpc.service.signature import CALL_OPTIONS

_EPILOG = f"""\
An argument is JSON if it parses as JSON, otherwise text. name=value is a named argument.

\b
  amqp-rpc call fib 30
  amqp-rpc call fib -- -1            or just -1; after -- nothing is an option
  amqp-rpc call billing.charge amount=3 note=\\"a=b\\"
  amqp-rpc call fib 30 --content-type text/plain     (a tutorial's server)
  amqp-rpc call fib --stdin < numbers.jsonl

{lines_help('"result": 832040')}

Exit codes: {Exit.OK:d} result, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.NO_SERVER:d} no server, {Exit.TIMEOUT:d} timeout,
{Exit.MAYBE_EXECUTED:d} the server died and the function may have run, {Exit.REMOTE_ERROR:d} the function raised,
{Exit.BAD_ARGUMENTS:d} bad arguments, {Exit.NO_FUNCTION:d} no such function, {Exit.USAGE:d} wrong command line.
"""


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@function_arguments(
    CALL_OPTIONS,
    header="A header of the call; may be given several times.",
    stdin="Make a call for each line of JSON on standard input, many at a time.",
)
@timeout_option("Seconds that the call may take.")
@click.option("--queue", metavar="NAME", show_default="rpc_queue, or rpc_queue.SERVICE", help="The queue of the call.")
@click.option("--idempotent", is_flag=True, default=None, help="It may run twice: send it again if it is lost.")
@option("wait-for-server", is_flag=True, help="If there is no server, wait for one, within the timeout.")
@click.option("--traceback", is_flag=True, help="If the function raises, show the server's traceback.")
def call(function: str, *, arguments: Arguments | None, broker: Broker, traceback: bool, **options: Any) -> None:
    """Call FUNCTION on a server and print its result as JSON."""
    with one_line_errors(), Client(**broker) as client:
        if arguments is None:
            work_on_lines(arguments_in, partial(_calls, client, function, options))
            return
        positional, named = arguments
        try:
            click.echo(decoded_as_json(client.submit(function, *positional, **options, **named).result()))
        except RemoteError as error:
            fail_with(error, traceback=traceback)


def _calls(client: Client, function: str, options: dict[str, Any], calls: list[Arguments]) -> Iterator[Any]:
    """Make calls at the same time; yield the end of each, in their order."""
    begun: list[Future[Any] | AmqpRpcError] = []
    for positional, named in calls:
        try:
            begun.append(client.submit(function, *positional, **options, **named))
        except (CodecError, CallError) as error:
            begun.append(error)
    for each in begun:
        try:
            yield each if isinstance(each, AmqpRpcError) else {"result": each.result()}
        except (CodecError, CallError) as error:
            yield error
