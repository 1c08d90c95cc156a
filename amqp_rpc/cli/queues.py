"""``amqp-rpc queues`` and ``amqp-rpc schedules``: what waits in queues, and when schedules tick. It is a seam."""

from __future__ import annotations

import time
from typing import Any

import click

from amqp_rpc import broker as throwaway
from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.cli.exits import Exit, fail, one_line_errors
from amqp_rpc.cli.options import Broker, broker_options, timeout_option
from amqp_rpc.cli.output import as_json, columns, local, terminal_width
from amqp_rpc.client.client import Client
from amqp_rpc.message import topology
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.service.loading import NoSuchModule, load
from amqp_rpc.service.schedules import moment

_EPILOG = f"""\
Give queues by name, or modules with services: their call queues, task queues and shared subscriptions are shown.
Without arguments: all queues of a private node of `amqp-rpc broker start`. AMQP
itself can't list queues: of any other broker only task_queue and rpc_queue are
shown, and `rabbitmqctl list_queues name` lists them all.

\b
  amqp-rpc queues
  amqp-rpc queues thumbnails services.fib
  amqp-rpc queues thumbnails --json

READY messages wait for a worker. UNACKED messages are with a worker; AMQP does not report how many, so the column
shows "-". DEAD messages are dead letters (`amqp-rpc dlq`). Delayed messages wait for their time or their next attempt
in delay queues that all task queues share. A message whose delay is over and whose queue is full or deleted is not
counted: it waits in amqp_rpc.arrivals.QUEUE (`rabbitmqctl list_queues name messages` counts it). If that was deleted
too, the message is counted, and `amqp-rpc dlq list amqp_rpc.delay.unrouted` shows it.

With --json the output is one object: {{"queues": [...], "delayed": 0, "abandoned": 0}}.

Exit codes: {Exit.OK:d} printed, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.NO_SERVER:d} one of the queues does not exist,
{Exit.IMPORT_FAILED:d} a module fails to import, {Exit.NO_SERVICE:d} it has no service.
"""


#: The queues to show if nothing lists any.
_USUAL = (topology.TASK_QUEUE, topology.CALL_QUEUE)

_EPILOG_OF_SCHEDULES = f"""\
\b
  amqp-rpc schedules services.reports

NEXT is the next tick by this machine's clock. `amqp-rpc serve` enqueues the task
then, and prints its schedules at its start.

Exit codes: {Exit.OK:d} printed, {Exit.NO_MODULE:d} no such module,
{Exit.IMPORT_FAILED:d} it fails to import, {Exit.NO_SERVICE:d} it has no service.
"""


@click.command(epilog=_EPILOG_OF_SCHEDULES)
@click.argument("targets", nargs=-1, required=True, metavar="MODULE...")
@click.option("--json", "as_lines", is_flag=True, help="Print one JSON object per line.")
def schedules(targets: tuple[str, ...], *, as_lines: bool) -> None:
    """List the schedules of modules with services, and when each ticks next."""
    with one_line_errors(of_code=True):
        found = [each for target in targets for service in load(target) for each in service.schedules]
        now = round(time.time() * 1000)
        rows = [
            {
                "schedule": each.name,
                "queue": each.queue,
                "function": each.function,
                "next": moment(each.times.after(now)),
            }
            for each in found
        ]
        if as_lines:
            for row in rows:
                click.echo(as_json(row))
        elif rows:
            cells = [[*list(row.values())[:-1], local(row["next"])] for row in rows]  # type: ignore[arg-type] # the last is a time
            click.echo(columns([title.upper() for title in rows[0]], cells, width=terminal_width()))
        else:
            click.echo(f"no schedule in {', '.join(targets)}", err=True)


@click.command(epilog=_EPILOG)
@click.argument("names", nargs=-1, metavar="[QUEUE|MODULE]...")
@click.option("--json", "as_object", is_flag=True, help="Print a JSON object.")
@broker_options
@timeout_option("Seconds that it may take.")
def queues(names: tuple[str, ...], *, as_object: bool, broker: Broker, timeout: float) -> None:
    """Show the messages, consumers and dead letters of queues."""
    with one_line_errors(), Client(**broker, timeout=timeout) as client:
        listed = () if names else _listed(broker)
        found = _states(client, names) if names else _present(client, listed or _USUAL)
        dead = client.queue_states(topology.dead_letter_queue(queue) for queue in found)
        rows = [_row(queue, state, dead[topology.dead_letter_queue(queue)]) for queue, state in found.items()]
        delayed = _delayed(client)
        unrouted = client.queue_states([topology.ABANDONED])[topology.ABANDONED]
        abandoned = 0 if unrouted is None else unrouted.messages
    missing = [queue for queue, state in found.items() if state is None]
    if as_object:
        click.echo(as_json({"queues": rows, "delayed": delayed, "abandoned": abandoned}))
    elif rows:
        titles = [title.upper() for title in rows[0]]
        cells = [["-" if cell is None else cell for cell in row.values()] for row in rows]
        click.echo(columns(titles, cells))
        click.echo(f"delayed, in all queues: {delayed}")
        if abandoned:
            click.echo(f"delayed, for queues that are gone: {abandoned} (`amqp-rpc dlq list {topology.UNROUTED}`)")
    else:
        click.echo(f"none of these queues exists: {', '.join(listed or _USUAL)}", err=True)
    if not (names or listed):
        click.echo("AMQP can't list queues: give queues or modules (`amqp-rpc queues --help` says more)", err=True)
    if missing:
        fail(f"there is no queue {', '.join(map(repr, missing))}", Exit.NO_SERVER)


def _listed(broker: Broker) -> tuple[str, ...]:
    """Return the queues of programs on the broker that `broker start` has started; none if it is another one."""
    addresses = broker_addresses(**broker)
    entry = throwaway.status()
    here = "localhost", "127.0.0.1", "::1"
    if entry is None or not any(
        (each.port, each.vhost) == (entry.port, "/") and each.host in here for each in addresses
    ):
        return ()
    names = sorted(throwaway.queues())
    # Dead letters have a column, and the others belong to the library and to connections.
    own = [name for name in names if not name.startswith(("amqp_rpc.", "amq."))]
    return tuple(name for name in own if not topology.holds_dead_letters(name))


def _present(client: Client, names: tuple[str, ...]) -> dict[str, QueueState | None]:
    """Return the states of those queues that exist."""
    return {queue: state for queue, state in client.queue_states(names).items() if state is not None}


def _states(client: Client, names: tuple[str, ...]) -> dict[str, QueueState | None]:
    """Return the states of the queues by name; a module stands for the queues of its services."""
    found: dict[str, QueueState | None] = {}
    for name, state in client.queue_states(names).items():
        # A queue of that name comes before a module of that name.
        served = [name] if state is not None else _served(name)
        found |= client.queue_states(served)
    return found


def _served(name: str) -> list[str]:
    """Return the queues of a module's services; the name itself if there is no such module."""
    with one_line_errors(of_code=True):
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
