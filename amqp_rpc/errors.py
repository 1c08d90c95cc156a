"""Every error that amqp_rpc raises. This module imports nothing of the package; every other may import it.

::

    AmqpRpcError
    ├─ ConfigurationError(ValueError)     fix your code or settings
    │  └─ DeclaredOtherwise               a queue or an exchange exists with other arguments
    ├─ BrokerError(ConnectionError)       the broker, or the way to it, failed
    │  ├─ NotConnected                    no connection could be opened
    │  ├─ ConnectionLost                  the connection broke
    │  ├─ BrokerTimeout(TimeoutError)     the broker did not answer in time, or the work was longer
    │  ├─ PublishRefused                  the broker refused a message
    │  │  ├─ AlreadyQueued                the same task was enqueued a moment ago
    │  │  ├─ NamesAnotherQueue            a dead letter is to be replayed to a queue that nobody has named
    │  │  └─ NotAllAccepted               some of many messages were refused
    │  └─ AccessRefused                   wrong password, virtual host or permission; a limit of the broker
    ├─ CallError                          a call has no result: see may_have_run
    │  ├─ did not run
    │  │  ├─ Unroutable                   there is no such queue
    │  │  ├─ NoServer                     the queue has no consumers
    │  │  ├─ FunctionNotFound             the server has no function of that name
    │  │  ├─ InvalidArguments(TypeError)  the arguments do not fit the function
    │  │  ├─ NotAuthorized                it is not signed, or its sender may not have the function run
    │  │  ├─ Expired                      it expired before a handler started
    │  │  ├─ Overloaded                   too many calls are in flight, or wait
    │  │  └─ NotSent                      the request never left this process
    │  ├─ may have run
    │  │  ├─ CallTimeout(TimeoutError)    no answer in time
    │  │  └─ MaybeExecuted                the server or the connection that had the call died
    │  └─ RemoteError                     it ran and raised; also an instance of the builtin that it raised
    ├─ CodecError(ValueError)             bytes and values
    │  ├─ Undecodable                     bytes that are not what they say
    │  ├─ Unencodable                     a value that has no form on the wire
    │  └─ MessageTooLarge                 more bytes than the limit
    ├─ TimeLimitExceeded(TimeoutError)    an attempt of a task took longer than its time_limit
    ├─ NotDone(TimeoutError)              a queue has unfinished items
    ├─ StoreUnavailable(ConnectionError)  the store of tasks' results can't be reached, read or written
    ├─ ResultLost                         a task has ended, and the store lost its result
    ├─ Retry                              raised by a task's handler: retry the task later
    └─ Reject                             raised by a task's handler: dead-letter the task

Every error has ``may_have_run``. If it is true, the function may have been executed: send the call again only if it
is idempotent.
"""

from __future__ import annotations

from datetime import timedelta
from numbers import Real
from typing import Any

#: The most characters that an error shows of its text, and a line of the log of a value.
LONGEST = 2000


def one_line(text: str, most: int = LONGEST) -> str:
    r"""Return a text on one line: what can't be printed is escaped, and what is longer is cut.

    A peer can choose ids, names and reasons. With line breaks and escapes in them it could forge lines of a log, or
    control a terminal.

    Args:
        text: Any text.
        most: The most characters to show.

    Example:
        >>> one_line("x]\n2026-01-31 CRITICAL \x1b[2J")
        'x]\\n2026-01-31 CRITICAL \\x1b[2J'
        >>> one_line("x" * 10, 3)
        'xxx… (10 characters)'
    """
    shown = text[:most]
    if not shown.isprintable():
        shown = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in shown)
    return shown if len(text) <= most and len(shown) <= most else f"{shown[:most]}… ({len(text)} characters)"


class AmqpRpcError(Exception):
    """The root of all errors that amqp_rpc raises. Its text is one line of bounded length, whoever wrote it."""

    #: True when the called function may have been executed.
    may_have_run: bool = False

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigurationError(AmqpRpcError, ValueError):
    """Code or settings are wrong; nothing was sent."""


class DeclaredOtherwise(ConfigurationError):
    """A queue or an exchange exists with other arguments, or the broker refuses to declare it."""


class BrokerError(AmqpRpcError, ConnectionError):
    """The broker, or the way to it, failed."""

    #: The ids of the dead letters that had been replayed, or dropped, before the error.
    ids: tuple[str, ...] = ()


class NotConnected(BrokerError):
    """No connection to the broker could be opened; nothing was sent."""


class ConnectionLost(BrokerError):
    """The connection to the broker broke; messages that were sent may have arrived."""

    may_have_run = True


class BrokerTimeout(BrokerError, TimeoutError):
    """The broker did not answer in time, or the time that was given to all of the work was over."""


class PublishRefused(BrokerError):
    """The broker refused a message."""


class AlreadyQueued(PublishRefused):
    """A task with the same key was enqueued within ``unique_for``; this one was not."""


