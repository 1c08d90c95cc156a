"""A service: a list of functions with their options. Importing one opens no socket and starts no thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, Unpack, cast, get_args, overload

from amqp_rpc.errors import CodecError, ConfigurationError, InvalidArguments
from amqp_rpc.message import codec
from amqp_rpc.message.exchanges import Exchange, as_exchange, bindings
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE
from amqp_rpc.message.text import safe_repr
from amqp_rpc.message.timing import Seconds
from amqp_rpc.message.topology import (
    CALL_QUEUE,
    LONGEST_NAME,
    call_queue,
    dead_letter_queue,
    delayed_key,
    event_queue,
    instance_queue,
    task_queue,
)
from amqp_rpc.service.context import Authorize
from amqp_rpc.service.function import Function, Mode, Subscription, signed, too_long
from amqp_rpc.service.policy import (
    CallQueue,
    Declare,
    Policy,
    QueueType,
    SubscriptionOptions,
    TaskOptions,
    check_options,
)
from amqp_rpc.service.schedules import Cron, Every, Schedule, Times
from amqp_rpc.service.signature import CALL_OPTIONS, EVENT_OPTIONS, TASK_OPTIONS, EventSignature, Signature, where

F = TypeVar("F", bound=Callable[..., Any])

#: The queues of the tasks that this process knows, by the names of their functions: advice for a wrong queue.
_QUEUES: dict[str, dict[str, None]] = {}


class Service:
    """A list of functions that a server runs and clients call.

    Args:
        name: None: its queue is ``rpc_queue``, and clients call ``"fib"``. ``"billing"``: its queue is
            ``rpc_queue.billing``, and clients call ``"billing.charge"``.
        queue: Another queue for its calls. Clients find it by the function object, or with ``call(…, queue=)``.
        queue_type: ``"classic"`` (the default), kept on one node; or ``"quorum"``, kept on a majority of a cluster's
            nodes, as today's RabbitMQ tutorials declare theirs.
        declare: ``"passive"``: another program declares the queue, whatever its arguments are, and the server uses it
            as it is; it does not start without it. ``"active"`` (the default): the server declares it.
        max_length: Calls that may wait in the queue (None: any number). When it is full, a call raises `Overloaded` at
            once: it did not run. Without a bound, calls wait in line, however long that is.
        authorize: Decides for each call, task and event whether its function runs: it gets the `Context`, which names
            the sender (``user_id``, ``key``), and returns True for yes. Any other result, and any exception, is a no:
            the sender gets `NotAuthorized`, and nothing runs. It is an ordinary function, and is asked at each attempt,
            before the arguments are read. None: all senders may. A function may have its own.

    Raises:
        ConfigurationError: The name is empty, has a dot, or is too long for AMQP; or another option makes no sense.

    Example:
        >>> service = Service()
        >>> @service.rpc
        ... def double(n: int) -> int:
        ...     return 2 * n
        >>> double(4)
        8
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        queue: str | None = None,
        queue_type: QueueType = "classic",
        declare: Declare = "active",
        max_length: int | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        taken = name is not None and call_queue(name) == dead_letter_queue(CALL_QUEUE)
        if name is not None and (not name or taken or "." in name or too_long(dead_letter_queue(call_queue(name)))):
            raise ConfigurationError(
                f"{name!r} can't name a service: a name has no dot, since calls are written service.function, is not "
                f"empty, makes a queue's name of at most {LONGEST_NAME} bytes, and is not 'dead', as dead letters' is"
            )
        self.name = name
        self._calls = CallQueue(call_queue(name) if queue is None else queue, queue_type, declare, max_length)
        self._authorize = authorize
        self._functions: dict[str, Function] = {}
        #: By queue and name.
        self._tasks: dict[tuple[str, str], Function] = {}
        self._schedules: dict[str, Schedule] = {}
        #: By queue.
        self._subscriptions: dict[str, Function] = {}

    @property
    def queue(self) -> str:
        """The queue that holds its calls."""
        return self._calls.name

    @property
    def functions(self) -> dict[str, Function]:
        """The registered functions by name."""
        return dict(self._functions)

    @property
    def tasks(self) -> list[Function]:
        """The registered tasks, in their order."""
        return list(self._tasks.values())

    @property
    def schedules(self) -> list[Schedule]:
        """The schedules of its tasks, in the order of registration."""
        return list(self._schedules.values())

    @property
    def subscriptions(self) -> list[Function]:
        """The functions that are registered for events, in their order."""
        return list(self._subscriptions.values())

    @overload
    def rpc(self, function: F, /) -> F: ...
    @overload
    def rpc(
        self,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        default: bool = False,
        authorize: Authorize | None = None,
    ) -> Callable[[F], F]: ...
    def rpc(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        idempotent: bool = False,
        default: bool = False,
        authorize: Authorize | None = None,
    ) -> F | Callable[[F], F]:
        """Register a function: clients can call it. It stays the function that it is.

        Args:
            function: An ordinary or an ``async def`` function; its type hints say what callers may send.
            name: Its name for clients; the function's own name unless given.
            idempotent: Whether running it twice does no harm. Only then is a call sent again that may have run.
            default: Whether it answers plain text bodies that name no function, as RabbitMQ's tutorials send.
                A service's only function does that in any case.
            authorize: Who may call it: see `Service`, whose one it has unless given.

        Raises:
            ConfigurationError: The name is taken, a parameter has a reserved name (``timeout``, ``idempotent``,
                ``wait_for_server``, ``on_progress``), or a type can't be sent. It names the file and the line.

        Example:
            >>> service = Service()
            >>> @service.rpc(name="sum", idempotent=True)
            ... def add(a: int, b: int = 0) -> int:
            ...     return a + b
        """

        def register(function: F) -> F:
            signature = signed(function, name, "@service.rpc", CALL_OPTIONS)
            known = signature.name
            if (other := self._functions.get(known)) is not None:
                raise _taken(signature, other)
            if default and (other := next((f for f in self._functions.values() if f.default), None)):
                raise ConfigurationError(f"{signature.where}: {other.name!r} is the default function already")
            registered = Function(
                known,
                self.name,
                function,
                signature,
                idempotent=idempotent,
                default=default,
                calls=self._calls,
                authorize=authorize or self._authorize,
            )
            self._functions[known] = registered
            registered.mark()
            return function

        return register if function is None else register(function)

    @overload
    def task(self, function: F, /) -> F: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | Sequence[str] | None = None,
        default: bool = False,
        **options: Unpack[TaskOptions],
    ) -> Callable[[F], F]: ...
    def task(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | Sequence[str] | None = None,
        default: bool = False,
        **options: Unpack[TaskOptions],
    ) -> F | Callable[[F], F]:
        """Register a function whose work can wait: clients enqueue it. It stays the function that it is.

        An accepted task runs to its end at least once, or becomes a dead letter: write it so that running it twice does
        no harm.

        Args:
            function: An ordinary or an ``async def`` function; its type hints say what may be enqueued.
            name: Its name for clients; the function's own name unless given.
            queue: The queue that holds its tasks; unless given ``task_queue``, or ``task_queue.<service>``. Several are
                the queues to which it may be enqueued: ``enqueue(…, queue=)`` names one, and the first is the default.
            default: Whether it takes plain text bodies that name no function, as RabbitMQ's tutorials send. A queue's
                only task does that in any case.
            **options: Any of these:

                - ``queue_type``: ``"quorum"`` (the default), kept on a majority of a cluster's nodes; or ``"classic"``,
                  kept on one.
                - ``declare``: ``"passive"``: another program declares the queue, and it is used as it is;
                  ``queue_type`` is that of its dead letters then (``"active"``).
                - ``retries``: How often a task that raises is tried again (5); then it is a dead letter.
                - ``backoff``: Seconds before the first retry, doubled each time, and their upper bound (1.0, 600.0);
                  (0, 0) retries at once.
                - ``retry_for``: The exceptions that are worth another attempt (``Exception``).
                - ``time_limit``: Seconds that one attempt may take (None: no limit); then it has failed, and is tried
                  again.
                - ``priority``: Of its tasks, from 0 to 9, unless they are enqueued with another one. A quorum queue
                  prefers 5 to 9 to the others (RabbitMQ 4.0 to 4.2), or tells them all apart (4.3 and newer); a classic
                  one knows them all up to ``max_priority``.
                - ``max_length``: Tasks that may wait in the queue; `Client.enqueue` raises `PublishRefused` when it is
                  full.
                - ``max_priority``: The highest priority that a classic queue tells apart (None: it has none).
                - ``result``: Whether clients can ask for the task's state and result (True). Without, workers drain
                  half as many again; failures are in the log and in the dead-letter queue.
                - ``authorize``: Who may enqueue it: see `Service`, whose one it has unless given.

        Raises:
            ConfigurationError: The name is taken, a parameter has a reserved name, a type can't be sent, the queue is
                one of calls, or a setting is out of range. It names the file and the line.

        Example:
            >>> service = Service()
            >>> @service.task(queue="thumbnails", retries=3)
            ... def resize(path: str, size: int = 128) -> None:
            ...     ...
        """
        check_options("task", options, TaskOptions)
        authorize = options.pop("authorize", None) or self._authorize

        def register(function: F) -> F:
            queues = _several(queue) if queue is not None else (task_queue(self.name),)
            policies = [Policy(each, queues=queues, **cast(dict[str, Any], options)) for each in queues]
            signature = signed(
                function, name, "@service.task", TASK_OPTIONS, returns=options.get("result") is not False
            )
            made = {
                (policy.queue, signature.name): Function(
                    signature.name, self.name, function, signature, default=default, task=policy, authorize=authorize
                )
                for policy in policies
            }
            for key in made:
                if (other := self._tasks.get(key)) is not None:
                    raise _taken(signature, other)
            self._tasks |= made
            _QUEUES.setdefault(signature.name, {}).update(dict.fromkeys(queues))
            # The first queue is the default one.
            next(iter(made.values())).mark()
            return function

        return register if function is None else register(function)

    def every(
        self, interval: str | Seconds, /, *, name: str | None = None, args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Have a task enqueued again and again, once for each tick, however many servers run.

        Write it above ``@service.task``. Ticks are at whole multiples of the interval since the Unix epoch, so that
        ``"1h"`` is at every full hour in UTC. After an outage only the latest missed tick is enqueued.

        Args:
            interval: ``"30s"``, ``"5m"``, ``"1h30m"``, ``"1d"``, seconds, or a `timedelta`; at least 0.1 s.
            name: Of the schedule; the task's own name unless given. Two schedules of one task need two names.
            args: Positional arguments of each of its tasks.
            kwargs: Named arguments of each of its tasks.

        Raises:
            ConfigurationError: The interval can't be read, the function is no task of this service, or can't be called
                with these arguments. It names the file and the line.

        Example:
            >>> service = Service()
            >>> @service.every("5m")
            ... @service.task
            ... def clean_up() -> None:
            ...     ...
        """

        def register(function: F) -> F:
            task = self._task_of(function, "every")
            with _place(f"{task.signature.where}: @service.every of {task.name}()"):
                self._schedule(task, name, Every.parse(interval), args, kwargs or {})
            return function

        return register

    def cron(
        self, expression: str, /, *, timezone: str = "UTC", name: str | None = None, args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Have a task enqueued by a cron expression, once for each tick, however many servers run.

        Args:
            expression: ``"*/5 * * * *"``: minute, hour, day of the month, month, day of the week; with six fields,
                seconds come first. Or ``"@hourly"``, ``"@daily"``, ``"@weekly"``, ``"@monthly"``, ``"@yearly"``.
                https://manpages.debian.org/bookworm/cron/crontab.5.en.html
            timezone: The time zone of the expression, such as ``"Europe/Berlin"`` (``"UTC"``).
            name: As for `every`.
            args: As for `every`.
            kwargs: As for `every`.

        Raises:
            ConfigurationError: As for `every`; or there is no such time zone.

        Example:
            >>> service = Service()
            >>> @service.cron("30 2 * * MON-FRI", timezone="Europe/Berlin")
            ... @service.task
            ... def report() -> None:
            ...     ...
        """

        def register(function: F) -> F:
            task = self._task_of(function, "cron")
            with _place(f"{task.signature.where}: @service.cron of {task.name}()"):
                self._schedule(task, name, Cron.parse(expression, timezone), args, kwargs or {})
            return function

        return register

    def subscribe(
        self,
        *topics: str,
        exchange: str | Exchange | None = None,
        headers: Mapping[str, Any] | None = None,
        mode: Mode = "shared",
        name: str | None = None,
        queue: str | None = None,
        **options: Unpack[SubscriptionOptions],
    ) -> Callable[[F], F]:
        """Register a function for events that clients publish. It stays the function that it is.

        It takes the payload, as its type hint says, and an `Event` where a parameter has that type hint; both are
        optional. An event runs to its end at least once, or becomes a dead letter, as a task: write the function so
        that running it twice does no harm. https://www.rabbitmq.com/docs/exchanges

        Args:
            topics: Patterns of topics: ``"orders.*.paid"``, where ``*`` stands for one word and ``#`` for any number of
                them. With a direct exchange, the very topics; with fanout and headers, none.
            exchange: The exchange of the events; a name is that of a topic exchange. The default one unless given.
            headers: The headers that events must have, for a headers exchange: all, or any with ``"x-match": "any"``.
            mode: ``"shared"``: each event once for the service: its replicas share a durable queue. *History*: events
                that are published while none of them runs wait, from the first start of the first one on.
                ``"broadcast"``: each event for every instance that runs: each process has a queue of its own, which
                RabbitMQ deletes with the connection. *No history*: an instance misses events that are published before
                it is ready or while it has no connection, and events that wait for a retry when the connection is lost.
            name: Of the function, in its queue's name and in the log; its own unless given.
            queue: The queue that holds the events; ``events.<service>.<function>`` unless given. Its dead letters go to
                ``<queue>.dead``, in both modes.
            **options: Any of these:

                - ``queue_type``: ``"quorum"`` (the default), kept on a majority of a cluster's nodes; or ``"classic"``,
                  kept on one.
                - ``declare``: ``"passive"``: another program declares the queue, and it is used as it is, and bound
                  for the topics; ``queue_type`` is that of its dead letters then (``"active"``). Shared ones only.
                - ``retries``: How often an event whose handler raises is tried again (5); then it is a dead letter.
                - ``backoff``: Seconds before the first retry, doubled each time, and their upper bound (1.0, 600.0);
                  (0, 0) retries at once.
                - ``retry_for``: The exceptions that are worth another attempt (``Exception``).
                - ``time_limit``: Seconds that one attempt may take (None: no limit); then it has failed, and is tried
                  again.
                - ``max_length``: Events that may wait. A shared queue that is full refuses more, and `Client.publish`
                  raises `PublishRefused`; a broadcast one drops the oldest.
                - ``authorize``: Whose events it handles: see `Service`, whose one it has unless given.

        Raises:
            ConfigurationError: A pattern can never match, the exchange's kind does not fit, the name is taken, a type
                can't be sent, or a setting is out of range. It names the file and the line.

        Example:
            >>> from amqp_rpc import Service
            >>> service = Service("mail")
            >>> @service.subscribe("orders.*.paid", "orders.*.refunded", retries=3)
            ... def receipt(order: dict) -> None:
            ...     ...
        """
        check_options("subscribe", options, SubscriptionOptions)
        authorize = options.pop("authorize", None) or self._authorize
        if topics and callable(topics[0]):
            raise ConfigurationError(
                f"{where(topics[0])}: @service.subscribe needs to know to what: @service.subscribe('orders.*.paid')"
            )

        def register(function: F) -> F:
            signature = signed(function, name, "@service.subscribe", EVENT_OPTIONS, EventSignature, returns=False)
            known = signature.name
            with _place(f"{signature.where}: {known}()"):
                if mode not in get_args(Mode):
                    raise ConfigurationError(
                        "mode is 'shared' (each event once for the service, with history) or 'broadcast' (each event "
                        f"for every instance, and only the latest: no history), not {mode!r}"
                    )
                source = as_exchange(exchange)
                subscription = Subscription(source, bindings(source, topics, headers), mode)
                policy = Policy(
                    queue if queue is not None else event_queue(self.name, known),
                    result=False,
                    **cast(dict[str, Any], options),
                )
                if mode == "broadcast":
                    if policy.declare == "passive":
                        raise ConfigurationError(
                            "declare='passive' is for a shared queue: with mode='broadcast' each instance declares its "
                            "own"
                        )
                    # A retry comes back to the instance, whose queue has a longer name.
                    delayed_key(1, instance_queue(policy.queue, "0" * 16))
            if (other := self._subscriptions.get(policy.queue)) is not None:
                raise ConfigurationError(
                    f"{signature.where}: queue {policy.queue!r} is registered already, at {other.signature.where}; one "
                    "function takes several topics, @service.subscribe('a.*', 'b.*'), and two functions need two "
                    "names: name=, or queue="
                )
            self._subscriptions[policy.queue] = Function(
                known,
                self.name,
                function,
                signature,
                default=True,
                task=policy,
                subscription=subscription,
                authorize=authorize,
            )
            return function

        return register

    def _task_of(self, function: object, decorator: str) -> Function:
        for task in reversed(self._tasks.values()):
            if task.call is function:
                # Of several queues the first.
                assert task.task is not None
                return self._tasks[task.task.queues[0], task.name]
        raise ConfigurationError(
            f"{where(function)}: @service.{decorator} is for a task of this service: write it above @service.task"
        )

    def _schedule(
        self, task: Function, name: str | None, times: Times, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        known = f"{name or task.name}: {times}" if self.name is None else f"{self.name}.{name or task.name}: {times}"
        if known in self._schedules:
            raise ConfigurationError(f"there is a schedule {known!r} already; give one of them name=")
        try:
            args, kwargs = list(args), dict(kwargs)
            task.signature.check(args, kwargs)
            body = codec.encode([args, kwargs], codec.MSGPACK, limit=DEFAULT_MAX_MESSAGE_SIZE)
        except (InvalidArguments, CodecError, TypeError) as error:
            raise ConfigurationError(f"it can't be enqueued with args={args!r}, kwargs={kwargs!r}: {error}") from error
        priority = None if task.task is None else task.task.priority
        self._schedules[known] = Schedule(known, task.queue, task.name, times, body, priority)

    @safe_repr
    def __repr__(self) -> str:
        return f"Service({self.name!r}: {', '.join(self._functions) or 'no functions'})"


def queues_of(function: str) -> list[str]:
    """Return the queues of the tasks that have this name in this process, of all services."""
    return list(_QUEUES.get(function, ()))


def _several(queue: str | Sequence[str]) -> tuple[str, ...]:
    """Return the queues of a task, each once."""
    queues = (queue,) if isinstance(queue, str) or not isinstance(queue, Sequence) else tuple(dict.fromkeys(queue))
    if not queues:
        raise ConfigurationError("queue= names no queue: give one, or several, of which the first is the default")
    return queues


def _taken(signature: Signature, other: Function) -> ConfigurationError:
    return ConfigurationError(
        f"{signature.where}: {other.name!r} is registered already, at {other.signature.where}; give one of them name="
    )


@contextlib.contextmanager
def _place(place: str) -> Iterator[None]:
    """Say in an error where it comes from."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}") from error
