"""What is known of a task: its state, and its result or its error, as a store keeps it; pure values.

A result is kept as a reply carries it, bytes and content type and all: whoever reads replies reads it as well.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Literal, Protocol

from amqp_rpc.errors import Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK

#: What a task is doing. ``PENDING``: no worker has begun it, as far as is known, or there never was such a task.
State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE"]

#: Characters of an error's text beside the error itself: for lists, and for where the rest is lost.
LONGEST_ERROR = 1000
#: Bytes of a record's encoding: any body that was read is taken, its size was checked where it was made.
_LARGEST = 2**32


@dataclass(frozen=True, slots=True)
class Record:
    """What a store knows of a task.

    Args:
        id: The task's.
        state: ``STARTED``, ``RETRY``, ``SUCCESS`` or ``FAILURE``; there are no records of pending tasks.
        function: Its function's name; empty where the message named none.
        queue: Which held it.
        attempt: Which try this is of, from 1.
        updated: When this was so, in Unix seconds.
        started: When the try began; None where it did not.
        next_try: When the next one may begin, after a failure; None otherwise.
        error: What was raised, in a few words; None where nothing was.
        kind: What the reply is, ``"result"`` or ``"error"``; None where the task has not ended, or this was lost.
        content_type: The body's.
        body: The result, or the error, as a reply carries it.
    """

    id: str
    state: State
    function: str
    queue: str
    attempt: int
    updated: float
    started: float | None = None
    next_try: float | None = None
    error: str | None = None
    kind: str | None = None
    content_type: str | None = None
    body: bytes | None = None

    @property
    def ended(self) -> bool:
        """Whether the task has run to its end, or is a dead letter."""
        return self.state in ("SUCCESS", "FAILURE")

    def bare(self) -> Record:
        """Return the record without the result: what is kept where the result can't be."""
        return replace(self, kind=None, content_type=None, body=None)

    def encode(self) -> bytes:
        """Return its bytes, for stores that keep nothing else."""
        return codec.encode(list(astuple(self)), MSGPACK, limit=_LARGEST)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Return the record of `encode`.

        Raises:
            Undecodable: It is none.
        """
        try:
            return cls(*codec.decode(data, MSGPACK, limit=_LARGEST))
        except TypeError as error:
            raise Undecodable(f"it is no record of a task: {error}") from error


class Store(Protocol):
    """Where records are kept; every method may be called from any thread, and does I/O.

    Each raises `StoreUnavailable` where the store can't be reached, read or written, after a few seconds at most.
    """

    def put(self, record: Record, *, expires: float) -> None:
        """Keep a record in the place of an earlier one of the same task, for that many seconds."""

    def get(self, id: str) -> Record | None:  # noqa: A002 - as users write it
        """Return what is known of a task; None where nothing is, or it has expired."""

    def close(self) -> None:
        """Give back what is open; it is opened again when it is needed."""

    def __str__(self) -> str:
        """Return its URL, without a password."""
