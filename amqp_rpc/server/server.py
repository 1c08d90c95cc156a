"""A server: it consumes the queues of services, runs their functions and replies.

Here its parts are made, started, drained and closed together. One I/O thread owns the connections. The threads of the
pool run the functions, and do their own part of the I/O if no other thread does: see `amqp.loop`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from amqp_rpc.amqp.connection import Connection, Listener
from amqp_rpc.amqp.dial import checked
from amqp_rpc.amqp.loop import IOThread
from amqp_rpc.errors import ConfigurationError, NotConnected
from amqp_rpc.message.settings import (
    DEFAULT_CLOCK_SKEW,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_THREADS,
    DEFAULT_TIMEOUT,
    Addresses,
    BrokerOptions,
    broker_addresses,
    count,
    positive,
    result_seconds,
    results_url,
)
from amqp_rpc.message.signature import KeySource, keys_of
from amqp_rpc.message.timing import Deadline, Seconds, seconds_of, timeout_of
from amqp_rpc.message.topology import arrivals_queue, dead_letter_queue
from amqp_rpc.results import Store, open_store
from amqp_rpc.results.recorder import Recorder
from amqp_rpc.server.calls import CallDispatcher
from amqp_rpc.server.consumers import ArrivalsConsumer, CallConsumer, Consumer, EventConsumer, TaskConsumer
from amqp_rpc.server.invoke import Settings
from amqp_rpc.server.pool import Pool
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.scheduler import Scheduler, hand_over
from amqp_rpc.server.state import State
from amqp_rpc.server.tasks import EventDispatcher, Suspects, TaskDispatcher
from amqp_rpc.server.worker import Worker
from amqp_rpc.service.catalog import Catalog
from amqp_rpc.service.function import Function
from amqp_rpc.service.permissions import SERVER, parts
from amqp_rpc.service.schedules import Schedule
from amqp_rpc.service.service import Service

#: AMQP counts unacked deliveries in 16 bits.
_MOST_PREFETCH = 65_535
#: Seconds to wait for the good-bye of the broker.
_CLOSE_TIMEOUT = 5.0


class Server:
    """Runs the functions of services for clients, until it is stopped.

    Args:
        services: One or more; several may share a queue if their functions' names differ.
        url: The broker's, ``amqp://user:password@host:port/vhost``; those of the nodes of a cluster as a list or with
            commas between them: it connects to any one of them. None reads ``AMQP_RPC_URL``, then ``AMQP_URL``, else
            takes the local default.
        threads: How many ordinary handlers run at the same time (8).
        prefetch: Unacked deliveries of each queue at most, and how many ``async def`` handlers of it run at the same
            time. None takes as many as there are threads: a call waits at the broker, where another server can take it,
            and not in a busy server.
        heartbeat: Seconds between heartbeats (10.0); they go on while handlers run.
        max_message_size: Bytes of a request's or a result's body (16 MiB).
        tracebacks: Whether error replies carry the handler's traceback (True).
        clock_skew: Seconds by which the callers' clocks may differ from this one's (1.0): a call that comes so much
            later than its deadline is run all the same.
        results: The store of tasks' states and results, for clients that ask by id: ``sqlite:///file.db``, for the
            processes of one machine, or ``redis://host:6379/0``. None reads ``AMQP_RPC_RESULTS``; without a store only
            the client that enqueued a task gets its result.
        result_expires: Seconds that they are kept. None reads ``AMQP_RPC_RESULT_EXPIRES``, else takes 86400, a day.
        queues: The services' queues that are consumed (None: all), as a list or with commas between them. With it some
            workers do one kind of work alone.
        keys: Keys with which all that it runs must be signed, and that sign its replies: the path of a file, or keys by
            their ids; see docs/security.md. None reads ``AMQP_RPC_KEYS``, the path of a file.
        ssl_context: A context of your own, in the place of all options of TLS but ``server_name_indication=``.
        options: Those of connections: ``cacertfile=``, ``certfile=``, ``keyfile=``, ``password_file=`` and the others
            of `BrokerOptions`, all of them in docs/security.md.

    Raises:
        ConfigurationError: A setting is out of range, two functions have one name, or there is no such queue.

    Example:
        >>> with Server(service, url="amqp://localhost") as server:  # doctest: +SKIP
        ...     server.wait()
    """

    #: The process that has started it: a fork of that has none of its threads.
    _process: int | None = None

    def __init__(
        self,
        *services: Service,
        url: str | Sequence[str] | None = None,
        threads: int = DEFAULT_THREADS,
        prefetch: int | None = None,
        heartbeat: Seconds = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        tracebacks: bool = True,
        clock_skew: Seconds = DEFAULT_CLOCK_SKEW,
        results: str | None = None,
        result_expires: Seconds | None = None,
        queues: str | Iterable[str] | None = None,
        keys: KeySource | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **options: Unpack[BrokerOptions],
    ) -> None:
        if not services:
            raise ConfigurationError("a server needs a service: Server(service)")
        self.threads: int = count("threads", threads, most=10_000)
        self.prefetch: int = count("prefetch", threads if prefetch is None else prefetch, most=_MOST_PREFETCH)
        heartbeat = positive("heartbeat", heartbeat, most=60_000)
        max_message_size = count("max_message_size", max_message_size)
        clock_skew = positive("clock_skew", clock_skew) if clock_skew else 0.0
        addresses = checked(broker_addresses(url, ssl_context=ssl_context, **options))
        self.addresses: Addresses = addresses
        #: The store of results; None without one.
        self.results: Store | None = open_store(results_url(results))
        self._recorder = Recorder(self.results, expires=result_seconds(result_expires))
        catalog = Catalog(services, queues)
        #: The functions that it runs for calls, tasks and events, each by queue and name.
        self.functions: dict[str, dict[str, Function]] = catalog.functions
        self.tasks: dict[str, dict[str, Function]] = catalog.tasks
        self.events: dict[str, dict[str, Function]] = catalog.events
        #: Their schedules, by the queue of their scheduler.
        self.schedules: dict[str, list[Schedule]] = catalog.schedules
        settings = Settings(
            max_message_size,
            concurrency=self.prefetch,
            tracebacks=tracebacks,
            records=self.results is not None,
            clock_skew=clock_skew,
            keys=keys_of(keys),
            users=addresses.named(),
        )
        calls = {queue: CallDispatcher(queue, each, settings) for queue, each in self.functions.items()}
        suspects = Suspects()
        tasks = {queue: TaskDispatcher(queue, each, settings, suspects) for queue, each in self.tasks.items()}
        events = {
            queue: EventDispatcher(function, settings)
            for queue, each in self.events.items()
            for function in each.values()
        }
        dispatchers: dict[str, CallDispatcher | TaskDispatcher] = {**calls, **tasks, **events}
        durable = {**tasks, **{queue: each for queue, each in events.items() if each.function.shared}}
        arguments = {queue: each.arguments for queue, each in durable.items()}
        dead = {dead_letter_queue(queue): each.dead_letter_arguments for queue, each in {**tasks, **events}.items()}
        #: Called, on some thread, with the number of handlers that run on past their tasks' time limits, each time that
        #: there is one more. They can only be ended with the process; a server itself never ends one.
        self.on_stuck: Callable[[int], object] = lambda _handlers: None
        #: Returns whether `on_stuck` ends the process with so many of them: the log says so.
        self.ends_when_stuck: Callable[[int], bool] = lambda _handlers: False
        self._pool = Pool(threads)
        self._state = State(
            self._pool,
            [*dispatchers, *map(arrivals_queue, durable)],
            ["replies", *(["retries"] if arguments else []), *self.schedules],
            needs=parts(catalog)[SERVER],
            keys=settings.keys,
            users=settings.users,
        )
        self._state.on_stuck = lambda handlers: self.on_stuck(handlers)  # noqa: PLW0108 - a user sets it later
        self._state.ends_when_stuck = lambda handlers: self.ends_when_stuck(handlers)  # noqa: PLW0108 - as above
        #: ``result``, ``raised``, ``refused``, ``expired``: outcomes of calls and tasks; ``again``: idempotent
        #: calls that another server died with; ``retried``, ``failed``, ``crashed``: tasks and events;
        #: ``unauthorized``: refused by ``authorize=``; ``unproved``: not signed, where keys are given, or copies;
        #: ``dead_letters``; ``ticks``: tasks that a schedule enqueued; ``consumed``: consumers that were started;
        #: ``returned``: replies whose caller was gone; ``stale_acks``: acks of deliveries that the broker had requeued.
        self.counters: Counter[str] = self._state.counters
        self._replies = Replies(
            self.addresses,
            self._state,
            arguments={**arguments, **dead},
            calls={queue: each.arguments for queue, each in calls.items()},
            prepared={**arguments, **_alone(arguments, dead)},
        )
        self._schedulers = [Scheduler(queue, each, self._state) for queue, each in self.schedules.items()]
        self._worker = Worker(
            self._state,
            self._pool,
            replies=self._replies,
            recorder=self._recorder,
            # With a higher prefetch than threads, some tasks are meant to wait here.
            fair=arguments if len(dispatchers) > 1 and self.prefetch <= threads else (),
        )
        self._consumers: list[Consumer] = [
            *(CallConsumer(self._state, self._worker, each, prefetch=self.prefetch) for each in calls.values()),
            *(TaskConsumer(self._state, self._worker, each, prefetch=self.prefetch) for each in tasks.values()),
            *(EventConsumer(self._state, self._worker, each, prefetch=self.prefetch) for each in events.values()),
        ]
        self._consumers += [
            ArrivalsConsumer(self._state, self._worker, durable[each.queue], self._replies)
            for each in self._consumers
            if each.queue in durable
        ]
        name = f"amqp-rpc server {socket.gethostname()}:{os.getpid()}"
        # One thread owns all connections: from a reply to its ack there is no switch of threads.
        thread = IOThread(f"amqp_rpc {name}")

        def connection(purpose: str, *listeners: Listener, persistent: bool = False) -> Connection:
            return Connection(
                addresses,
                listeners,
                name=f"{name} ({purpose})",
                label=f"connection ({purpose})",
                heartbeat=heartbeat,
                thread=thread,
                persistent=persistent,
                rights=self._state.rights,
            )

        self._connection = connection("calls", *self._consumers)
        self._state.begin(self._connection)
        for consumer in self._consumers:
            consumer.begin(self._connection)
        self._replies.begin(
            connection("replies", self._replies.channel, self._replies.copies),
            connection("direct replies", self._replies.direct, persistent=True),
        )
        self._scheduling = connection("scheduler", *self._schedulers, persistent=True)
        for scheduler in self._schedulers:
            scheduler.begin(self._scheduling)
        self._stopping = threading.Event()
        #: Held while the server closes: a second `stop` waits, and finds it closed.
        self._closing = threading.Lock()
        self._closed = False
        self._finished = True

    def start(self, *, timeout: Seconds = DEFAULT_TIMEOUT) -> None:
        """Connect and start to serve; return once every queue is consumed.

        Args:
            timeout: Seconds to wait for that (30.0).

        Raises:
            BrokerError: No connection: wrong host, port, password or virtual host; or `stop` was called meanwhile.
            ConfigurationError: A queue exists with other arguments, or the server was stopped before.
        """
        deadline = Deadline.after(timeout)
        if self._stopping.is_set():
            raise ConfigurationError("this server was stopped; make a new one")
        self._process = os.getpid()
        served = (*self.functions.values(), *self.tasks.values(), *self.events.values())
        if any(function.asynchronous for functions in served for function in functions.values()):
            self._pool.start_event_loop()
        self._recorder.start()
        self._recorder.look()
        self._connection.start()
        # No handler runs in the main thread.
        self._connection.loop.share(True)
        self._replies.start()
        if self._schedulers:
            self._scheduling.start()
        self._pool.start(self._connection.loop)
        if not self._state.started.wait(deadline.remaining()):
            seconds = timeout_of(timeout)
            silent = NotConnected(f"the broker at {self.addresses} did not answer within {seconds:g} s")
            self._state.failure = self._state.unready(seconds) if self._connection.was_open else silent
        if self._state.failure is not None:
            # Where `stop` has ended the start, it drains and closes.
            if not self._stopping.is_set():
                self._close()
                # It may be called just now, and would wait for a loop that has ended.
                self._state.drained.set()
            raise self._state.failure

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Wait until `stop` is called; return whether it was.

        Args:
            timeout: Seconds to wait; None waits for ever.
        """
        return self._stopping.wait(None if timeout is None else seconds_of(timeout))

    def stop(self, *, drain_timeout: Seconds = DEFAULT_DRAIN_TIMEOUT) -> bool:
        """Accept no more calls, finish those that were delivered, ack them and close. Heartbeats go on meanwhile.

        A second time this does nothing, and nor does it in a child that was forked from the server's process. A `start`
        that still waits ends with an error.

        Args:
            drain_timeout: Seconds to wait for running handlers (30.0). The broker requeues the deliveries that are not
                done by then.

        Returns:
            True if everything that was delivered was finished.
        """
        seconds = seconds_of(drain_timeout)
        if seconds is None:
            raise ConfigurationError(f"drain_timeout is a number of seconds, not {drain_timeout!r}")
        if self._process not in (None, os.getpid()):
            return self._finished
        if not self._stopping.is_set():
            self._stopping.set()
            self._state.failed(NotConnected("the server was stopped before it had started"))
            self._connection.post(self._drain)
        self._finished = self._state.drained.wait(seconds) if self._connection.alive else self._finished
        if not self._finished:
            self._worker.give_up(seconds)
        self._close()
        return self._finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _drain(self) -> None:
        for scheduler in self._schedulers:
            scheduler.stop()
        if self._schedulers:
            self._scheduling.run(hand_over(self._scheduling, self._schedulers))
        for consumer in self._consumers:
            consumer.end()
        self._state.check_drained()

    def _close(self) -> None:
        self._stopping.set()
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close_all()

    def _close_all(self) -> None:
        if self._schedulers:
            self._scheduling.close(_CLOSE_TIMEOUT)
        # In this order: once the consuming connection is gone the broker gives the unacked deliveries to other servers.
        self._connection.close(_CLOSE_TIMEOUT)
        self._replies.close(_CLOSE_TIMEOUT)
        self._pool.stop()
        self._recorder.close()


def _alone(
    arguments: dict[str, dict[str, Any] | None], dead: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any] | None]:
    """Return the dead-letter queues that are declared by themselves: those of queues that other programs declare."""
    return {dead_letter_queue(queue): dead[dead_letter_queue(queue)] for queue, own in arguments.items() if own is None}
