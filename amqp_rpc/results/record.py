"""A task's state, and its result or error, as a store keeps it. Pure.

A result is kept as a reply carries it, with its content type: a client reads both in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace
from hashlib import blake2b
from typing import Any, Final, Literal, get_args

from amqp_rpc.errors import CodecError, Undecodable
from amqp_rpc.message import codec
from amqp_rpc.message.codec import MSGPACK
from amqp_rpc.message.envelope import ERROR, RESULT
from amqp_rpc.message.text import brief

#: ``PENDING``: no worker is known to have begun the task, or there never was one with this id.
State = Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE"]

#: Characters of an error's text beside the error itself: for lists, and for when the rest is lost.
LONGEST_ERROR = 1000
#: Bytes of an encoded record. There is no real bound: each body's size was checked when it was made.
_LARGEST = 2**32
#: The ids that our clients, schedules and replays give: other programs may count theirs, and two of them give the same.
_OURS = re.compile("[0-9a-f]{32}")

#: The types of the fields that are no text; and the values of those that have a few.
_TIME, _NOTHING = (int, float), (type(None),)
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "attempt": (int,),
    "updated": _TIME,
    "started": _TIME + _NOTHING,
    "next_try": _TIME + _NOTHING,
    "error": (str, *_NOTHING),
    "kind": (str, *_NOTHING),
    "content_type": (str, *_NOTHING),
    "body": (bytes, *_NOTHING),
}
_WORDS: Final[dict[str, tuple[object, ...]]] = {"state": get_args(State), "kind": (RESULT, ERROR, None)}

#: The key of a task: its id, which any program may have chosen, and its fingerprint.
Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """A task, as the worker that had it last left it.

    Args:
        id: The task's id.
        fingerprint: The task's: see `fingerprint`.
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
    fingerprint: str
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
    def key(self) -> Key:
        """The task's key."""
        return self.id, self.fingerprint

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
            values = codec.decode(data, MSGPACK, limit=_LARGEST)
        except CodecError as error:
            raise Undecodable(f"it is no record of a task: {error}") from error
        return cls.of(values if isinstance(values, list) else [values])

    @classmethod
    def of(cls, values: Sequence[Any]) -> Record:
        """Return the record of the values of its fields, as a store gives them back.

        Raises:
            Undecodable: They are no record: another program has written there.
        """
        names = [field.name for field in fields(cls)]
        if len(values) != len(names):
            raise Undecodable(f"it is no record of a task: it has {len(values)} fields, and not {len(names)}")
        for name, value in zip(names, values, strict=True):
            if type(value) not in _TYPES.get(name, (str,)) or value not in _WORDS.get(name, (value,)):
                raise Undecodable(f"it is no record of a task: its {name} is {brief(value)}")
        return cls(*values)


def fingerprint(queue: str, function: str | None, content_type: str | None, body: bytes) -> str:
    """Return the digest of a task's queue, function and body, which tells it from other tasks with its id.

    An id proves nothing: two programs may both number their tasks from 1, and anybody may send an id again.
    """
    digest = blake2b(digest_size=16)
    for part in (queue, function or "", content_type or ""):
        encoded = part.encode(errors="surrogatepass")
        # With its length: else the end of one part could be the beginning of the next.
        digest.update(len(encoded).to_bytes(4))
        digest.update(encoded)
    digest.update(body)
    return digest.hexdigest()


def is_ours(identity: object) -> bool:
    """Return whether an id looks like one that our clients, schedules and replays give."""
    return isinstance(identity, str) and _OURS.fullmatch(identity) is not None
