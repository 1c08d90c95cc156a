"""A server: it consumes the queues of services, runs their functions and answers.

Here is its life: what begins, drains and ends together. What it does with what is delivered is `Work`. One thread owns
the connections; the others run the functions, and do their own part of the owner's work meanwhile: see `leadership`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.loop import IOThread
from amqp_rpc.errors import AmqpRpcError, BrokerError, ConfigurationError, NotConnected
from amqp_rpc.message.settings import (
    DEFAULT_CLOCK_SKEW,
    DEFAULT_DRAIN_TIMEOUT,
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_THREADS,
    DEFAULT_TIMEOUT,
    broker_addresses,
    count,
    positive,
    result_seconds,
    results_url,
)
from amqp_rpc.message.timing import Deadline
from amqp_rpc.message.topology import dead_letter_arguments, dead_letter_queue
from amqp_rpc.results.store import open_store
from amqp_rpc.server.clocks import Clocks
from amqp_rpc.server.consumers import Consumers, complain, refusal
from amqp_rpc.server.events import event_dispatchers, shared
from amqp_rpc.server.in_hand import InHand
from amqp_rpc.server.pool import Handlers
from amqp_rpc.server.recorder import Recorder
from amqp_rpc.server.replies import Replies
from amqp_rpc.server.subscribers import Subscriber
from amqp_rpc.server.tasks import dispatchers
from amqp_rpc.server.worker import Work
from amqp_rpc.service.catalog import chosen, merge, merge_schedules, merge_subscriptions, merge_tasks, queue_arguments
from amqp_rpc.service.registration import Function
from amqp_rpc.service.schedules import Schedule
from amqp_rpc.service.service import Service

#: AMQP counts unacknowledged deliveries in 16 bits.
_MOST_PREFETCH = 65_535
_NOT_FOUND = 404
#: Seconds between two looks at what runs, while a server drains without a connection.
_LOOK_AGAIN = 0.1
#: Seconds for saying good-bye to the broker.
_CLOSE_TIMEOUT = 5.0


class Server:
    """Runs the functions of services for clients, until it is stopped.

    Args:
        services: One or more; several may share a queue if their functions' names differ.
        url: The broker's, ``amqp://user:password@host:port/vhost``; several for the nodes of a cluster, as a list or
            with commas between them, of which any will do. None reads ``AMQP_URL``, else takes the local default.
        threads: How many ordinary handlers run at the same time (8).
        prefetch: How many deliveries of each queue are taken at once; None takes as many as there are threads, so
            that a call waits at the broker, where another server can take it, and not behind this server's others.
            ``async def`` handlers: as many run at the same time.
        heartbeat: Seconds between heartbeats (10.0); they go on while handlers run.
        max_message_size: Bytes of a request's or a result's body (16 MiB).
        tracebacks: Whether error replies carry the handler's traceback (True).
        clock_skew: Seconds by which the callers' clocks may differ from this one's (1.0): a call that comes so much
            later than its deadline is run all the same.
        results: Where it is kept what becomes of tasks, for whoever asks by id: ``sqlite:///file.db``, for the
            processes of one machine, or ``redis://host:6379/0``. None reads ``AMQP_RPC_RESULTS``; without a store only
            the client that enqueued a task gets its result.
        result_expires: Seconds that it is kept. None reads ``AMQP_RPC_RESULT_EXPIRES``, else takes 86400, a day.
        queues: Which of the services' queues are consumed (None: all), as a list or with commas between them: so that
            some workers do one kind of work alone.

    Raises:
        ConfigurationError: A setting is out of range, two functions have one name, or there is no such queue.

    Example:
        >>> with Server(service, url="amqp://localhost") as server:  # doctest: +SKIP
        ...     server.wait()
    """

    def __init__(
        self,
        *services: Service,
        url: str | Sequence[str] | None = None,
        threads: int = DEFAULT_THREADS,
        prefetch: int | None = None,
        heartbeat: float = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        tracebacks: bool = True,
        clock_skew: float = DEFAULT_CLOCK_SKEW,
        results: str | None = None,
        result_expires: float | None = None,
        queues: str | Iterable[str] | None = None,
    ) -> None:
        if not services:
            raise ConfigurationError("a server needs a service: Server(service)")
        count("threads", threads, most=10_000)
        count("prefetch", threads if prefetch is None else prefetch, most=_MOST_PREFETCH)
        positive("heartbeat", heartbeat, most=60_000)
        count("max_message_size", max_message_size)
        if clock_skew != 0:
            positive("clock_skew", clock_skew)
        self.addresses = broker_addresses(url)
        #: Where results of tasks are kept; None where they are not.
        self.results = open_store(results_url(results))
        self._recorder = Recorder(self.results, expires=result_seconds(result_expires))
        self.threads = threads
        self.prefetch = prefetch or threads
        #: The functions that it runs, by queue and name.
        self.functions: dict[str, dict[str, Function]] = merge(services)
        #: The tasks that it runs, by queue and name.
        self.tasks: dict[str, dict[str, Function]] = merge_tasks(services)
        #: The functions that take events, by queue and name.
        self.events: dict[str, dict[str, Function]] = merge_subscriptions(services, self.tasks)
        chosen(queues, self.functions, self.tasks, self.events)
        #: When they are due by themselves, by the queue of their clock.
        self.schedules: dict[str, list[Schedule]] = merge_schedules(services)
        #: What was done: ``result``, ``raised``, ``refused``, ``expired``; ``again``: idempotent calls that another
        #: server died with; ``retried``, ``failed``, ``crashed``: tasks and events; ``dead_letters``; ``ticks``: tasks
        #: that were enqueued by a schedule; ``consumed``: consumers that were begun; ``returned``: replies whose caller
        #: was gone; ``stale_acks``: deliveries that the broker had taken back.
        self.counters: Counter[str] = Counter()
        #: Called, on some thread, with the number of handlers that run on past their tasks' time limits, when that
        #: becomes more: they can only be ended with the process. A server itself never ends one.
        self.on_stuck: Callable[[int], object] = lambda _handlers: None
        #: Returns whether `on_stuck` has the process ended with so many of them: for what the log says.
        self.ends_when_stuck: Callable[[int], bool] = lambda _handlers: False
        self._dispatchers = dispatchers(
            self.functions,
            self.tasks,
            max_message_size=max_message_size,
            tracebacks=tracebacks,
            clock_skew=clock_skew,
            records=self.results is not None,
        )
        events = event_dispatchers(self.events, max_message_size=max_message_size, clock_skew=clock_skew)
        self._dispatchers |= events
        #: The queues that stay, with what waits in them, and their arguments.
        arguments = {queue: queue_arguments(each) for queue, each in {**self.tasks, **shared(self.events)}.items()}
        dead = {
            dead_letter_queue(queue): dead_letter_arguments(queue_arguments(each))
            for queue, each in {**self.tasks, **self.events}.items()
        }
        self._handlers = Handlers(threads, attend=self._attend, leave=self._leave)
        name = f"amqp-rpc server {socket.gethostname()}:{os.getpid()}"
        # One thread owns all connections: from a reply to its acknowledgement there is no switch of threads.
        owner = IOThread(f"amqp_rpc {name}")
        self._connection = Connection(self.addresses, self, name=f"{name} (calls)", heartbeat=heartbeat, owner=owner)

        def replies(
            what: str,
            on_ready: Callable[[], object],
            on_failed: Callable[[BrokerError], object],
            *,
            prepared: Sequence[str] = (),
            persistent: bool = False,
        ) -> Replies:
            return Replies(
                self.addresses,
                name=f"{name} ({what})",
                heartbeat=heartbeat,
                owner=owner,
                counters=self.counters,
                arguments={**arguments, **dead},
                settled=self._acknowledge,
                on_ready=on_ready,
                on_failed=on_failed,
                prepared=prepared,
                persistent=persistent,
            )

        self._replies = replies("replies", lambda: self._part_ready("replies"), self._failed, prepared=list(arguments))
        # The broker closes the connection that replies to a malformed name of this kind: others' replies go on theirs.
        # It is opened at the first of them, when the broker may be away for a moment.
        direct = replies("direct replies", lambda: None, lambda _error: None, persistent=True)
        self._clocks = Clocks(
            self.schedules,
            self.addresses,
            name=f"{name} (clock)",
            heartbeat=heartbeat,
            owner=owner,
            counters=self.counters,
            ready=self._part_ready,
            refused=self._refused,
        )
        self._started = threading.Event()
        self._stopping = threading.Event()
        self._drained = threading.Event()
        self._failure: AmqpRpcError | None = None
        #: Held while all is closed: who stops it meanwhile waits, and finds it closed.
        self._closing = threading.Lock()
        self._closed = False
        self._finished = True
        # From here on: the owner's alone.
        self._not_ready = {"replies", *self._dispatchers, *self.schedules}
        self._in_hand = InHand(self._connection, self._replies.tell)
        self._work = Work(
            self._connection,
            self._dispatchers,
            handlers=self._handlers,
            in_hand=self._in_hand,
            recorder=self._recorder,
            replies=self._replies,
            direct=direct,
            # With more deliveries of a queue than threads, some are meant to wait here.
            shared=arguments if len(self._dispatchers) > 1 and self.prefetch <= threads else (),
            counters=self.counters,
            on_stuck=lambda handlers: self.on_stuck(handlers),  # noqa: PLW0108 - a user sets it later
            ends_when_stuck=lambda handlers: self.ends_when_stuck(handlers),  # noqa: PLW0108 - as above
            settled=self._check_drained,
        )
        self._consumers = Consumers(
            self._connection,
            {queue: arguments.get(queue) for queue in self._dispatchers},
            prefetch=self.prefetch,
            deliver=self._work.deliver,
            ready=self._part_ready,
            refused=self._refused,
            changed=self._check_drained,
            subscribers={
                queue: Subscriber(self._connection, function, events[queue])
                for queue, functions in self.events.items()
                for function in functions.values()
            },
        )

    def start(self, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Connect and begin to serve; return once every queue is consumed.

        Args:
            timeout: Seconds to wait for that (30.0).

        Raises:
            BrokerError: No connection: wrong host, port, password or virtual host.
            ConfigurationError: A queue exists with other arguments.
        """
        deadline = Deadline.after(timeout)
        served = (*self.functions.values(), *self.tasks.values(), *self.events.values())
        if any(function.asynchronous for functions in served for function in functions.values()):
            self._handlers.start_loop()
        self._connection.start()
        self._connection.loop.on_relieved(self._work.wake_another)
        # No handler runs in the main thread.
        self._connection.loop.share(True)
        self._replies.connection.start()
        self._clocks.start()
        self._handlers.start()
        if not self._started.wait(deadline.remaining()):
            self._failure = NotConnected(f"the broker at {self.addresses} did not answer within {timeout:g} s")
        if self._failure is not None:
            self._close()
            raise self._failure

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `stop` is called; return whether it was.

        Args:
            timeout: Seconds to wait; None waits for ever.
        """
        return self._stopping.wait(timeout)

    def stop(self, *, drain_timeout: float = DEFAULT_DRAIN_TIMEOUT) -> bool:
        """Take no more calls, finish those that were delivered, acknowledge and close. Heartbeats go on meanwhile.

        Once it is stopped this does nothing more.

        Args:
            drain_timeout: Seconds to wait for running handlers (30.0). What is not done by then is given back to the
                broker.

        Returns:
            Whether all that was delivered was finished.
        """
        if not self._stopping.is_set():
            self._stopping.set()
            self._connection.post(self._drain)
        self._finished = self._drained.wait(drain_timeout) if self._connection.alive else self._finished
        if not self._finished:
            self._work.give_back(drain_timeout)
        self._close()
        return self._finished

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def on_open(self) -> None:
        """Consume the queues."""
        self._consumers.begin()

    def on_unblocked(self) -> None:
        """Do nothing: this connection holds nothing back."""

    def on_lost(self, error: BrokerError) -> None:
        """Forget the consumers; what is in hand will be answered all the same, and given to a server again."""
        self._consumers.lost()
        self._check_drained()
        if not self._connection.was_open:
            self._failed(error)

    def _failed(self, error: AmqpRpcError) -> None:
        if not self._started.is_set():
            self._failure = error
            self._started.set()

    def _refused(self, queue: str, error: AmqpRpcError, code: int, times: int = 0) -> None:
        if self._started.is_set() or code == _NOT_FOUND:
            complain(queue, error, code, times)
        else:
            self._failed(refusal(queue, error, code))

    def _part_ready(self, part: str) -> None:
        self.counters["consumed"] += part in self._dispatchers
        self._not_ready.discard(part)
        if not self._not_ready:
            self._started.set()

    def _acknowledge(self, deliveries: list[Delivery]) -> None:
        self._work.acknowledge(deliveries)

    def _attend(self, done: Callable[[], object]) -> bool:
        return self._connection.loop.attend(done, returns=True)

    def _leave(self) -> None:
        self._connection.loop.recall()

    def _drain(self) -> None:
        self._clocks.end()
        self._consumers.end()
        self._check_drained()

    def _check_drained(self) -> None:
        if not self._consumers.ended:
            return
        if not len(self._in_hand):
            # The acknowledgements must have left before the connection is closed.
            self._when_sent(self._drained.set)
        elif not self._connection.is_open:
            # Nothing can be answered or acknowledged now, but what runs is not cut off.
            if self._handlers.busy():
                self._connection.loop.call_later(_LOOK_AGAIN, self._check_drained)
            else:
                self._drained.set()

    def _when_sent(self, callback: Callable[[], object]) -> None:
        if self._connection.is_open:
            self._connection.when_sent(callback)
        else:
            callback()

    def _close(self) -> None:
        self._stopping.set()
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close_all()

    def _close_all(self) -> None:
        self._clocks.close(_CLOSE_TIMEOUT)
        # In this order: once the consuming connection is gone the broker gives what is left to other servers.
        self._connection.close(_CLOSE_TIMEOUT)
        self._replies.connection.close(_CLOSE_TIMEOUT)
        self._work.close(_CLOSE_TIMEOUT)
        self._handlers.stop()
        self._recorder.close()
