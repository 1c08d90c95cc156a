"""A client: calls functions, enqueues tasks and publishes events; one connection for any number of threads.

It is longer than other modules: about half of it is the reference of the methods, which belongs beside them.
"""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.amqp.pending import Work, blocking, script_of
from amqp_rpc.client.bulk import DEFAULT_IN_FLIGHT, checked, chunks, outcomes
from amqp_rpc.client.call import CallOptions, Capacity, Default, target
from amqp_rpc.client.event import EventBatch, EventOptions, EventPlan
from amqp_rpc.client.future import BlockingCall, PendingCall
from amqp_rpc.client.reply import Decoder
from amqp_rpc.client.rpc import Caller
from amqp_rpc.client.task import EnqueueManyOptions, Plan, TaskBatch, TaskHandle, task_by_id
from amqp_rpc.client.typing import Calls, MapOptions, Options, WithOptions, typed
from amqp_rpc.errors import ConfigurationError, NotSent
from amqp_rpc.message import codec
from amqp_rpc.message.exchanges import Exchange, as_exchange, bindings
from amqp_rpc.message.settings import (
    DEFAULT_HEARTBEAT,
    DEFAULT_MAX_MESSAGE_SIZE,
    DEFAULT_MAX_PENDING,
    DEFAULT_MAX_PENDING_BYTES,
    DEFAULT_TIMEOUT,
    BrokerOptions,
    broker_addresses,
    count,
    positive,
    results_url,
)
from amqp_rpc.message.signature import KeySource, keys_of
from amqp_rpc.message.text import safe_repr
from amqp_rpc.message.timing import Seconds, timeout_of
from amqp_rpc.ops.dead_letters import DeadLetters
from amqp_rpc.ops.queue_states import queue_states
from amqp_rpc.queues.queue import Queue, QueueOptions
from amqp_rpc.results import open_store
from amqp_rpc.service.context import time_left

if TYPE_CHECKING:
    import ssl

    from amqp_rpc.client.bridge import AwaitedCall
    from amqp_rpc.ops.listen import Events, EventTap

R = TypeVar("R")
C = TypeVar("C", BlockingCall, PendingCall, "AwaitedCall")

#: Seconds for the broker to answer to the end of the connection.
_CLOSE_TIMEOUT = 5.0


