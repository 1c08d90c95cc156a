"""What a client enqueues, and when that is accepted: the half of a client that is about tasks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from amqp_rpc.amqp.outbox import Publication
from amqp_rpc.client import reply
from amqp_rpc.client.bulk import not_all, publish_all
from amqp_rpc.client.enqueuing import Plan, claim, default_key, encoded, plan
from amqp_rpc.client.forms import Default
from amqp_rpc.client.task import TaskHandle, task_by_id
from amqp_rpc.client.task_forms import TaskForms
from amqp_rpc.errors import AlreadyQueued, AmqpRpcError, ConfigurationError, PublishRefused
from amqp_rpc.message.text import plural

if TYPE_CHECKING:
    from amqp_rpc.client.caller import Caller
    from amqp_rpc.results import Store


class Producer(TaskForms):
    """``enqueue`` and ``enqueue_many`` of a client."""

    _caller: Caller
    _limit: int
    #: Where workers keep what becomes of tasks; None for nowhere.
    _store: Store | None

    @abstractmethod
    def _seconds(self, timeout: float | Default) -> float:
        """Return the seconds that something gets."""

    def _enqueue(
        self,
        function: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        queue: str | None,
        delay: float | None,
        eta: datetime | None,
        expires: float | None,
        priority: int | None,
        unique_for: float | None,
        unique_key: str | None,
        timeout: float | Default,
    ) -> TaskHandle[Any]:
        how = plan(function, queue=queue, delay=delay, eta=eta, expires=expires, priority=priority)
        seconds = self._seconds(timeout)
        body = encoded(args, kwargs, limit=self._limit)
        if unique_for is None and unique_key is not None:
            raise ConfigurationError("unique_key= is the key of unique_for=, which says for how long; give both")
        if unique_for is None:
            return self._accepted(how, body, seconds)
        key = default_key(args, kwargs, limit=self._limit) if unique_key is None else unique_key.encode()
        claimed = claim(how, self._caller.identity(), how.function.encode() + b"\0" + key, unique_for, timeout=seconds)
        self._caller.publish(claimed)
        try:
            self._caller.confirmed(claimed)
        except PublishRefused as error:
            if claimed.refused:
                raise AlreadyQueued(
                    f"{how.function}() was not enqueued: one with the same key was, less than {unique_for:g} s ago"
                ) from error
            raise
        try:
            return self._accepted(how, body, seconds)
        except AmqpRpcError as error:
            if not error.may_have_run:
                self._caller.give_back(claimed)
            raise

    def _accepted(self, how: Plan, body: bytes, seconds: float) -> TaskHandle[Any]:
        publication, handle = self._published(how, body, seconds)
        self._caller.confirmed(publication)
        return handle

    def _published(self, how: Plan, body: bytes, seconds: float) -> tuple[Publication, TaskHandle[Any]]:
        publication = how.publication(self._caller.identity(), body, timeout=seconds)
        handle = TaskHandle[Any](
            publication.identity,
            how.queue,
            how.function,
            (lambda came: reply.read(came, how.known, limit=self._limit)) if how.result else None,
            store=self._store,
            # At the connection's sockets, where the reply arrives.
            wait=self._caller.wait if how.result else None,
        )
        if how.result:
            # Before it is published: a worker may be faster than the confirm.
            self._caller.tasks[handle.id] = handle
        self._caller.publish(publication)
        return publication, handle

    def enqueue_many(
        self,
        function: str | Callable[..., Any],
        arguments: Iterable[tuple[Any, ...] | Mapping[str, Any]],
        /,
        *,
        queue: str | None = None,
        delay: float | None = None,
        eta: datetime | None = None,
        expires: float | None = None,
        priority: int | None = None,
        timeout: float | Default = Default.TIMEOUT,
    ) -> list[TaskHandle[Any]]:
        """Enqueue many tasks of a function, and return once the broker has all of them safe.

        They are sent without waiting for each other, up to a thousand ahead of the broker's confirms: many times as
        fast as one `enqueue` after another, with the same promise.

        Args:
            function: As for `enqueue`.
            arguments: One for each task: a tuple of positional arguments, or a mapping of named ones. It may be any
                iterable; it is read as the broker keeps up.
            queue: As for `enqueue`.
            delay: As for `enqueue`.
            eta: As for `enqueue`.
            expires: As for `enqueue`.
            priority: As for `enqueue`.
            timeout: Seconds for the broker to take each of them (the client's, 30.0).

        Returns:
            Their handles, in the arguments' order.

        Raises:
            NotAllAccepted: Some were not accepted. It says which, and why, and has the handles of the others.
            ConfigurationError: No such task, no such time, a queue that exists with other arguments, or something
                among the arguments that is neither a tuple nor a mapping.

        Example:
            >>> client.enqueue_many("resize", [("a.png",), {"path": "b.png", "size": 3}])  # doctest: +SKIP
        """
        how = plan(function, queue=queue, delay=delay, eta=eta, expires=expires, priority=priority)
        seconds = self._seconds(timeout)
        handles: dict[int, TaskHandle[Any]] = {}

        def publish(number: int, each: Any) -> Publication:
            publication, handles[number] = self._published(how, self._body(each), seconds)
            return publication

        count, errors = publish_all(
            self._caller,
            arguments,
            publish,
            note=lambda n: f"{plural(n, 'task was', 'tasks were')} enqueued before, for {how.function}(), and will run",
        )
        if errors:
            of = f"{plural(count, 'task', 'tasks')} of {how.function}()"
            accepted = [None if number in errors else handles[number] for number in range(count)]
            raise not_all(errors, of=of, others="will run", handles=accepted)
        return list(handles.values())

    def task(self, id: str, function: Callable[..., Any] | None = None) -> TaskHandle[Any]:  # noqa: A002 - as users write it
        """Return the handle of a task by its id, in any process; nothing is asked until the handle is.

        Args:
            id: What `TaskHandle.id` was where it was enqueued. One that never was a task's is ``PENDING``.
            function: The function itself, where it was registered with ``@service.task``: the result is then of the
                type that its annotation names.

        Raises:
            ConfigurationError: This client has no store: ``results=``; or the function is no task.

        Example:
            >>> client.task("2f0c…-1").result(timeout=5)  # doctest: +SKIP
        """
        return task_by_id(id, function, self._store, limit=self._limit)

    def _body(self, arguments: Any) -> bytes:
        if isinstance(arguments, tuple):
            return encoded(arguments, {}, limit=self._limit)
        if isinstance(arguments, Mapping):
            return encoded((), dict(arguments), limit=self._limit)
        raise ConfigurationError(
            f"enqueue_many takes a tuple of positional arguments or a mapping of named ones for each task, not "
            f"{type(arguments).__name__}; one argument is (x,)"
        )
