"""``amqp-rpc serve``: run the functions of services, in one process or in several. One command, one module: a seam."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from typing import Any

import click

from amqp_rpc import __version__
from amqp_rpc.cli.exits import Exit, one_line_errors
from amqp_rpc.cli.options import heartbeat_option, option, seconds_option, url_option
from amqp_rpc.cli.output import set_up_log
from amqp_rpc.cli.supervisor import Parent, Supervisor
from amqp_rpc.message.exchanges import DEFAULT
from amqp_rpc.message.settings import (
    DEFAULT_CLOCK_SKEW,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_RESULT_EXPIRES,
    DEFAULT_THREADS,
)
from amqp_rpc.message.text import plural
from amqp_rpc.server.server import Server
from amqp_rpc.service.function import Function
from amqp_rpc.service.loading import load

_EPILOG = f"""\b
TARGET is a module with a service (services.fib), or package.module:attribute.
  amqp-rpc serve services.fib
  amqp-rpc serve services.fib shop.billing:service --threads 16
  amqp-rpc serve services.fib --processes 4
  amqp-rpc serve services.images --queues thumbnails
\b
The first Ctrl-C or SIGTERM drains: calls and tasks that were delivered are finished. The second ends at once.
Exit codes: {Exit.OK:d} stopped and drained, {Exit.DRAIN_TIMEOUT:d} not drained in time, {Exit.INTERRUPTED:d} ended at \
once, {Exit.TIME_LIMIT:d} tasks exceeded their
time limits and can't be ended otherwise, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused,
{Exit.NO_MODULE:d} no such module, {Exit.IMPORT_FAILED:d} it fails to import, {Exit.NO_SERVICE:d} it has no service, \
{Exit.CONFIGURATION:d} wrong settings.
"""
_LEVELS = ["debug", "info", "warning", "error"]


@click.command(epilog=_EPILOG)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@url_option
@option("queues", metavar="NAME,...", show_default="all", help="The queues of the services to consume.")
@option("threads", type=int, default=DEFAULT_THREADS, help="Handlers that run at the same time, in each process.")
@option("prefetch", type=int, show_default="threads", help="Unacked calls or tasks of each queue, in each process.")
@option("processes", type=click.IntRange(1, 1024), default=1, help="Server processes; one that dies is replaced.")
@heartbeat_option
@option("max-message-size", type=int, default=DEFAULT_MAX_MESSAGE_SIZE, help="Bytes of a request's or result's body.")
@seconds_option("drain-timeout", DEFAULT_DRAIN_TIMEOUT, "Seconds for running handlers to finish when it is stopped.",
                type=click.FloatRange(min=0))  # fmt: skip
@option("tracebacks/--no-tracebacks", default=True, help="Whether callers get the traceback when a function raises.")
@seconds_option("clock-skew", DEFAULT_CLOCK_SKEW, "The most by which callers' clocks may differ from this one.")
@option("results", metavar="URL", show_default="none",
        help="The store for task results: sqlite:///file.db, or redis://user:password@host:port/database.")  # fmt: skip
@seconds_option("result-expires", DEFAULT_RESULT_EXPIRES, "Seconds that results are kept.")
@option(
    "log-level", type=click.Choice(_LEVELS), show_default="warning, or the program's own", help="The level of the log."
)
@option(
    "log-config",
    metavar="FILE",
    show_default="the program's own, or lines on standard error",
    help="A configuration of the log for logging.config, as JSON (*.json) or INI.",
)
def serve(
    targets: tuple[str, ...],
    processes: int,
    drain_timeout: float,
    log_level: str | None,
    log_config: str | None,
    **settings: Any,
) -> None:
    """Run the functions of services until Ctrl-C."""
    with one_line_errors():
        services = [service for target in targets for service in load(target)]
        # In this order: the modules may set up a log of their own.
        set_up_log(log_level and log_level.upper(), log_config)
        server = Server(*services, **settings)
        running: _Process | Supervisor
        if processes > 1:
            settings |= {"drain_timeout": drain_timeout, "log_level": log_level, "log_config": log_config}
            running = _supervisor(server, targets, processes, settings)
        else:
            running = _Process(server, drain_timeout)
        _on_signals(running)
        sys.exit(running.run())


class _Process:
    """A server that runs in this process until a signal, the death of the supervisor or a time limit ends it."""

    def __init__(self, server: Server, drain_timeout: float) -> None:
        self._server = server
        self._drain_timeout = drain_timeout
        self._supervisor = Parent.find()
        # A queue, not an Event: a signal handler may put to it while it interrupts the thread that waits here.
        self._ends: queue.SimpleQueue[Exit | None] = queue.SimpleQueue()
        server.on_stuck, server.ends_when_stuck = self._on_stuck, self._ends_when_stuck

    def run(self) -> int:
        """Serve until the end; return the exit code."""
        if self._supervisor is not None:
            threading.Thread(target=self._follow, args=(self._supervisor,), name="amqp_rpc parent", daemon=True).start()
        self._server.start()
        if self._supervisor is not None:
            self._supervisor.report_ready()
        self._say(banner(self._server, processes=1))
        why = self._ends.get()
        self._say(f"Stopping: running handlers have {self._drain_timeout:g} s to finish; Ctrl-C again ends at once.")
        drained = self._server.stop(drain_timeout=self._drain_timeout)
        self._say(_counts(self._server))
        if why is not None:
            # Some handlers can't be ended, and threads that they have started might keep Python from exiting.
            logging.shutdown()
            os._exit(why)
        return Exit.OK if drained else Exit.DRAIN_TIMEOUT

    def stop(self) -> None:
        """Drain and end; safe in a signal handler."""
        self._ends.put(None)

    def kill(self) -> None:
        """End at once."""
        os._exit(Exit.INTERRUPTED)

    def _follow(self, supervisor: Parent) -> None:
        supervisor.wait()
        self.stop()

    def _ends_when_stuck(self, handlers: int) -> bool:
        # One stuck handler is enough if another process takes the place of this one at once.
        return self._supervisor is not None or handlers > self._server.threads

    def _on_stuck(self, handlers: int) -> None:
        if self._ends_when_stuck(handlers):
            self._ends.put(Exit.TIME_LIMIT)

    def _say(self, text: str) -> None:
        # The supervisor prints for all its processes.
        if self._supervisor is None:
            click.echo(text, err=True)


def _supervisor(server: Server, targets: tuple[str, ...], processes: int, settings: dict[str, Any]) -> Supervisor:
    tracebacks = "--tracebacks" if settings.pop("tracebacks") else "--no-tracebacks"
    # In the environment, because every list of processes shows command lines, and these URLs hold passwords.
    secret = {"AMQP_RPC_URL": settings.pop("url"), "AMQP_RPC_RESULTS": settings.pop("results")}
    values = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items() if value is not None]
    return Supervisor(
        [sys.executable, "-m", "amqp_rpc", "serve", "--processes=1", tracebacks, *values, "--", *targets],
        processes,
        environment={name: value for name, value in secret.items() if value},
        banner=banner(server, processes=processes),
        renewed={Exit.TIME_LIMIT: "ended because a task exceeded its time limit"},
    )


def _on_signals(running: _Process | Supervisor) -> None:
    """Stop at the first Ctrl-C or SIGTERM, and kill at the second."""
    seen = 0

    def handle(_number: int, _frame: object) -> None:
        nonlocal seen
        seen += 1
        (running.stop if seen == 1 else running.kill)()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def banner(server: Server, *, processes: int) -> str:
    """Return the text that a ready server prints: broker, queues and functions, handlers."""
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
