"""``amqp-rpc serve``: run the functions of services, in one process or in several. One command, one module: a seam."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from traceback import print_exception
from typing import Any, NoReturn

import click

from amqp_rpc import __version__
from amqp_rpc.cli.exits import Exit, one_line_errors
from amqp_rpc.cli.options import Seconds, broker_flags, heartbeat_option, option, seconds_option
from amqp_rpc.cli.output import set_up_log
from amqp_rpc.cli.supervisor import Parent, Supervisor
from amqp_rpc.errors import BrokerError, ConfigurationError
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
from amqp_rpc.service.catalog import Catalog
from amqp_rpc.service.function import Function
from amqp_rpc.service.loading import load

_EPILOG = f"""\
TARGET is a module with a service (services.fib), or package.module:attribute.

\b
  amqp-rpc serve services.fib
  amqp-rpc serve services.fib shop.billing:service --threads 16
  amqp-rpc serve services.fib --processes 4
  amqp-rpc serve services.images --queues thumbnails

The first Ctrl-C or SIGTERM drains: calls and tasks that were delivered are finished. The second ends at once.

Exit codes: {Exit.OK:d} stopped and drained, {Exit.DRAIN_TIMEOUT:d} not drained in time, {Exit.INTERRUPTED:d} ended at \
once, {Exit.TIME_LIMIT:d} tasks exceeded their
time limits and can't be ended otherwise, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused,
{Exit.NO_MODULE:d} no such module, {Exit.IMPORT_FAILED:d} it fails to import, {Exit.NO_SERVICE:d} it has no service, \
{Exit.CONFIGURATION:d} its code is wrong, or a queue exists with other arguments,
{Exit.USAGE:d} wrong command line.
"""
#: Seconds in which a second signal is the same request as the first.
_ONE_REQUEST = 1.0
#: Seconds between two looks for a signal, where none ends a wait; None where one does.
_LOOK = 0.2 if os.name == "nt" else None
#: Seconds between two attempts to reach a broker that is not there yet.
_NEXT_TRY = 0.5
#: Seconds beyond the drain timeout for processes to close their connections; the supervisor kills them then.
_CLOSING = 10.0
_LEVELS = ["debug", "info", "warning", "error"]


@click.command(epilog=_EPILOG)
@click.argument("targets", nargs=-1, required=True, metavar="TARGET...")
@broker_flags
@option("queues", metavar="NAME,...", show_default="all", help="The queues of the services to consume.")
@option("threads", type=int, default=DEFAULT_THREADS, help="Handlers that run at the same time, in each process.")
@option("prefetch", type=int, show_default="threads", help="Unacked calls or tasks of each queue, in each process.")
@option("processes", type=click.IntRange(1, 1024), default=1, help="Server processes; one that dies is replaced.")
@heartbeat_option
@option("max-message-size", type=int, default=DEFAULT_MAX_MESSAGE_SIZE, help="Bytes of a request's or result's body.")
@seconds_option("drain-timeout", DEFAULT_DRAIN_TIMEOUT, "Seconds for running handlers to finish when it is stopped.",
                type=Seconds())  # fmt: skip
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
@seconds_option("wait-for-broker", 0.0, "Seconds to wait at the start for a broker that is not there yet.",
                type=Seconds())  # fmt: skip
@click.option("--traceback", is_flag=True, help="Print the whole traceback if a module fails to import.")
def serve(
    targets: tuple[str, ...],
    processes: int,
    drain_timeout: float,
    log_level: str | None,
    log_config: str | None,
    wait_for_broker: float,
    traceback: bool,
    **settings: Any,
) -> None:
    """Run the functions of services until Ctrl-C."""
    with one_line_errors(of_code=True):
        signals = _Signals()
        try:
            services = [service for target in targets for service in load(target)]
        except ConfigurationError as error:
            if traceback:
                print_exception(error.__cause__ or error)
            raise
        Catalog(services)
        with one_line_errors():
            # In this order: the modules may set up a log of their own.
            set_up_log(log_level and log_level.upper(), log_config)
            make = partial(Server, *services, **settings)
            server = make()
            if processes > 1 and not hasattr(os, "killpg"):
                raise ConfigurationError(
                    "--processes needs pipes and process groups of Unix, which this system has not; "
                    "start `amqp-rpc serve` once for each process"
                )
        running: _Process | Supervisor
        if processes > 1:
            settings |= {"drain_timeout": drain_timeout, "log_level": log_level, "log_config": log_config}
            settings["wait_for_broker"] = wait_for_broker
            running = _supervisor(server, targets, processes, settings)
        else:
            running = _Process(server, make, drain_timeout, wait_for_broker)
        signals.lead_to(running)
        sys.exit(running.run())


class _Process:
    """A server that runs in this process until a signal, the death of the supervisor or a time limit ends it."""

    def __init__(
        self, server: Server, make: Callable[[], Server], drain_timeout: float, wait_for_broker: float
    ) -> None:
        self._server, self._make = server, make
        self._wait_until = time.monotonic() + wait_for_broker
        self._drain_timeout = drain_timeout
        self._supervisor = Parent.find()
        # Queues, not Events: a signal handler may put to one while it interrupts the thread that waits there.
        self._ends: queue.SimpleQueue[Exit | None] = queue.SimpleQueue()
        self._over: queue.SimpleQueue[Exit | BaseException | None] = queue.SimpleQueue()
        #: True once it ends: an error of its start is of no interest then.
        self._ending = False

    def run(self) -> int:
        """Serve until the end; return the exit code.

        The main thread does nothing but wait, so it handles a signal at once, whatever the server does. A handler's
        `interrupt_main` does not wake it, and so does not count as a signal.
        """
        work = [self._start, self._end]
        if self._supervisor is not None:
            work.append(partial(self._follow, self._supervisor))
        for each in work:
            threading.Thread(target=each, name="amqp_rpc serve", daemon=True).start()
        outcome = _wait(self._over)
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome is not Exit.OK:
            # Some handlers can't be ended, and threads and processes that they have started might keep Python here.
            logging.shutdown()
            _leave(outcome)
        return outcome

    def stop(self) -> None:
        """Drain and end; safe in a signal handler."""
        self._ends.put(None)

    def wake(self) -> None:
        """Have the main thread handle the signals that have come."""
        self._over.put(None)

    def kill(self) -> None:
        """End at once."""
        _leave(Exit.INTERRUPTED)

    def _start(self) -> None:
        try:
            self._start_server()
        except BaseException as error:
            if not self._ending:
                self._over.put(error)
            return
        if self._supervisor is not None:
            self._supervisor.report_ready()
        self._say(banner(self._server, processes=1))

    def _start_server(self) -> None:
        waiting = False
        while not self._ending:
            self._server.on_stuck, self._server.ends_when_stuck = self._on_stuck, self._ends_when_stuck
            try:
                self._server.start()
            except BrokerError as error:
                # A broker that is just starting refuses users and virtual hosts as well.
                if time.monotonic() >= self._wait_until:
                    raise
                if not waiting:
                    waiting = True
                    click.echo(f"Waiting for the broker: {error}", err=True)
            else:
                return
            time.sleep(_NEXT_TRY)
            self._server = self._make()

    def _end(self) -> None:
        why = self._ends.get()
        self._ending = True
        self._say(_stopping(self._drain_timeout))
        try:
            drained = self._server.stop(drain_timeout=self._drain_timeout)
        except BaseException as error:
            self._over.put(error)
            return
        counts = _counts(self._server)
        _print(counts if self._supervisor is None else f"Process {os.getpid()}: {counts}")
        self._over.put(why or (Exit.OK if drained else Exit.DRAIN_TIMEOUT))

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
            _print(text)


def _print(text: str) -> None:
    # A terminal that is gone must not keep a server from its end.
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _wait(events: queue.SimpleQueue[Exit | BaseException | None]) -> Exit | BaseException:
    """Return the next item of a queue, on the main thread; signal handlers run meanwhile.

    Only a signal that the kernel gives to this thread wakes it; `_Signals` puts None where another one took SIGTERM.
    Looking now and then would find all, and would also take a handler's `interrupt_main` for Ctrl-C.
    """
    while True:
        with contextlib.suppress(queue.Empty):
            if (item := events.get(timeout=_LOOK)) is not None:
                return item


def _leave(code: Exit) -> NoReturn:
    """End this process at once, with the processes that `multiprocessing` has started for its handlers."""
    if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
        for child in multiprocessing.active_children():
            child.kill()
    os._exit(code)


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
        stopping=_stopping(settings["drain_timeout"]),
        renewed={Exit.TIME_LIMIT: "ended because a task exceeded its time limit"},
        patience=settings["drain_timeout"] + _CLOSING,
        overdue=Exit.DRAIN_TIMEOUT,
    )


class _Signals:
    """Ctrl-C and SIGTERM: the first one stops, and a later one kills. Before there is anything to stop, they end.

    Two within a second are one request: `timeout`, for example, signals its child and then its process group.

    The kernel may give a signal to any thread, if another one comes at the same moment, and the main thread waits on.
    So each SIGTERM wakes it. SIGINT does not: a handler's `interrupt_main` is the same, and is no Ctrl-C. Where two
    different signals come together, one of them is SIGTERM.
    """

    def __init__(self) -> None:
        self._running: _Process | Supervisor | None = None
        self._first = 0.0
        #: Python writes the number of each signal there, on whatever thread it comes.
        self._coming, self._come = socket.socketpair()
        self._come.setblocking(False)
        signal.set_wakeup_fd(self._come.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        #: The signals that a thread had blocked, while it forks.
        self._blocked = threading.local()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._block, after_in_parent=self._unblock, after_in_child=self._forget)

    def lead_to(self, running: _Process | Supervisor) -> None:
        """Stop and kill this from now on, whatever the modules that were imported have set."""
        self._running = running
        for number in self._before:
            signal.signal(number, self._handle)
        threading.Thread(target=self._wake, args=(running,), name="amqp_rpc signals", daemon=True).start()

    def _wake(self, running: _Process | Supervisor) -> None:
        while True:
            if signal.SIGTERM in self._coming.recv(64):
                running.wake()

    def _handle(self, _number: int, _frame: object) -> None:
        now = time.monotonic()
        if self._running is None:
            os._exit(Exit.OK)
        elif not self._first:
            self._first = now
            self._running.stop()
        elif now - self._first > _ONE_REQUEST:
            self._running.kill()

    def _block(self) -> None:
        # A signal that comes to a child before it has forgotten ours would be lost: `Pool.terminate` sends one at once,
        # and waits for ever then.
        self._blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._before)

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._blocked.before)

    def _forget(self) -> None:
        """Give a forked child the signals that it would have without us: nothing here could end it."""
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, before)
        # The sockets are the parent's: it would hear of our signals.
        signal.set_wakeup_fd(-1)
        self._coming.close()
        self._come.close()
        self._unblock()


def banner(server: Server, *, processes: int) -> str:
    """Return the text that a ready server prints: broker, queues and functions, handlers."""
    functions = [(name, str(f.signature)) for name, each in server.functions.items() for f in each.values()]
    scheduled = [schedule for each in server.schedules.values() for schedule in each]
    for name, each in server.tasks.items():
        functions += [(name, f"task {f.signature}") for f in each.values()]
        functions += [(name, f"schedule {schedule.name}") for schedule in scheduled if schedule.queue == name]
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


def _stopping(drain_timeout: float) -> str:
    return f"Stopping: running handlers have {drain_timeout:g} s to finish; Ctrl-C again ends at once."


def _counts(server: Server) -> str:
    done = server.counters
    counts = [plural(done["result"], "result", "results"), f"{done['raised']} raised", f"{done['refused']} refused"]
    counts.append(f"{done['expired']} expired")
    if server.tasks or server.events:
        counts += [f"{done['retried']} retried", plural(done["dead_letters"], "dead letter", "dead letters")]
    return f"Stopped. {', '.join(counts)}."
