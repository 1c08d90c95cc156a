"""``amqp-rpc queues``: the messages, consumers and dead letters of queues. One command, one module: a seam."""

from __future__ import annotations

from typing import Any

import click

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.cli.exits import Exit, fail, one_line_errors
from amqp_rpc.cli.options import timeout_option, url_option
from amqp_rpc.cli.output import as_json, columns
from amqp_rpc.client.client import Client
from amqp_rpc.message import topology
from amqp_rpc.service.loading import NoSuchModule, load

_EPILOG = f"""\b
Give queues by name, or modules with services: their call queues, task queues and shared subscriptions are shown.
Without arguments: task_queue and rpc_queue.
  amqp-rpc queues
  amqp-rpc queues thumbnails services.fib
  amqp-rpc queues thumbnails --json
\b
READY messages wait for a worker. UNACKED messages are with a worker; AMQP does not report how many, so the column
shows "-". DEAD messages are dead letters (`amqp-rpc dlq`). Delayed messages wait for their time or their next attempt
in delay queues that all task queues share. A message whose delay is over and whose queue is full or deleted is not
counted: it waits in amqp_rpc.arrivals.QUEUE (`rabbitmqctl list_queues name messages` counts it).
With --json the output is one object: {{"queues": [...], "delayed": 0}}.
\b
Exit codes: {Exit.OK:d} printed, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.NO_SERVER:d} one of the queues does not exist,
{Exit.IMPORT_FAILED:d} a module fails to import, {Exit.NO_SERVICE:d} it has no service.
"""


@click.command(epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[QUEUE|MODULE]...")
@click.option("--json", "as_object", is_flag=True, help="Print a JSON object.")
@url_option
@timeout_option("Seconds that it may take.")
def queues(names: tuple[str, ...], *, as_object: bool, url: str | None, timeout: float) -> None:
    """Show the messages, consumers and dead letters of queues."""
    with one_line_errors(), Client(url, timeout=timeout) as client:
        found = _states(client, names)
        dead = client.queue_states(topology.dead_letter_queue(queue) for queue in found)
        rows = [_row(queue, state, dead[topology.dead_letter_queue(queue)]) for queue, state in found.items()]
        delayed = _delayed(client)
    missing = [queue for queue, state in found.items() if state is None]
    if as_object:
        click.echo(as_json({"queues": rows, "delayed": delayed}))
    elif rows:
        titles = [title.upper() for title in rows[0]]
        cells = [["-" if cell is None else cell for cell in row.values()] for row in rows]
        click.echo(columns(titles, cells))
        click.echo(f"delayed, in all queues: {delayed}")
    else:
        click.echo(f"neither {topology.TASK_QUEUE} nor {topology.CALL_QUEUE} exists; name a queue", err=True)
    if missing:
        fail(f"there is no queue {', '.join(map(repr, missing))}", Exit.NO_SERVER)


def _states(client: Client, names: tuple[str, ...]) -> dict[str, QueueState | None]:
    """Return the states of the queues by name; a module stands for the queues of its services."""
    if not names:
        usual = client.queue_states([topology.TASK_QUEUE, topology.CALL_QUEUE])
        return {queue: state for queue, state in usual.items() if state is not None}
    found: dict[str, QueueState | None] = {}
    for name, state in client.queue_states(names).items():
        # A queue of that name comes before a module of that name.
        served = [name] if state is not None else _served(name)
        found |= client.queue_states(served)
    return found


def _served(name: str) -> list[str]:
    """Return the queues of a module's services; the name itself if there is no such module."""
    try:
        services = load(name)
    except NoSuchModule:
        return [name]
    queues: list[str] = []
    for service in services:
        queues += [service.queue] if service.functions else []
        queues += [task.queue for task in service.tasks]
        # A broadcast subscription has a queue for each process, which the broker names.
        queues += [each.queue for each in service.subscriptions if each.shared]
    return list(dict.fromkeys(queues))


def _row(queue: str, state: QueueState | None, dead: QueueState | None) -> dict[str, Any]:
    return {
        "queue": queue,
        "ready": None if state is None else state.messages,
        "unacked": None,
        "consumers": None if state is None else state.consumers,
        "dead": 0 if dead is None else dead.messages,
    }


def _delayed(client: Client) -> int:
    """Return the number of messages in the delay queues, which are declared from the shortest to the longest."""
    total = 0
    for level in range(topology.LEVELS):
        name = topology.delay(level)
        state = client.queue_states([name])[name]
        if state is None:
            break
        total += state.messages
    return total