class Client:
    """Calls functions that servers run; the connection is opened at the first call.

    It is thread-safe, and one client is enough for a process: a call costs no thread and no connection of its own.
    Wherever seconds are taken, here and elsewhere, a `datetime.timedelta` is taken too.

    Args:
        url: The broker's, ``amqp://user:password@host:port/vhost``; several for the nodes of a cluster, as a list or
            with commas between them: it connects to any one of them. None reads ``AMQP_RPC_URL``, then ``AMQP_URL``,
            else takes the local default.
        timeout: Seconds that a call may take unless it says otherwise (30.0).
        heartbeat: Seconds between heartbeats (10.0); a connection that is silent for longer counts as lost.
        max_message_size: Bytes of a request's or a result's body (16 MiB).
        max_pending: How many calls may be in flight (10 000). At the bound `submit` waits, until the new call's
            deadline, and raises `Overloaded` then.
        max_pending_bytes: How many bytes their bodies may have together (256 MiB).
        results: Where workers record the outcomes of tasks, their ``results=``: ``sqlite:///file.db``, or
            ``redis://host:6379/0``. None reads ``AMQP_RPC_RESULTS``; without a store a task's result comes only to
            the client that enqueued it, while its connection lasts.
        keys: Keys that sign all that it sends, and without which it believes no reply: the path of a file, or keys by
            their ids; see docs/security.md. None reads ``AMQP_RPC_KEYS``, the path of a file.
        ssl_context: A context of your own, in the place of all options of TLS but ``server_name_indication=``.
        options: Those of connections: ``cacertfile=``, ``certfile=``, ``keyfile=``, ``password_file=`` and the others
            of `BrokerOptions`, all of them in docs/security.md.

    Raises:
        ConfigurationError: The URL or a setting is wrong.

    Example:
        >>> with Client() as client:  # doctest: +SKIP
        ...     client.call("fib", 30)
        832040
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        *,
        timeout: Seconds = DEFAULT_TIMEOUT,
        heartbeat: Seconds = DEFAULT_HEARTBEAT,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        max_pending: int = DEFAULT_MAX_PENDING,
        max_pending_bytes: int = DEFAULT_MAX_PENDING_BYTES,
        results: str | None = None,
        keys: KeySource | None = None,
        ssl_context: ssl.SSLContext | None = None,
        **options: Unpack[BrokerOptions],
    ) -> None:
        self._timeout = timeout_of(timeout)
        heartbeat = positive("heartbeat", heartbeat, most=60_000)
        self._heartbeat = heartbeat
        self._limit = count("max_message_size", max_message_size)
        max_pending = count("max_pending", max_pending)
        max_pending_bytes = count("max_pending_bytes", max_pending_bytes)
        self._addresses = broker_addresses(url, ssl_context=ssl_context, **options)
        self._store = open_store(results_url(results))
        name = f"amqp-rpc client {socket.gethostname()}"
        capacity = Capacity(calls=max_pending, size=max_pending_bytes)
        self._session = Caller(self._addresses, name=name, heartbeat=heartbeat, capacity=capacity)
        self._session.publisher.use(keys_of(keys))
        #: Held while a queue is made, and while they are listed: a weak set can't be read while it grows. A signal
        #: handler may do either.
        self._making_queues = threading.RLock()
        self._queues: weakref.WeakSet[Queue[Any]] = weakref.WeakSet()
        self._listening: weakref.WeakSet[Events] = weakref.WeakSet()
        # The connection and its thread end with a client that is garbage.
        weakref.finalize(self, self._session.abandon).atexit = False

    @typed(Calls.call)
    def call(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function on a server and return its result.

        Args:
            function: ``"fib"``, ``"billing.charge"`` (a named service's), or the function object that was registered:
                then a type checker knows the arguments and the result, and the result has the annotated type.
            args: Its positional arguments.
            kwargs: Its named arguments, and options; beside a function object, a type checker accepts the options in
                `with_options` only. ``timeout``: seconds for everything: connecting, sending, running and the answer.
                The client's unless given. ``idempotent``: it may run twice; only then is it sent again after a loss.
                The function's own unless given. ``wait_for_server``: wait for a server, within the timeout, instead of
                raising `NoServer` or `Unroutable` (False). ``queue``: the queue that holds the call; unless given that
                of the function's service. ``content_type``: how the arguments travel: ``"application/msgpack"``,
                ``"application/json"``, or ``"text/plain"``, as RabbitMQ's tutorials write them: one argument, a text,
                bytes or a number, is the whole body, as with ``"application/octet-stream"``
                (``"application/msgpack"``). ``headers``: what its server sees beside it, in
                ``context().headers``: text, whole numbers, booleans.

        Raises:
            RemoteError: It raised; the error is also an instance of the builtin that it raised.
            NoServer, Unroutable, FunctionNotFound, InvalidArguments: It did not run.
            CallTimeout, MaybeExecuted: It may have run.
            BrokerError: No connection; it did not run.
            Unencodable, MessageTooLarge: An argument, or the headers, can't be sent; it did not run.

        Example:
            >>> client.call("fib", 30, timeout=2.5)  # doctest: +SKIP
            832040
        """
        call = self._start(BlockingCall, function, args, kwargs, awaited=True)
        try:
            return call.result()
        except BaseException:
            # Ctrl-C, say: what was not sent must not be sent later, when no one waits for it.
            call.give_up()
            raise
        finally:
            # Else the traceback of its error, this frame and the call keep each other alive.
            del call

    @typed(Calls.submit)
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Send a call and return at once; the result is in the future.

        The arguments are those of `call`. The future ends by the call's deadline whether or not a thread waits for it;
        ``cancel()`` gives the call up, and drops its reply.

        Raises:
            ConfigurationError: The timeout is out of range, an option makes no sense, or the function object is not
                registered.
            Unencodable, MessageTooLarge: An argument can't be sent.

        Example:
            >>> futures = [client.submit("fib", n) for n in range(10)]  # doctest: +SKIP
        """
        return self._start(PendingCall, function, args, kwargs)

    @typed(Calls.map)
    def map(self, function: Any, /, *iterables: Iterable[Any], **options: Unpack[MapOptions]) -> Iterator[Any]:
        """Call a function for every item, many at a time; yield the results in the items' order.

        It is lazy: it reads an item when there is room for its call, so the iterables may be endless. A call that
        fails raises where its result would have come; the calls behind it are given up. If an iterable raises, the
        results of the items before come first.

        Args:
            function: As for `call`.
            iterables: One for each positional argument; it ends with the shortest.
            options: ``timeout``: seconds for each message; the client's unless given. ``idempotent``,
                ``wait_for_server``, ``queue``, ``content_type`` and ``headers``: as for `call`. ``chunksize``: how many
                calls travel in one message (1; with ``"text/plain"`` it can't be more). More makes
                tiny functions several times as fast; the calls of a chunk run one after another on one server, and fail
                one by one. ``in_flight``: how many calls are in flight at the same time (100), or one chunk where that
                is more.

        Example:
            >>> list(client.map("fib", range(5)))  # doctest: +SKIP
            [0, 1, 1, 2, 3]
        """
        return outcomes(*self._chunks(BlockingCall, function, iterables, dict(options), awaited=True))

    @typed(Calls.enqueue)
    @blocking
    async def enqueue(self, function: Any, /, *args: Any, **kwargs: Any) -> TaskHandle[Any]:
        """Enqueue a task, and return once the broker has confirmed it: it will run to its end, or be a dead letter.

        Args:
            function: A task's name (``"resize"``, or ``"images.resize"`` for service ``images``), or the function
                itself where it was registered with ``@service.task``.
            args: Its positional arguments.
            kwargs: Its named arguments, and options; beside a function object, a type checker accepts the options in
                `with_options` only:

                - ``queue``: the queue that holds it; unless given the function's own.
                - ``delay``: seconds until a worker may start it; it waits in the broker, and survives its restarts.
                - ``eta``: the same as a time, with its zone.
                - ``expires``: seconds from now after which no worker starts it any more, or that time as a `datetime`
                  with its zone; it is a dead letter then.
                - ``priority``: from 0 to 9; the function's own unless given. See ``@service.task``.
                - ``unique_for``: seconds for which no second task with its key is enqueued: `AlreadyQueued` is raised
                  instead. The key is kept by one node of the broker, and taken whether or not the first task has run by
                  then; it is released where the task turned out not to be accepted. After a crash of that node, or of
                  this process between the key and the task, it may be free too early, or taken in vain for its time.
                - ``unique_key``: the key, beside the function's name and its queue. Unless given it is all the
                  arguments, as they are given, but for the order of the named ones: ``f(1, b=2)`` and ``f(a=1, b=2)``
                  have two keys.
                - ``content_type``: how the arguments travel, as for `call`. Workers in other languages take
                  ``"text/plain"``: one argument is the whole body.
                - ``headers``: what its worker sees beside it, in ``context().headers``, on each attempt: text, whole
                  numbers, booleans.
                - ``timeout``: seconds for the broker to confirm it (the client's, 30.0).

        Raises:
            PublishRefused: The broker does not accept it: a full queue, a memory or disk alarm. It will not run.
            AlreadyQueued: One with its key was enqueued. It will not run.
            NotConnected: No connection in time. It will not run.
            ConnectionLost: It was sent, and not confirmed in time. It may run.
            ConfigurationError: No such task, no such time, a delay that is longer than ``expires``, or a queue that
                exists with other arguments.
            Unencodable, MessageTooLarge: An argument can't be sent.

        Example:
            >>> client.enqueue("resize", "a.png", size=3)  # doctest: +SKIP
        """
        unique_for, unique_key = kwargs.pop("unique_for", None), kwargs.pop("unique_key", None)
        seconds = self._seconds(kwargs.pop("timeout", Default.TIMEOUT))
        options = {name: kwargs.pop(name) for name in EnqueueManyOptions.__optional_keys__ & kwargs.keys()}
        plan = Plan(self._session, self._store, self._limit, seconds, function, **options)
        return await plan.enqueue(args, kwargs, unique_for=unique_for, unique_key=unique_key)

    @blocking
    async def enqueue_many(
        self,
        function: str | Callable[..., Any],
        arguments: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        /,
        *,
        timeout: Seconds | Default = Default.TIMEOUT,
        **options: Unpack[EnqueueManyOptions],
    ) -> list[TaskHandle[Any]]:
        """Enqueue many tasks of a function, and return once the broker has confirmed all of them.

        They are sent without waiting for each other, up to a thousand ahead of the broker's confirms: many times as
        fast as one `enqueue` after another, with the same promise.

        Args:
            function: As for `enqueue`.
            arguments: One for each task: a tuple of positional arguments, or a mapping of named ones. It may be any
                iterable; it is read as the broker keeps up.
            timeout: Seconds for the broker to confirm each of them (the client's, 30.0).
            options: ``queue``, ``delay``, ``eta``, ``expires``, ``priority``, ``content_type``, ``headers``: as for
                `enqueue`.

        Returns:
            Their handles, in the arguments' order.

        Raises:
            NotAllAccepted: Some were not accepted. It says which, and why, and has the handles of the others.
            ConfigurationError: No such task, no such time, a queue that exists with other arguments, or something
                among the arguments that is neither a tuple nor a mapping.

        Example:
            >>> client.enqueue_many("resize", [("a.png",), {"path": "b.png", "size": 3}])  # doctest: +SKIP
        """
        plan = Plan(self._session, self._store, self._limit, self._seconds(timeout), function, **options)
        return await TaskBatch(self._session, plan).publish(arguments)

    @overload
    def task(self, id: str, function: None = None) -> TaskHandle[Any]: ...
    @overload
    def task(self, id: str, function: Callable[..., Coroutine[Any, Any, R]]) -> TaskHandle[R]: ...
    @overload
    def task(self, id: str, function: Callable[..., R]) -> TaskHandle[R]: ...
    def task(self, id: str, function: Callable[..., Any] | None = None) -> TaskHandle[Any]:  # noqa: A002 - as users write it
        """Return the handle of a task by its id, in any process; the store is not asked before the handle is.

        Args:
            id: The `TaskHandle.id` of where it was enqueued. An id that never was a task's is ``PENDING``.
            function: The function itself, where it was registered with ``@service.task``: the result is then of the
                type that its annotation names.

        Raises:
            ConfigurationError: This client has no store: ``results=``; or the function is no task.

        Example:
            >>> client.task("2f0c…").result(timeout=5)  # doctest: +SKIP
        """
        return task_by_id(id, function, self._session, self._store, limit=self._limit)

    @blocking
    async def publish(
        self,
        topic: str,
        payload: Any = None,
        /,
        *,
        timeout: Seconds | Default = Default.TIMEOUT,
        **options: Unpack[EventOptions],
    ) -> str:
        """Publish an event, and return its id once the broker has confirmed it for all subscribers.

        Functions subscribe to events with `Service.subscribe`. An event without subscribers is no error; it is counted,
        as ``unrouted`` in `Client.counters`. https://www.rabbitmq.com/docs/confirms

        Args:
            topic: Words with dots between them, ``"orders.eu.paid"``, of 255 bytes at most. ``""`` for exchanges that
                don't look at it.
            payload: Any value that can be sent: a map, a dataclass, a number, text; see the arguments of calls.
            timeout: Seconds for the broker to confirm it (the client's, 30.0).
            options: ``exchange``: the exchange; a name is that of a topic exchange. The default one unless given. It is
                declared, durable. ``headers``: what subscribers see beside it, and headers exchanges look at: text,
                whole numbers, booleans. ``content_type``: of the body, ``"application/msgpack"``,
                ``"application/json"``, ``"text/plain"`` or ``"application/octet-stream"``; the last two send bytes as
                they are. Text goes as text and everything else as msgpack, unless given. ``expires``: seconds after
                which no subscriber starts with it any more, or that time as a `datetime`; it is a dead letter there
                then. ``mandatory``: whether to raise `Unroutable` where no queue is bound for it.

        Returns:
            Its id: `Event.id`, the same for every subscriber.

        Raises:
            Unroutable: It is mandatory, and no queue is bound for it: no subscriber gets it.
            PublishRefused: A memory or disk alarm, or some subscriber's queue is full; others may have it.
            NotConnected: No connection in time. No subscriber gets it.
            ConnectionLost: It was sent, and not confirmed in time. It may have arrived.
            ConfigurationError: The topic is too long, a header has a name of ours, or the exchange is of another kind.
            Unencodable, MessageTooLarge: The payload, or the headers, can't be sent.

        Example:
            >>> client.publish("orders.eu.paid", {"order": 7, "amount": 12})  # doctest: +SKIP
        """
        publication = EventPlan(self._session, self._limit, self._seconds(timeout), **options).start(topic, payload)
        await self._session.confirm(publication)
        return publication.identity

    @blocking
    async def publish_many(
        self,
        events: Iterable[tuple[str, Any]],
        /,
        *,
        timeout: Seconds | Default = Default.TIMEOUT,
        **options: Unpack[EventOptions],
    ) -> list[str]:
        """Publish many events, and return their ids once the broker has confirmed all of them.

        They are sent without waiting for each other, up to a thousand ahead of the broker's confirms: many times as
        fast as one `publish` after another, with the same promise. They leave in their order.

        Args:
            events: A topic and a payload for each; it may be any iterable, and is read as the broker keeps up.
            timeout: Seconds for the broker to confirm each of them (the client's, 30.0).
            options: As for `publish`, for each of them.

        Raises:
            NotAllAccepted: Some were not accepted. It says which, and why; the others were published.
            ConfigurationError: As for `publish`; or an item that is not a topic and a payload.

        Example:
            >>> client.publish_many((f"sensors.{n}", n) for n in range(3))  # doctest: +SKIP
        """
        plan = EventPlan(self._session, self._limit, self._seconds(timeout), **options)
        return await EventBatch(self._session, plan).publish(events)

    def listen(
        self,
        *topics: str,
        exchange: str | Exchange | None = None,
        headers: Mapping[str, Any] | None = None,
        timeout: Seconds | Default = Default.TIMEOUT,
    ) -> Events:
        """Listen to events, without a service: return an iterator over those that are published from now on.

        It has a queue of its own, which is gone with it, and a connection of its own. Events that are published while
        the connection is lost are missed: a function that may miss none subscribes (`Service.subscribe`). Leaving the
        loop closes it, as ``close()`` does, and the end of this client.

        Args:
            topics: Patterns of topics, as for `Service.subscribe`; none for all of a topic exchange.
            exchange: As for `publish`.
            headers: The headers that events must have, for a headers exchange.
            timeout: Seconds to connect, and to bind the queue (the client's, 30.0).

        Returns:
            An iterator of `Event`, each with its ``payload``: a value, or the bytes as they came if they can't be read.

        Raises:
            BrokerError: No connection, or no permission.
            ConfigurationError: A pattern can never match, or the exchange is of another kind.

        Example:
            >>> for event in client.listen("progress.*"):  # doctest: +SKIP
            ...     print(event.topic, event.payload)
        """
        from amqp_rpc.ops.listen import Events  # noqa: PLC0415 - it loads pika, which not every program needs

        events = Events(self._tap(topics, exchange, headers), timeout=self._seconds(timeout))
        with self._making_queues:
            self._listening.add(events)
        return events

    def with_options(self, **options: Unpack[Options]) -> Calls:
        """Return this client with options for its `call`, `submit`, `map` and `enqueue`, which keeps their types.

        A type checker can't check a function's own arguments beside options. Here the options are given first, and the
        arguments are checked as without any. The object is cheap, and may be kept.

        Args:
            options: Those of `call`: ``timeout``, ``idempotent``, ``wait_for_server``, ``queue``, ``content_type``,
                ``headers``; those of `enqueue`: ``timeout``, ``queue``, ``delay``, ``eta``, ``expires``, ``priority``,
                ``unique_for``, ``unique_key``, ``content_type``, ``headers``.

        Raises:
            ConfigurationError: There is no such option; or, when the object is used, the method has no such option.

        Example:
            >>> client.with_options(timeout=2.5, idempotent=True).call(fib, 30)  # doctest: +SKIP
            832040
        """
        return cast(Calls, WithOptions(self, dict(options)))

    def queue(self, name: str, maxsize: int = 0, **options: Unpack[QueueOptions]) -> Queue[Any]:
        """Return a queue between processes, with the methods of `queue.Queue`; the broker is not asked yet.

        It is durable, and the first `put` or `get` declares it. All programs that use it give it the same ``maxsize``
        and ``queue_type``.

        Args:
            name: The queue's.
            maxsize: How many items may wait in it (0: any number). Items that consumers have prefetched don't count.
            **options: ``queue_type`` (``"quorum"``), ``declare`` (``"active"``), ``prefetch`` (100): `QueueOptions`.

        Raises:
            ConfigurationError: The name, the size, the type or the prefetch is not valid.

        Example:
            >>> with client.queue("numbers") as numbers:  # doctest: +SKIP
            ...     numbers.put(1)
        """
        made: Queue[Any] = Queue(self._session, name, maxsize, timeout=self._timeout, limit=self._limit, **options)
        with self._making_queues:
            self._queues.add(made)
        return made

    def dead_letters(self, queue: str, *, timeout: Seconds | Default = Default.TIMEOUT) -> DeadLetters:
        """Return the dead letters of a queue, to be listed, replayed and dropped; the broker is not asked yet.

        Args:
            queue: The tasks' queue, or the calls': ``"thumbnails"``, ``"rpc_queue"``.
            timeout: Seconds that each of its methods may take in all. Without it there is no such limit, and each
                answer of the broker has the client's timeout (30.0).

        Example:
            >>> for letter in client.dead_letters("thumbnails").list():  # doctest: +SKIP
            ...     print(letter.id, letter.reason)
        """
        # A method that a handler calls ends with the handler's call, at the latest.
        whole = timeout is not Default.TIMEOUT or time_left() is not None
        return DeadLetters(self._session, queue, timeout=self._seconds(timeout), whole=whole)

    @blocking
    async def queue_states(
        self, queues: Iterable[str], *, timeout: Seconds | Default = Default.TIMEOUT
    ) -> dict[str, QueueState | None]:
        """Return the states of queues, by name: ``messages`` that wait, and ``consumers``; None for no such queue.

        Args:
            queues: Their names.
            timeout: Seconds that it may take (the client's, 30.0).

        Raises:
            BrokerError: No connection, no permission, or no answer in time.
        """
        states = queue_states(self._session, list(queues))
        return await self._session.script(states, timeout=self._seconds(timeout))

    @blocking
    async def close(self) -> None:
        """Close the connection; calls that are in flight end with `MaybeExecuted` or `NotSent`.

        Its queues (`queue`) are closed before: items that were received and not done are requeued.
        """
        with self._making_queues:
            made, listening = list(self._queues), list(self._listening)
        for events in listening:
            await Work(events.close)
        for queue in made:
            await script_of(Queue.close)(queue)
        await self._session.close(_CLOSE_TIMEOUT)
        if self._store is not None:
            await Work(self._store.close)

    @property
    def full(self) -> bool:
        """The bound on calls in flight is reached: `submit` waits."""
        return not self._session.capacity.fits(1)

    @property
    def counters(self) -> Counter[str]:
        """Counts: ``late_replies``, to calls that had ended or never were; ``timeouts``; ``unrouted`` events."""
        return self._session.counters.copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @safe_repr
    def __repr__(self) -> str:
        return f"Client({str(self._addresses)!r})"

    def _tap(
        self, topics: tuple[str, ...], exchange: str | Exchange | None, headers: Mapping[str, Any] | None
    ) -> EventTap:
        from amqp_rpc.ops.listen import EventTap  # noqa: PLC0415 - as above

        source = as_exchange(exchange)
        bound = bindings(source, topics or (("#",) if source.kind == "topic" else ()), headers)
        name = f"amqp-rpc listen {socket.gethostname()}:{os.getpid()}"
        keys = self._session.publisher.keys
        return EventTap(self._addresses, source, bound, name=name, heartbeat=self._heartbeat, keys=keys)

    def _seconds(self, timeout: Seconds | Default) -> float:
        """Return the seconds for an operation: no more than are left to the call that is being handled here."""
        seconds = self._timeout if timeout is Default.TIMEOUT else timeout_of(timeout)
        left = time_left()
        if left is not None and left < seconds:
            if left <= 0:
                raise NotSent("it was not sent: the call that is being handled here has no time left")
            return left
        return seconds

    def _start(
        self, kind: type[C], function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, awaited: bool = False
    ) -> C:
        """Send a call; ``awaited``: the thread that does waits for it next."""
        how = CallOptions.pop(kwargs)
        (queue, name), known = target(function, how.queue)
        body = how.encode(name, known, args, kwargs, limit=self._limit)
        return self._call(kind, queue, name, body, Decoder(known, self._limit), how, chunk=False, awaited=awaited)

    def _chunks(
        self,
        kind: type[C],
        function: Any,
        iterables: Iterable[Iterable[Any]],
        options: dict[str, Any],
        *,
        awaited: bool,
    ) -> tuple[Iterator[C], int]:
        """Return the messages of `map`, which sends the next one when it is asked for it, and how many are in flight.

        The result of each is a list of the results of its calls; a call that failed has its error there.
        """
        in_flight, size = options.pop("in_flight", DEFAULT_IN_FLIGHT), options.pop("chunksize", 1)
        in_flight, size = count("in_flight", in_flight), count("chunksize", size)
        how = CallOptions.pop(options)
        (queue, name), known = target(function, how.queue)
        if options:
            raise TypeError(f"map() got an unexpected keyword argument {min(options)!r}")
        if size > 1 and not codec.packed(how.content_type):
            raise ConfigurationError(
                f"chunksize= is for calls that travel together, and {how.content_type!r} has one alone"
            )
        decoder = Decoder(known, self._limit, many=True)
        arguments: Iterator[tuple[Any, ...]] = zip(*iterables, strict=False)
        if known is not None and size > 1:
            arguments = checked(known, arguments)

        def messages() -> Iterator[C]:
            for each in chunks(arguments, size):
                if size > 1:
                    body = codec.encode([[args, {}] for args in each], how.content_type, limit=self._limit)
                else:
                    body = how.encode(name, known, each[0], {}, limit=self._limit)
                yield self._call(kind, queue, name, body, decoder, how, chunk=size > 1, awaited=awaited)

        return messages(), max(1, in_flight // size)

    def _call(
        self,
        kind: type[C],
        queue: str,
        name: str,
        body: bytes,
        decoder: Decoder,
        how: CallOptions,
        *,
        chunk: bool,
        awaited: bool,
    ) -> C:
        call = kind(self._session.identity(), queue, name, body, self._seconds(how.timeout), decoder, how, chunk)
        call.submit(self._session, awaited=awaited)
        return call
