"""``amqp-rpc enqueue``: one task from the shell; its id, and its result where that is waited for."""

from __future__ import annotations

from datetime import datetime

import click

from amqp_rpc.cli.call import WithNegativeNumbers, parse, print_result
from amqp_rpc.cli.columns import Time
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import exit_code, fail, one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.client.client import Client
from amqp_rpc.errors import BrokerError, RemoteError
from amqp_rpc.message.deadline import Deadline
from amqp_rpc.message.settings import DEFAULT_TIMEOUT
from amqp_rpc.service.signature import TASK_OPTIONS

_EPILOG = f"""\b
FUNCTION is a task's name (resize), or images.resize for one of service images. Arguments are JSON where they parse and
text where they don't; name=value gives a named one.
  amqp-rpc enqueue resize a.png size=3
  amqp-rpc enqueue resize a.png --queue thumbnails --delay 10
  amqp-rpc enqueue images.resize a.png --wait --timeout 60
\b
Exit codes: {Exit.OK:d} enqueued (with --wait: its result is printed), {Exit.NO_BROKER:d} no broker, \
{Exit.ACCESS_REFUSED:d} access refused, {Exit.REFUSED:d} the broker
did not take it, {Exit.CONFIGURATION:d} wrong settings; with --wait: {Exit.TIMEOUT:d} no result in time, and the task \
goes on, {Exit.REMOTE_ERROR:d} it failed for good.
"""

#: Seconds for the broker to say whether a queue is consumed, while a result is waited for.
_A_MOMENT = 2.0


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@click.argument("function")
@click.argument("arguments", nargs=-1)
@url_option
@option("queue", help="The queue that holds it.", show_default="task_queue, or task_queue.SERVICE")
@click.option("--delay", type=float, metavar="SECONDS", help="Seconds until a worker may take it.")
@click.option("--eta", type=Time(ago=False), metavar="TIME", help="The same as a time, in ISO 8601.")
@click.option("--expires", type=float, metavar="SECONDS", help="Seconds after which no worker starts it any more.")
@click.option("--priority", type=int, metavar="0-9", help="What is taken first; the task's own unless given.")
@click.option("--unique-for", type=float, metavar="SECONDS", help="Do not enqueue the same one twice in this time.")
@option(
    "timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS",
    help="Seconds until the broker has it; with --wait, until its result is there.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for its result, and print it as JSON after the id.")
@click.option("--traceback", is_flag=True, help="With --wait: show the worker's traceback when it fails.")
def enqueue(
    function: str,
    arguments: tuple[str, ...],
    *,
    url: str | None,
    queue: str | None,
    delay: float | None,
    eta: datetime | None,
    expires: float | None,
    priority: int | None,
    unique_for: float | None,
    timeout: float,
    wait: bool,
    traceback: bool,
) -> None:
    """Enqueue a task for FUNCTION, and print its id once the broker has it safe."""
    positional, named = parse(arguments, TASK_OPTIONS)
    with one_line_errors(), Client(url) as client:
        deadline = Deadline.after(timeout)
        task = client.enqueue(
            function,
            *positional,
            queue=queue,
            delay=delay,
            eta=eta,
            expires=expires,
            priority=priority,
            unique_for=unique_for,
            timeout=timeout,
            **named,
        )
        click.echo(task.id)
        if not wait:
            return
        if _unserved(client, task.queue):
            click.echo(f"amqp-rpc: {_nobody(task.queue)}; waiting for one that does", err=True)
        try:
            result = task.result(timeout=max(0.001, deadline.remaining()))
        # In this order: what a task raised may be a TimeoutError of its own.
        except RemoteError as error:
            if traceback and error.traceback:
                click.echo(error.traceback, err=True)
            fail(f"{error.type}: {error.message}", exit_code(error))
        except TimeoutError:
            goes_on = f": {_nobody(task.queue)}; it waits there" if _unserved(client, task.queue) else "; it goes on"
            fail(f"task {task.id} has no result after {timeout:g} s{goes_on}", Exit.TIMEOUT)
        print_result(result)


def _unserved(client: Client, queue: str) -> bool:
    """Return whether the broker says that no worker consumes a queue; not where it does not say in a moment."""
    try:
        state = client.queue_states([queue], timeout=_A_MOMENT)[queue]
    except BrokerError:
        return False
    return state is None or not state.consumers


def _nobody(queue: str) -> str:
    return f"nobody consumes queue {queue!r} (`amqp-rpc serve` starts a worker, --queue names another queue)"