class NamesAnotherQueue(PublishRefused):
    """Dead letters name another queue than the one whose dead letters they are, and were not replayed: say ``to=``.

    Any program may write a dead letter, and in it any queue.

    Args:
        message: The error's text.
        queues: The ids of the letters, by the queue that they name; an empty one for a letter that has none.
    """

    def __init__(self, message: str, queues: dict[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.queues: dict[str, list[str]] = queues or {}


class NotAllAccepted(PublishRefused):
    """The broker refused some of many tasks, events or items, and accepted the others.

    Args:
        message: The error's text.
        handles: One for each task, or the id of each event, in their order; None for a refused one. Empty for items.
        errors: The reasons, by the number of the task, event or item, from 0.
    """

    def __init__(
        self, message: str, handles: list[Any] | None = None, errors: dict[int, AmqpRpcError] | None = None
    ) -> None:
        super().__init__(message)
        self.handles: list[Any] = handles or []
        self.errors: dict[int, AmqpRpcError] = errors or {}
        self.may_have_run: bool = any(error.may_have_run for error in self.errors.values())


class AccessRefused(BrokerError):
    """The broker refused the user name, the password, the virtual host or the operation, or a limit of it is reached.

    Limits are those on connections, channels, queues and exchanges. Nothing was done.
    """


class CallError(AmqpRpcError):
    """A call has no result; ``may_have_run`` is true if its function may have been executed."""


class Unroutable(CallError):
    """There is no such queue: no server for it was ever started on this broker. The call did not run.

    For an event: no queue is bound for it, so no subscriber gets it.
    """


class NoServer(CallError):
    """The queue exists, but has no consumers. The call did not run: it was not sent."""


class FunctionNotFound(CallError):
    """The server has no function of that name. Nothing ran."""


class InvalidArguments(CallError, TypeError):
    """The arguments do not fit the function's parameters. Nothing ran."""


class NotAuthorized(CallError):
    """The server refuses the sender: it wants signed messages, or the function's ``authorize=`` said no. Nothing ran.

    An ``authorize=`` hook may raise it, with a text for the sender.
    """


class Expired(CallError):
    """The call expired before a handler started. It did not run."""


class Overloaded(CallError):
    """Too many calls are in flight, and none ended in time; or their queue is full. This one did not run."""


class NotSent(CallError):
    """The request never left this process. It did not run."""


class CallTimeout(CallError, TimeoutError):
    """No reply came in time. The function may have run, or may still be running."""

    may_have_run = True


class MaybeExecuted(CallError):
    """The server or the connection that had the call died. The function may have run."""

    may_have_run = True


class RemoteError(CallError):
    """The function ran, and raised an exception.

    An exception of a builtin type, or of a class given to `register_error`, is also an instance of that class: ``except
    ValueError`` and ``except RemoteError`` both catch a handler's ``ValueError``. One of any other class is an instance
    of its nearest base class among these: a ``JSONDecodeError`` is a ``ValueError``. An ``ExceptionGroup`` has its
    exceptions, and every exception its notes and its ``__cause__``.
    """

    may_have_run = True

    #: The name of the exception's class on the server: ``"ValueError"``, ``"billing.errors.CardDeclined"``.
    type: str = "RemoteError"
    #: ``str(exception)`` on the server, up to 2 000 characters; ``str()`` of this error is the same on one line.
    message: str = ""
    #: The server's traceback as text, where the server sends it.
    traceback: str | None = None

    def __str__(self) -> str:
        return one_line(self.message)


class CodecError(AmqpRpcError, ValueError):
    """A value could not become bytes, or bytes a value.

    If an argument could not be encoded, nothing was sent. If a result or reply could not be, or could not be read, the
    function may have run: `may_have_run` is true.
    """


class Undecodable(CodecError):
    """The bytes are not what their content type says."""


class Unencodable(CodecError):
    """The value has no form on the wire."""


class MessageTooLarge(CodecError):
    """The body has more bytes than the limit of the side that reads it, or was about to send it, or of the broker."""


class TimeLimitExceeded(AmqpRpcError, TimeoutError):
    """An attempt of a task took longer than its ``time_limit``. It has failed, and is retried as after any exception.

    The function may still be running: Python cannot end a thread (https://docs.python.org/3/library/threading.html).
    """

    may_have_run = True


class NotDone(AmqpRpcError, TimeoutError):
    """`Queue.join` timed out before all items were done. The others are in their queue, or a consumer works on them."""

    may_have_run = True


class StoreUnavailable(AmqpRpcError, ConnectionError):
    """The store of tasks' results can't be reached, read or written. The tasks themselves run without it."""

    may_have_run = True


class ResultLost(AmqpRpcError):
    """A task has ended, but the store was unreachable and its result is lost. `TaskHandle.state` says how it ended."""

    may_have_run = True


class Retry(AmqpRpcError):
    """Raised by a task's handler: retry the task later. It counts as one of its retries.

    Args:
        reason: For the log, and for the dead letter when no retry is left.
        after: Seconds until the retry, from 0, or a `timedelta`; the task's backoff unless given. The longest delay is
            310 days: a longer one becomes that.

    Raises:
        ConfigurationError: ``after`` is no number of seconds, or is negative. In a handler this is an exception like
            any other: the task has failed, and is retried after its backoff.

    Example:
        >>> raise Retry("the disk is full", after=30)  # doctest: +SKIP
    """

    def __init__(self, reason: str = "it asked for another attempt", *, after: float | timedelta | None = None) -> None:
        seconds: Any = after.total_seconds() if isinstance(after, timedelta) else after
        number = not isinstance(seconds, bool) and isinstance(seconds, Real | int)
        if seconds is not None and not (number and seconds >= 0):
            raise ConfigurationError(f"Retry(after=) is a number of seconds from 0, not {after!r}")
        super().__init__(reason)
        self.after: float | None = seconds


class Reject(AmqpRpcError):
    """Raised by a task's handler: do not retry the task; dead-letter it for this reason.

    Example:
        >>> raise Reject("no such customer")  # doctest: +SKIP
    """
