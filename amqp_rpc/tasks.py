"""A task that was enqueued: its id, and its result while the client that enqueued it is there."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar

from amqp_rpc.calls import Reply
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.settings import DEFAULT_TIMEOUT

State = Literal["PENDING", "SUCCESS", "FAILURE"]


R = TypeVar("R")


class TaskHandle(Generic[R]):
    """What `Client.enqueue` returns: the task is accepted.

    Its result comes over the reply queue of the client that enqueued it, and is lost with that client or its
    connection; the task is not.

    Args:
        id: The task's; the same on every try.
        queue: Which holds it.
        function: Its function's name.
        read: Returns a reply's result, or raises its error.
    """

    def __init__(self, id: str, queue: str, function: str, read: Callable[[Reply], Any]) -> None:  # noqa: A002 - as users write it
        self.id = id
        self.queue = queue
        self.function = function
        self._read = read
        self._reply: Future[Reply] = Future()

    @property
    def state(self) -> State:
        """What is known of it: ``PENDING`` until it has run to its end or is a dead letter."""
        if not self.ready():
            return "PENDING"
        try:
            self._read(self._reply.result())
        except AmqpRpcError:
            return "FAILURE"
        return "SUCCESS"

    def ready(self) -> bool:
        """Return whether its result, or its failure, is known here."""
        return self._reply.done()

    def result(self, *, timeout: float = DEFAULT_TIMEOUT) -> R:
        """Return what the function returned, or raise what made it a dead letter.

        Args:
            timeout: Seconds to wait (30.0).

        Raises:
            TimeoutError: It is not known yet; the task goes on. It never will be, where this client's connection was
                lost meanwhile.
            RemoteError: The function raised, on its last try.
        """
        try:
            reply = self._reply.result(timeout)
        except TimeoutError:
            raise TimeoutError(f"no result of task {self.function}() [{self.id}] within {timeout:g} s") from None
        result: R = self._read(reply)
        return result

    @property
    def has_store(self) -> bool:
        """Whether it can ask a store."""
        return False

    def add_done_callback(self, callback: Callable[[], object]) -> None:
        """Call back once its reply has come."""
        self._reply.add_done_callback(lambda _reply: callback())

    def answered(self, reply: Reply) -> None:
        """Take note of the reply; the connection's owner."""
        if not self._reply.done():
            self._reply.set_result(reply)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.function}() [{self.id}] in {self.queue}>"
