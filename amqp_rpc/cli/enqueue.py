"""``amqp-rpc enqueue``: enqueue one task, and wait for its result if asked. One command, one module: a seam."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from amqp_rpc.cli.exits import Exit, fail, fail_with, one_line_errors, spoken
from amqp_rpc.cli.options import (
    Arguments,
    Broker,
    Time,
    WithNegativeNumbers,
    arguments_in,
    function_arguments,
    lines_help,
    option,
    timeout_option,
    work_on_lines,
)
from amqp_rpc.cli.output import decoded_as_json, show_warnings
from amqp_rpc.client.client import Client
from amqp_rpc.client.task import TaskHandle
from amqp_rpc.errors import (
    AmqpRpcError,
    BrokerError,
    CallTimeout,
    CodecError,
    NotAllAccepted,
    PublishRefused,
    RemoteError,
)
from amqp_rpc.service.signature import TASK_OPTIONS

_EPILOG = f"""\
FUNCTION is the name of a task (resize), or images.resize for a task of service images. An argument is JSON if it
parses as JSON, otherwise text. name=value is a named argument.

\b
  amqp-rpc enqueue resize a.png size=3
  amqp-rpc enqueue resize a.png --queue thumbnails --delay 10
  amqp-rpc enqueue images.resize a.png --wait --timeout 60
  amqp-rpc enqueue work Hello... --content-type text/plain
  amqp-rpc enqueue resize --stdin < pictures.jsonl

{lines_help('"id": "9f3c…"')}

Exit codes: {Exit.OK:d} enqueued (with --wait: its result is printed), {Exit.NO_BROKER:d} no broker, \
{Exit.ACCESS_REFUSED:d} access refused, {Exit.REFUSED:d} the broker
refused it, {Exit.CONFIGURATION:d} its queue exists with other arguments, {Exit.USAGE:d} wrong command line; \
with --wait: {Exit.TIMEOUT:d} no result in time
(the task goes on), {Exit.REMOTE_ERROR:d} it failed for good.
"""

#: Seconds to ask the broker for the consumers of a queue, with --wait.
_STATE_TIMEOUT = 2.0


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@function_arguments(
    TASK_OPTIONS,
    header="A header of the task; may be given several times.",
    stdin="Enqueue a task for each line of JSON on standard input.",
)
@option("queue", help="The task queue.", show_default="task_queue, or task_queue.SERVICE")
@click.option("--delay", type=float, metavar="SECONDS", help="Seconds before a worker may start the task.")
@click.option("--eta", type=Time(ago=False), metavar="TIME", help="The same as a time in ISO 8601.")
@click.option("--expires", type=float, metavar="SECONDS", help="Seconds after which no worker starts the task.")
@click.option("--priority", type=int, metavar="0-9", help="Higher priorities run first; the task's own by default.")
@click.option("--unique-for", type=float, metavar="SECONDS", help="Do not enqueue an equal task again in this time.")
@timeout_option("Seconds until the broker confirms the task; with --wait, as many again until it has its result.")
@click.option("--wait", is_flag=True, help="Wait for the result, and print it as JSON after the id.")
@click.option("--traceback", is_flag=True, help="With --wait: if the task fails, show the worker's traceback.")
def enqueue(
    function: str, *, arguments: Arguments | None, broker: Broker, timeout: float, wait: bool, traceback: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Enqueue a task for FUNCTION, and print its id when the broker has confirmed it."""
    with one_line_errors(), Client(**broker) as client:
        if arguments is None:
            show_warnings()
            work = partial(_tasks, client, function, timeout, options, wait)
            work_on_lines(partial(arguments_in, options=TASK_OPTIONS), work)
            return
        positional, named = arguments
        if not wait:
            show_warnings()
        task = client.enqueue(function, *positional, timeout=timeout, **options, **named)
        click.echo(task.id)
        if not wait:
            return
        if note := _no_consumer(client, task.queue):
            click.echo(f"amqp-rpc: {note}; waiting for one", err=True)
        try:
            result = task.result(timeout=timeout)
        except RemoteError as error:
            fail_with(error, traceback=traceback)
        except CallTimeout as error:
            # The store and the broker say what is known of it, but not that it was to wait.
            waits = options["delay"] is not None or options["eta"] is not None
            fail(f"{spoken(error)}{'; no worker starts it before its delay is over' if waits else ''}", Exit.TIMEOUT)
        click.echo(decoded_as_json(result))


def _tasks(
    client: Client, function: str, timeout: float, options: dict[str, Any], wait: bool, tasks: list[Arguments]
) -> Iterator[Any]:
    """Enqueue tasks; yield the end of each, in their order."""
    for end in _enqueued(client, function, timeout, options, tasks):
        if isinstance(end, AmqpRpcError):
            yield end
            continue
        shown = {"id": end.id}
        if wait:
            try:
                shown["result"] = end.result(timeout=timeout)
            except AmqpRpcError as error:
                yield error
                continue
        yield shown


def _enqueued(
    client: Client, function: str, timeout: float, options: dict[str, Any], tasks: list[Arguments]
) -> Iterator[TaskHandle[Any] | AmqpRpcError]:
    given = {name: value for name, value in options.items() if value is not None}
    if "unique_for" not in given and not any(positional and named for positional, named in tasks):
        many = [named or tuple(positional) for positional, named in tasks]
        try:
            yield from client.enqueue_many(function, many, timeout=timeout, **given)
        except NotAllAccepted as error:
            yield from (handle or error.errors[number] for number, handle in enumerate(error.handles))
        return
    for positional, named in tasks:
        try:
            yield client.enqueue(function, *positional, timeout=timeout, **options, **named)
        except (PublishRefused, CodecError) as error:
            yield error


def _no_consumer(client: Client, queue: str) -> str:
    """Return a note that a queue has no consumer; "" if it has one, or if the broker does not answer soon."""
    try:
        state = client.queue_states([queue], timeout=_STATE_TIMEOUT)[queue]
    except BrokerError:
        return ""
    if state is not None and state.consumers:
        return ""
    return f"queue {queue!r} has no consumer (`amqp-rpc serve` starts a worker, --queue names another queue)"
