"""A task's state, and its result or error, as a store keeps it. Pure.

A result is kept as a reply carries it, with its content type: a client reads both in the same way.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Literal

from amqp_rpc.errors import Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK

#: ``PENDING``: no worker is known to have begun the task, or there never was one with this id.
State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE"]

#: Characters of an error's text beside the error itself: for lists, and for when the rest is lost.
LONGEST_ERROR = 1000
#: Bytes of an encoded record. There is no real bound: each body's size was checked when it was made.
_LARGEST = 2**32


@dataclass(frozen=True, slots=True)
class Record:
    """A task, as the worker that had it last left it.

    Args:
        id: The task's id.
        state: ``STARTED``, ``RETRY``, ``SUCCESS`` or ``FAILURE``; pending tasks have no record.
        function: The name of its function; empty when the message named none.
        queue: The queue that held it.
        attempt: Which attempt this is, from 1.
        updated: When the worker wrote this, in Unix seconds.
        started: When the attempt began; None when it did not.
        next_try: When the next attempt may begin, after a failure; else None.
        error: What was raised, in a few words; None without an error.
        kind: The reply's type, ``"result"`` or ``"error"``; None when the task has not ended, or its result was lost.
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
        """Return whether the task has run to its end, or is a dead letter."""
        return self.state in ("SUCCESS", "FAILURE")

    def bare(self) -> Record:
        """Return the record without its result, for when the result can't be kept."""
        return replace(self, kind=None, content_type=None, body=None)

    def encode(self) -> bytes:
        """Return it as bytes, for stores that keep nothing else."""
        return codec.encode(list(astuple(self)), MSGPACK, limit=_LARGEST)

    @classmethod
    def decode(cls, data: bytes) -> Record:
        """Return the record that `encode` made into bytes.

        Raises:
            Undecodable: The bytes are no record.
        """
        try:
            return cls(*codec.decode(data, MSGPACK, limit=_LARGEST))
        except TypeError as error:
            raise Undecodable(f"it is no record of a task: {error}") from error
