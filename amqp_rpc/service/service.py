"""A service: a passive list of functions. Importing one opens no socket and starts no thread."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import CALL_QUEUE, LONGEST_NAME, call_queue, dead_letter_queue, task_queue
from amqp_rpc.service.policy import DEFAULT_BACKOFF, DEFAULT_RETRIES, Policy, QueueType
from amqp_rpc.service.registration import Function, mark, mark_task, named, too_long
from amqp_rpc.service.schedules import Cron, Every, Schedule, Times
from amqp_rpc.service.signature import CALL_OPTIONS, TASK_OPTIONS, where
from amqp_rpc.service.subscribing import Subscribing

F = TypeVar("F", bound=Callable[..., Any])


class Service(Subscribing):
    """A list of functions that a server runs and clients call.

    Args:
        name: None: its queue is ``rpc_queue``, and clients call ``"fib"``. ``"billing"``: its queue is
            ``rpc_queue.billing``, and clients call ``"billing.charge"``.

    Raises:
        ConfigurationError: The name is empty, has a dot, or is too long for AMQP.

    Example:
        >>> service = Service()
        >>> @service.rpc
        ... def double(n: int) -> int:
        ...     return 2 * n
        >>> double(4)
        8
    """

    def __init__(self, name: str | None = None) -> None:
        taken = name is not None and call_queue(name) == dead_letter_queue(CALL_QUEUE)
        if name is not None and (not name or taken or "." in name or too_long(dead_letter_queue(call_queue(name)))):
            raise ConfigurationError(
                f"{name!r} can't name a service: a name has no dot, since calls are written service.function, is not "
                f"empty, makes a queue's name of at most {LONGEST_NAME} bytes, and is not 'dead', as dead letters' is"
            )
        self.name = name
        self._functions: dict[str, Function] = {}
        #: By queue and name.
        self._tasks: dict[tuple[str, str], Function] = {}
        self._schedules: dict[str, Schedule] = {}
        self._subscriptions: dict[str, Function] = {}

    @property
    def queue(self) -> str:
        """The queue that holds its calls."""
        return call_queue(self.name)

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
        """When its tasks are due by themselves, in the order of registration."""
        return list(self._schedules.values())

    @overload
    def rpc(self, function: F, /) -> F: ...
    @overload
    def rpc(
        self, /, *, name: str | None = None, idempotent: bool = False, default: bool = False
    ) -> Callable[[F], F]: ...
    def rpc(
        self, function: F | None = None, /, *, name: str | None = None, idempotent: bool = False, default: bool = False
    ) -> F | Callable[[F], F]:
        """Register a function: clients can call it. It stays the function that it is.

        Args:
            function: An ordinary or an ``async def`` function; its type hints say what callers may send.
            name: What clients call it; the function's own name unless given.
            idempotent: Whether running it twice does no harm. Only then is a call sent again that may have run.
            default: Whether it answers plain text bodies that name no function, as RabbitMQ's tutorials send.
                A service's only function does that in any case.

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
            self._add(function, name=name, idempotent=idempotent, default=default)
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
        queue: str | None = None,
        queue_type: QueueType = "quorum",
        retries: int = DEFAULT_RETRIES,
        backoff: tuple[float, float] = DEFAULT_BACKOFF,
        retry_for: tuple[type[BaseException], ...] = (Exception,),
        time_limit: float | None = None,
        priority: int | None = None,
        max_length: int | None = None,
        max_priority: int | None = None,
        result: bool = True,
        default: bool = False,
    ) -> Callable[[F], F]: ...
    def task(
        self,
        function: F | None = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        queue_type: QueueType = "quorum",
        retries: int = DEFAULT_RETRIES,
        backoff: tuple[float, float] = DEFAULT_BACKOFF,
        retry_for: tuple[type[BaseException], ...] = (Exception,),
        time_limit: float | None = None,
        priority: int | None = None,
        max_length: int | None = None,
        max_priority: int | None = None,
        result: bool = True,
        default: bool = False,
    ) -> F | Callable[[F], F]:
        """Register a function whose work can wait: clients enqueue it. It stays the function that it is.

        A task that was accepted runs to its end at least once, or is a dead letter: write it so that running it twice
        does no harm.

        Args:
            function: An ordinary or an ``async def`` function; its type hints say what may be enqueued.
            name: What clients call it; the function's own name unless given.
            queue: Which holds its tasks; unless given ``task_queue``, or ``task_queue.<service>``.
            queue_type: ``"quorum"``, kept on a majority of a cluster's nodes; ``"classic"`` on one.
            retries: How often a task that raises is tried again (5); then it is a dead letter.
            backoff: Seconds before the first retry, doubled each time, and the most that they become (1.0, 600.0).
            retry_for: The exceptions that are worth another try (``Exception``).
            time_limit: Seconds that one try may take (None: no limit); then it has failed, and is tried again.
            priority: Of its tasks, from 0 to 9, unless they are enqueued with another one. A quorum queue prefers 5 to
                9 to the others (RabbitMQ 4.0 and newer); a classic one knows them all up to ``max_priority``.
            max_length: Tasks that may wait in the queue; `Client.enqueue` raises `PublishRefused` when it is full.
            max_priority: The highest priority that a classic queue tells apart (None: it has none).
            result: Whether anybody is told what becomes of a task (True). Without, its handle has no state and no
                result, and workers drain half as many again; what fails is in the log and in the dead-letter queue.
            default: Whether it takes plain text bodies that name no function, as RabbitMQ's tutorials send. A queue's
                only task does that in any case.

        Raises:
            ConfigurationError: The name is taken, a parameter has a reserved name, a type can't be sent, the queue is
                one of calls, or a setting is out of range. It names the file and the line.

        Example:
            >>> service = Service()
            >>> @service.task(queue="thumbnails", retries=3)
            ... def resize(path: str, size: int = 128) -> None:
            ...     ...
        """

        def register(function: F) -> F:
            policy = Policy(
                queue if queue is not None else task_queue(self.name),
                queue_type=queue_type,
                retries=retries,
                backoff=backoff,
                retry_for=retry_for,
                time_limit=time_limit,
                priority=priority,
                max_length=max_length,
                max_priority=max_priority,
                result=result,
            )
            self._add_task(function, policy, name=name, default=default)
            return function

        return register if function is None else register(function)

    def every(
        self, interval: str | float, /, *, name: str | None = None, args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Have a task enqueued again and again, once for each tick, however many servers run.

        It stands above ``@service.task``. Ticks are at whole multiples of the interval since the Unix epoch, so that
        ``"1h"`` is at every full hour in UTC. After an outage only the latest missed tick is enqueued.

        Args:
            interval: ``"30s"``, ``"5m"``, ``"1h30m"``, ``"1d"``, or seconds; at least 0.1 s.
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
        return self._scheduling("every", lambda: Every.parse(interval), name, args, kwargs or {})

    def cron(
        self, expression: str, /, *, timezone: str = "UTC", name: str | None = None, args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Callable[[F], F]:  # fmt: skip
        """Have a task enqueued by a cron expression, once for each tick, however many servers run.

        Args:
            expression: ``"*/5 * * * *"``: minute, hour, day of the month, month, day of the week; with six fields,
                seconds come first. https://manpages.debian.org/bookworm/cron/crontab.5.en.html
            timezone: Whose clocks, as ``"Europe/Berlin"`` (``"UTC"``).
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
        return self._scheduling("cron", lambda: Cron.parse(expression, timezone), name, args, kwargs or {})

    def _scheduling(
        self, kind: str, parse: Callable[[], Times], name: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Callable[[F], F]:
        def register(function: F) -> F:
            task = next((task for task in reversed(self._tasks.values()) if task.call is function), None)
            if task is None:
                raise ConfigurationError(
                    f"{where(function)}: @service.{kind} is for a task of this service: write it above @service.task"
                )
            begins = (name or task.name) if self.name is None else f"{self.name}.{name or task.name}"
            try:
                priority = task.task.priority if task.task is not None else None
                schedule = Schedule.of(task.signature, task.queue, begins, parse(), args, kwargs, priority=priority)
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"{task.signature.where}: @service.{kind} of {task.name}(): {error}"
                ) from error
            if schedule.name in self._schedules:
                raise ConfigurationError(
                    f"{task.signature.where}: there is a schedule {schedule.name!r} already; give one of them name="
                )
            self._schedules[schedule.name] = schedule
            return function

        return register

    def _add_task(self, function: Callable[..., Any], policy: Policy, *, name: str | None, default: bool) -> None:
        name, signature = named(function, name, "@service.task", reserved=TASK_OPTIONS)
        key = policy.queue, name
        if key in self._tasks:
            raise ConfigurationError(
                f"{signature.where}: {name!r} is registered already, at {self._tasks[key].signature.where}; "
                "give one of them name="
            )
        task = Function(
            name=name,
            service=self.name,
            call=function,
            signature=signature,
            idempotent=True,
            default=default,
            asynchronous=inspect.iscoroutinefunction(function),
            task=policy,
        )
        self._tasks[key] = task
        mark_task(function, task)

    def _add(self, function: Callable[..., Any], *, name: str | None, idempotent: bool, default: bool) -> None:
        name, signature = named(function, name, "@service.rpc", reserved=CALL_OPTIONS)
        if name in self._functions:
            raise ConfigurationError(
                f"{signature.where}: {name!r} is registered already, at {self._functions[name].signature.where}; "
                "give one of them name="
            )
        if default and (other := next((f for f in self._functions.values() if f.default), None)):
            raise ConfigurationError(f"{signature.where}: {other.name!r} is the default function already")
        registered = Function(
            name=name,
            service=self.name,
            call=function,
            signature=signature,
            idempotent=idempotent,
            default=default,
            asynchronous=inspect.iscoroutinefunction(function),
        )
        self._functions[name] = registered
        mark(function, registered)

    def __repr__(self) -> str:
        return f"Service({self.name!r}: {', '.join(self._functions) or 'no functions'})"
