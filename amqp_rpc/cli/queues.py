"""`amqp-rpc queues`, `schedules` and `permissions`: what waits, when schedules tick, who may do what. It is a seam."""

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
from amqp_rpc.message.refusals import permissions as set_permissions
from amqp_rpc.message.refusals import three_patterns
from amqp_rpc.message.settings import broker_addresses
from amqp_rpc.service import permissions as rights
from amqp_rpc.service.catalog import Catalog
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


#: The roles, and what each does, for help and errors.
_ROLES = {
    "caller": "calls functions and enqueues tasks",
    "server": "serves a service, all of it; or the calls of a queue",
    "worker": "runs tasks",
    "subscriber": "handles events",
    "scheduler": "enqueues tasks by schedules, and runs them",
    "publisher": "publishes events",
    "listener": "prints events (`amqp-rpc listen`)",
    "operator": "reads, replays and drops dead letters",
}

_EPILOG_OF_PERMISSIONS = f"""\
ROLE is what the user's programs do:

\b
{"".join(f"  {role:<11} {what}{chr(10)}" for role, what in _ROLES.items())}
TARGET is a module with services, module:service, or the name of a queue (of a publisher or listener: of an exchange).

\b
  amqp-rpc permissions server services.fib --user fib
  amqp-rpc permissions caller services.fib --user web --delay
  amqp-rpc permissions publisher amqp_rpc.events --user shop
  amqp-rpc permissions operator thumbnails --json

The patterns of servers are for a new virtual host too. Those of the others are for one where the servers have been
started: what is there, they need no right to configure.

Write on amq.default is write to every queue of the virtual host. Who must not
reach a queue at all needs a virtual host of his own.

Exit codes: {Exit.OK:d} printed, {Exit.NO_MODULE:d} no such module, {Exit.IMPORT_FAILED:d} it fails to import,
{Exit.NO_SERVICE:d} it has no service, or none of that kind.
"""


@click.command(epilog=_EPILOG_OF_PERMISSIONS)
@click.argument("role", type=click.Choice(list(_ROLES)), metavar="ROLE")
@click.argument("target")
@click.option("--user", default="USER", metavar="NAME", help="The user of RabbitMQ.")
@click.option("--vhost", default="/", metavar="NAME", show_default=True, help="The virtual host.")
@click.option("--delay", "delays", is_flag=True, help="A caller's tasks have delays.")
@click.option("--unique", is_flag=True, help="A caller's tasks have unique keys (unique_for).")
@click.option("--json", "as_object", is_flag=True, help="Print a JSON object.")
def permissions(role: str, target: str, *, user: str, vhost: str, as_object: bool, **options: bool) -> None:
    """Print the narrowest permissions of RabbitMQ that a ROLE needs, as a command."""
    with one_line_errors():
        needs = _needs(role, target, **options)
    if as_object:
        configure, write, read = three_patterns(needs)
        of = {"role": role, "target": target, "user": user, "vhost": vhost}
        click.echo(as_json({**of, "configure": configure, "write": write, "read": read}))
    else:
        click.echo(set_permissions(user, vhost, needs))


def _needs(role: str, target: str, *, delays: bool, unique: bool) -> rights.Needs:
    try:
        found = Catalog(load(target))
    except NoSuchModule:
        if ":" in target:
            raise
        # It is a name, then.
        return _needs_of_name(role, topology.check_name(target), delays=delays, unique=unique)
    exchanges = {
        function.subscription.exchange.name
        for each in found.events.values()
        for function in each.values()
        if function.subscription is not None
    } - {""}
    needs = {
        **rights.parts(found),
        "caller": rights.caller(delays=delays, unique=unique),
        "publisher": {need for each in exchanges for need in rights.publisher(each)},
        "listener": {need for each in exchanges for need in rights.listener(each)},
        "operator": {
            need for each in (*found.functions, *found.tasks, *found.events) for need in rights.operator(each)
        },
    }[role]
    if not needs:
        fail(f"a {role} {_ROLES[role]}, and {target} has none", Exit.NO_SERVICE)
    return needs


def _needs_of_name(role: str, name: str, *, delays: bool, unique: bool) -> rights.Needs:
    if role == "scheduler":
        fail(f"the schedules of {name!r} are not known: give the module, or module:service", Exit.NO_MODULE)
    return {
        "caller": rights.caller(delays=delays, unique=unique),
        "server": rights.server(name),
        "worker": rights.worker(name),
        "subscriber": rights.subscriber(name, topology.EVENTS),
        "publisher": rights.publisher(name),
        "listener": rights.listener(name),
        "operator": rights.operator(name),
    }[role]


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
    addresses = broker_addresses(**{name: value for name, value in broker.items() if name != "keys"})
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
