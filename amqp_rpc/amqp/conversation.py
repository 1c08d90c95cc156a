"""A channel for one thread, which asks the broker for one thing after another and waits for each answer.

What is seldom done and has many steps is written so, from top to bottom; calls and tasks are not: they share channels,
and wait for nothing but their end. The broker closes a channel on which it refuses something, and nobody else has this
one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from amqp_rpc.amqp.channel import QueueState
from amqp_rpc.amqp.publisher import fresh
from amqp_rpc.errors import AccessRefused, AmqpRpcError, BrokerError, ConnectionLost, NotConnected
from amqp_rpc.message.timing import Deadline

if TYPE_CHECKING:
    from amqp_rpc.amqp.channel import Channel
    from amqp_rpc.amqp.connection import Connection

logger = logging.getLogger(__name__)

_NOT_FOUND, _LOCKED, _PRECONDITION_FAILED = 404, 405, 406

#: One thing that is asked for: it is done on a channel, and calls back with the answer.
Step = Callable[["Channel", Callable[..., object]], object]


class Question(Future[Any]):
    """One thing that was asked for, and its answer."""

    def wait(self, until: float) -> None:
        """Wait for the answer, at most until that time on the monotonic clock."""
        with contextlib.suppress(TimeoutError, CancelledError):
            super().exception(Deadline(until).remaining())


class Conversations:
    """The conversations of one connection: they begin when it opens, and end when it is lost; the owner's."""

    def __init__(self) -> None:
        self._all: set[Conversation] = set()

    def begin(self, connection: Connection) -> None:
        """Do nothing: each belongs to a connection."""

    def enter(self, conversation: Conversation) -> None:
        """Begin one as soon as there is a connection."""
        self._all.add(conversation)
        conversation.on_open()

    def leave(self, conversation: Conversation) -> None:
        """Forget one that has ended."""
        self._all.discard(conversation)

    def end_all(self, error: BrokerError) -> None:
        """End all of them: there is no connection any more. Any thread."""
        for conversation in list(self._all):
            conversation.end(error)

    def on_open(self) -> None:
        """Begin those that wait."""
        for conversation in list(self._all):
            conversation.on_open()

    def on_unblocked(self) -> None:
        """Do nothing: who waits for a confirm gets it now."""

    def on_lost(self, error: BrokerError) -> None:
        """End those that have begun, and all where there will be no other connection."""
        for conversation in list(self._all):
            conversation.on_lost(error)


class Conversation:
    """A channel of its own for the thread that makes it; use it in a ``with`` block.

    Args:
        conversations: Those of the connection.
        connection: Open, or about to be.
        wait: Waits for a question until a time on the monotonic clock: `Caller.wait`.
        expires_at: When it has to be over, on the monotonic clock.
        timeout: Seconds that it was given.
    """

    def __init__(
        self,
        conversations: Conversations,
        connection: Connection,
        wait: Callable[[Question, float], object],
        *,
        expires_at: float,
        timeout: float,
    ) -> None:
        self._conversations = conversations
        self._connection = connection
        self._wait = wait
        self._expires_at = expires_at
        self._timeout = timeout
        # From here on: the owner's alone.
        self._channel: Channel | None = None
        self._opening = False
        self._ended: BrokerError | None = None
        #: AMQP's reply code, where the broker closed the channel.
        self._code = 0
        #: What waits for the channel, or for its answer.
        self._question: Question | None = None
        self._step: Step | None = None

    def __enter__(self) -> Self:
        self._connection.loop.leave(self._conversations.enter, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.post(self._close)

    def ask(self, step: Step) -> Any:
        """Do one thing on the channel, and return what it calls back with.

        Raises:
            BrokerError: The broker refused it, or did not answer in time; the connection was lost, or not made.
        """
        question = Question()
        self._connection.loop.leave(self._ask, question, step)
        self._wait(question, self._expires_at)
        if not question.done():
            raise self._too_late()
        return question.result()

    def inspect(self, queue: str) -> QueueState | None:
        """Return a queue's state; None where there is none, and with that the conversation is over."""
        try:
            state: QueueState = self.ask(lambda channel, done: channel.inspect(queue, done))
        except AccessRefused:
            raise
        except BrokerError:
            if self._code != _NOT_FOUND:
                raise
            return None
        return state

    @property
    def mismatched(self) -> bool:
        """Whether the broker ended it since what was declared is there, declared in another way or another's alone."""
        return self._code in (_LOCKED, _PRECONDITION_FAILED)

    def on_open(self) -> None:
        """Open the channel, where the connection is open; the owner's."""
        if self._connection.is_open and not self._opening and self._ended is None:
            self._opening = True
            self._connection.open_channel(self._opened, self._closed)

    def on_lost(self, error: BrokerError) -> None:
        """End it, unless it has not begun and there will be another connection; the owner's."""
        if self._opening or not self._connection.was_open:
            self.end(error)

    def _opened(self, channel: Channel) -> None:
        if self._ended is not None:
            channel.close()
            return
        self._channel = channel
        if self._question is not None and self._step is not None:
            self._ask(self._question, self._step)

    def _closed(self, _channel: Channel, error: BrokerError, code: int) -> None:
        self._code = code
        self.end(error)

    def _ask(self, question: Question, step: Step) -> None:
        self._question, self._step = question, step
        if self._ended is not None:
            with contextlib.suppress(InvalidStateError):
                question.set_exception(fresh(self._ended))
        elif self._channel is not None:
            try:
                step(self._channel, lambda answer=None: None if question.done() else question.set_result(answer))
            # pika's, of a connection that is being closed, is not for here.
            except Exception as error:
                logger.debug("A question could not be asked", exc_info=True)
                self.end(ConnectionLost(f"the broker could not be asked: {error!r}"))

    def end(self, error: BrokerError) -> None:
        """End it with an error, for what is asked now and later; any thread."""
        if self._ended is None:
            self._ended = error
            if self._question is not None:
                with contextlib.suppress(InvalidStateError):
                    self._question.set_exception(error)

    def _close(self) -> None:
        self._conversations.leave(self)
        self.end(ConnectionLost("this conversation with the broker is over"))
        if self._channel is not None:
            self._channel.close()

    def _too_late(self) -> AmqpRpcError:
        connection = self._connection
        if self._channel is None:
            return NotConnected(f"no connection to the broker at {connection.address} within {self._timeout:g} s")
        if connection.blocked is not None:
            return BrokerError(
                f"it was not done within {self._timeout:g} s: the broker takes no messages ({connection.blocked})"
            )
        return BrokerError(f"it was not done within {self._timeout:g} s; give it more time with timeout=")
