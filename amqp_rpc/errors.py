"""Every error that amqp_rpc raises; it imports nothing, so that anything may import it.

::

    AmqpRpcError
    ├─ ConfigurationError(ValueError)     fix your code or settings
    ├─ BrokerError(ConnectionError)       the broker did not do its part
    │  ├─ NotConnected                    no connection could be made
    │  ├─ ConnectionLost                  there was one, and it broke
    │  ├─ PublishRefused                  the broker answered "no" to a message
    │  │  ├─ AlreadyQueued                the same task was enqueued a moment ago
    │  │  └─ NotAllAccepted               some of many tasks, or of many items
    │  └─ AccessRefused                   wrong password, virtual host or permission
    ├─ CallError                          what became of one call: see may_have_run
    │  ├─ did not run
    │  │  ├─ Unroutable                   there is no such queue
    │  │  ├─ NoServer                     the queue is there, and nobody consumes it
    │  │  ├─ FunctionNotFound             the server has no function of that name
    │  │  ├─ InvalidArguments(TypeError)  the arguments do not fit the function
    │  │  ├─ Expired                      its time was over before a handler started
    │  │  ├─ Overloaded                   too many calls are under way
    │  │  └─ NotSent                      the request never left this process
    │  ├─ may have run
    │  │  ├─ CallTimeout(TimeoutError)    no answer in time
    │  │  └─ MaybeExecuted                the server or the connection that had the call died
    │  └─ RemoteError                     it ran and raised; also an instance of the builtin that it raised
    ├─ CodecError(ValueError)             bytes and values
    │  ├─ Undecodable                     bytes that are not what they say
    │  ├─ Unencodable                     a value that has no form on the wire
    │  └─ MessageTooLarge                 more bytes than the limit
    ├─ TimeLimitExceeded(TimeoutError)    a try of a task took longer than its time_limit
    ├─ NotDone(TimeoutError)              items that a queue's join waited for are not done yet
    ├─ StoreUnavailable(ConnectionError)  the store of tasks' results can't be reached, read or written
    ├─ ResultLost                         a task has ended, and its result could not be kept
    ├─ Retry                              raised by a task's handler: try it again, later
    └─ Reject                             raised by a task's handler: it is a dead letter

Every error has ``may_have_run``: whether the function may have been executed. Only where it is false is it
safe to send a call again that is not idempotent.
"""

from __future__ import annotations

from typing import Any


class AmqpRpcError(Exception):
    """The root: catches whatever amqp_rpc raises."""

    #: Whether the function that was called may have been executed.
    may_have_run: bool = False


class ConfigurationError(AmqpRpcError, ValueError):
    """Code or settings are wrong; nothing was sent."""


class BrokerError(AmqpRpcError, ConnectionError):
    """The broker, or the way to it, failed."""


class NotConnected(BrokerError):
    """No connection to the broker could be made; nothing was sent."""


class ConnectionLost(BrokerError):
    """The connection to the broker broke; what was sent may have arrived."""

    may_have_run = True


class PublishRefused(BrokerError):
    """The broker did not take a message."""


class AlreadyQueued(PublishRefused):
    """A task with the same key was enqueued within ``unique_for``; this one was not."""


class NotAllAccepted(PublishRefused):
    """Some of many tasks, events, or items of a queue, were not accepted; the others were.

    Args:
        message: What is said.
        handles: One for each task, in their order; None for those that were not accepted. Empty for events and items.
        errors: Why, by the task's, the event's or the item's number from 0.
    """

    def __init__(
        self, message: str, handles: list[Any] | None = None, errors: dict[int, AmqpRpcError] | None = None
    ) -> None:
        super().__init__(message)
        self.handles = handles or []
        self.errors = errors or {}
        self.may_have_run = any(error.may_have_run for error in self.errors.values())


class AccessRefused(BrokerError):
    """The broker refused the user name, the password, the virtual host or the operation."""


