"""``amqp-rpc serve``: run the functions of services, in one process or in several."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from amqp_rpc import __version__
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.cli.supervisor import PIPES, Supervisor, follow_parent
from amqp_rpc.message.exchanges import DEFAULT
from amqp_rpc.message.settings import (
    DEFAULT_CLOCK_SKEW,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_RESULT_EXPIRES,
    DEFAULT_THREADS,
)
from amqp_rpc.message.wording import plural
from amqp_rpc.server.server import Server
from amqp_rpc.service.loading import load
from amqp_rpc.service.registration import Function

_EPILOG = f"""\b
TARGET is a module with a service (services.fib), or package.module:attribute.
  amqp-rpc serve services.fib
  amqp-rpc serve services.fib shop.billing:service --threads 16
  amqp-rpc serve services.fib --processes 4
  amqp-rpc serve services.images --queues thumbnails
\b
The first Ctrl-C or SIGTERM drains: calls and tasks that were delivered are finished. The second ends at once.
Exit codes: {Exit.OK:d} stopped and drained, {Exit.DRAIN_TIMEOUT:d} not drained in time, {Exit.INTERRUPTED:d} ended at \
once, {Exit.TIME_LIMIT:d} too many tasks over their
time limits that can't be ended, {Exit.NO_BROKER:d} no broker,
{Exit.ACCESS_REFUSED:d} access refused, {Exit.NO_MODULE:d} no such module, {Exit.IMPORT_FAILED:d} it fails to import, \
{Exit.NO_SERVICE:d} it has no service, {Exit.CONFIGURATION:d} wrong settings.
"""
_LEVELS = ["debug", "info", "warning", "error"]


@click.command(epilog=_EPILOG)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@url_option
@option("queues", metavar="NAME,...", show_default="all", help="Which of the services' queues are consumed.")
@option("threads", type=int, default=DEFAULT_THREADS, help="Handlers that run at the same time, in each process.")
@option("prefetch", type=int, show_default="threads", help="Calls or tasks of each queue that a process takes at once.")
@option("processes", type=click.IntRange(1, 1024), default=1, help="Server processes; a dead one is replaced.")
@option("heartbeat", type=float, default=DEFAULT_HEARTBEAT, metavar="SECONDS", help="Seconds between heartbeats.")
@option("max-message-size", type=int, default=DEFAULT_MAX_MESSAGE_SIZE, help="Bytes of a request's or result's body.")
@option(
    "drain-timeout",
    type=click.FloatRange(min=0),
    default=DEFAULT_DRAIN_TIMEOUT,
    metavar="SECONDS",
    help="Seconds that running calls and tasks get to finish when it is told to stop.",
)
@option("tracebacks/--no-tracebacks", default=True, help="Whether callers get the traceback of what a function raises.")
@option(
    "clock-skew", type=float, default=DEFAULT_CLOCK_SKEW, metavar="SECONDS", help="By which callers' clocks may differ."
)
@option(
    "results",
    metavar="URL",
    show_default="none",
    help="Where tasks' results are kept: sqlite:///file.db, or redis://user:password@host:port/database.",
)
@option(
    "result-expires",
    type=float,
    default=DEFAULT_RESULT_EXPIRES,
    metavar="SECONDS",
    help="For how long they are kept.",
)
@option("log-level", type=click.Choice(_LEVELS), default="warning", help="What is logged, on standard error.")
def serve(targets: tuple[str, ...], processes: int, drain_timeout: float, log_level: str, **settings: Any) -> None:
    """Run the functions of services until Ctrl-C."""
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    # pika reports each failure several times; what matters of it is in our own lines.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    with one_line_errors():
        services = [service for target in targets for service in load(target)]
        server = Server(*services, **settings)
        if processes > 1:
            sys.exit(_supervise(server, targets, processes, {**settings, "drain_timeout": drain_timeout}, log_level))
        sys.exit(_run(server, drain_timeout))


def _run(server: Server, drain_timeout: float) -> int:
    # A queue, not an Event: it may be put to from a signal handler that interrupts whoever waits for it.
    told: queue.SimpleQueue[Exit | None] = queue.SimpleQueue()
    supervised = PIPES in os.environ

    def ends(handlers: int) -> bool:
        # Where another process takes its place at once, one is enough.
        return supervised or handlers > server.threads

    def stuck(handlers: int) -> None:
        if ends(handlers):
            told.put(Exit.TIME_LIMIT)

    server.on_stuck, server.ends_when_stuck = stuck, ends
    tell_ready = follow_parent(lambda: told.put(None))
    _on_signals(first=lambda: told.put(None), second=lambda: os._exit(Exit.INTERRUPTED))
    server.start()
    tell_ready()
    if not supervised:
        click.echo(banner(server, processes=1), err=True)
    why = told.get()
    if not supervised:
        click.echo(
            f"Stopping: what is in hand gets {drain_timeout:g} s to finish; Ctrl-C again ends at once.", err=True
        )
    drained = server.stop(drain_timeout=drain_timeout)
    if not supervised:
        click.echo(_counts(server), err=True)
    if why is not None:
        # Handlers run on that can't be ended; threads that they have started might keep Python from exiting.
        logging.shutdown()
        os._exit(why)
    return Exit.OK if drained else Exit.DRAIN_TIMEOUT


def _supervise(
    server: Server, targets: tuple[str, ...], processes: int, settings: dict[str, Any], log_level: str
) -> int:
    tracebacks = "--tracebacks" if settings.pop("tracebacks") else "--no-tracebacks"
    # By the environment, because a command line shows in every list of processes, and their URLs hold passwords.
    secret = {"AMQP_RPC_URL": settings.pop("url"), "AMQP_RPC_RESULTS": settings.pop("results")}
    values = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
    options = ["--processes=1", f"--log-level={log_level}", tracebacks, *values]
    supervisor = Supervisor(
        [sys.executable, "-m", "amqp_rpc", "serve", *options, "--", *targets],
        processes,
        environment={name: value for name, value in secret.items() if value},
        on_ready=lambda: click.echo(banner(server, processes=processes), err=True),
        renewed={Exit.TIME_LIMIT: "ended since a task ran into its time limit"},
    )
    _on_signals(first=supervisor.stop, second=supervisor.kill)
    return supervisor.run()


def banner(server: Server, *, processes: int) -> str:
    """Return what a server says when it is ready."""
    functions = [(name, str(f.signature)) for name, each in server.functions.items() for f in each.values()]
    functions += [(name, f"task {f.signature}") for name, each in server.tasks.items() for f in each.values()]
    functions += [(name, _subscribed(f)) for name, each in server.events.items() for f in each.values()]
    width = max(len("handlers"), *(len(name) for name, _ in functions))
    seen: set[str] = set()
    lines = [f"amqp-rpc {__version__}", f"  {'broker':{width}}  {server.addresses}"]
    for name, signature in functions:
        lines.append(f"  {'' if name in seen else name:{width}}  {signature}")
        seen.add(name)
    how_many = f"{plural(processes, 'process', 'processes')} × {plural(server.threads, 'thread', 'threads')}"
    if server.results is not None:
        lines.append(f"  {'results':{width}}  {server.results}")
    lines.append(f"  {'handlers':{width}}  {how_many}, prefetch {server.prefetch}")
    lines.append("Ready. Ctrl-C to stop.")
    return "\n".join(lines)


def _subscribed(function: Function) -> str:
    subscription = function.subscription
    assert subscription is not None
    source = "" if subscription.exchange == DEFAULT else f" of {subscription.exchange}"
    everywhere = ", in every process" if subscription.mode == "broadcast" else ""
    return f"event {function.signature} on {subscription}{source}{everywhere}"


def _counts(server: Server) -> str:
    done = server.counters
    counts = [plural(done["result"], "result", "results"), f"{done['raised']} raised", f"{done['refused']} refused"]
    counts.append(f"{done['expired']} expired")
    if server.tasks or server.events:
        counts += [f"{done['retried']} retried", plural(done["dead_letters"], "dead letter", "dead letters")]
    return f"Stopped. {', '.join(counts)}."


def _on_signals(*, first: Callable[[], object], second: Callable[[], object]) -> None:
    seen = 0

    def handle(_number: int, _frame: object) -> None:
        nonlocal seen
        seen += 1
        (first if seen == 1 else second)()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)