class CallError(AmqpRpcError):
    """What became of a call that has no result; ``may_have_run`` says whether it was executed."""


class Unroutable(CallError):
    """There is no such queue: no server for it was ever started on this broker. The call did not run.

    Of an event: no queue is bound for it, and nobody gets it.
    """


class NoServer(CallError):
    """The queue exists, but nobody consumes it. The call did not run: it was not sent."""


class FunctionNotFound(CallError):
    """The server has no function of that name. Nothing ran."""


class InvalidArguments(CallError, TypeError):
    """The arguments do not fit the function's parameters. Nothing ran."""


class Expired(CallError):
    """The call's time was over before a handler started. It did not run."""


class Overloaded(CallError):
    """Too many calls are under way, and none ended in time. This one did not run."""


class NotSent(CallError):
    """The request never left this process. It did not run."""


class CallTimeout(CallError, TimeoutError):
    """No answer came in time. The function may have run, or may run still."""

    may_have_run = True


class MaybeExecuted(CallError):
    """The server, or the connection, that had the call died. Whether the function ran is not known."""

    may_have_run = True


class RemoteError(CallError):
    """The function ran, and raised.

    An exception of a builtin type, or of a class given to `register_error`, is also an instance of that class: ``except
    ValueError`` and ``except RemoteError`` both catch a handler's ``ValueError``.
    """

    may_have_run = True

    #: The name of the exception's class on the server: ``"ValueError"``, ``"billing.errors.CardDeclined"``.
    type: str = "RemoteError"
    #: What ``str(exception)`` was on the server.
    message: str = ""
    #: The server's traceback as text, where the server sends it.
    traceback: str | None = None

    def __str__(self) -> str:
        return self.message


class CodecError(AmqpRpcError, ValueError):
    """A value could not become bytes, or bytes a value."""


class Undecodable(CodecError):
    """The bytes are not what their content type says."""


class Unencodable(CodecError):
    """The value has no form on the wire."""


class MessageTooLarge(CodecError):
    """The body has more bytes than the limit; nothing of it was sent."""


class TimeLimitExceeded(AmqpRpcError, TimeoutError):
    """A try of a task took longer than its ``time_limit``: it has failed, and is tried again like after any exception.

    Its function has run, and may run still where it could not be ended: https://docs.python.org/3/library/threading.html
    has no way to end a thread.
    """

    may_have_run = True


class NotDone(AmqpRpcError, TimeoutError):
    """Items that `Queue.join` waited for were not done in its time. They are in their queue, or being worked at."""

    may_have_run = True


class StoreUnavailable(AmqpRpcError, ConnectionError):
    """The store of tasks' results can't be reached, read or written. The tasks themselves run on without it."""


class ResultLost(AmqpRpcError):
    """A task has ended, and its result was not kept, as the store was away. `TaskHandle.state` says how it ended."""

    may_have_run = True


class Retry(AmqpRpcError):
    """Raised by a task's handler: try it again, later; it counts among the retries.

    Args:
        reason: What is said in the log, and of the dead letter that it becomes when no retry is left.
        after: Seconds until then, from 0; the task's backoff unless given. More than the longest delay, 310 days, is
            taken for that.

    Raises:
        ConfigurationError: ``after`` is no number of seconds, or is negative. From a handler that is an exception like
            any other: its task has failed, and is tried again by its backoff.

    Example:
        >>> raise Retry("the disk is full", after=30)  # doctest: +SKIP
    """

    def __init__(self, reason: str = "it asked for another try", *, after: float | None = None) -> None:
        if after is not None and (isinstance(after, bool) or not isinstance(after, int | float) or not after >= 0):
            raise ConfigurationError(f"Retry(after=) is a number of seconds from 0, not {after!r}")
        super().__init__(reason)
        self.after = after


class Reject(AmqpRpcError):
    """Raised by a task's handler: do not try it again; it is a dead letter, for this reason.

    Example:
        >>> raise Reject("no such customer")  # doctest: +SKIP
    """
