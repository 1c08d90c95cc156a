"""Items and receipts as messages, and the count of unfinished items. Pure.

An item has an id: the token of the `Queue` object that put it, a number, and a proof, so that who has received one item
can't give a receipt for another. It names the reply queue of its client (``reply_to``). A receipt is a reply that names
the ids of items that are done, many in one message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from hashlib import blake2b
from hmac import compare_digest
from threading import Lock
from typing import Any, Final

from amqp_rpc.amqp import declare
from amqp_rpc.amqp.channel import Delivery
from amqp_rpc.amqp.pending import Outcome
from amqp_rpc.errors import CodecError, ConfigurationError, NotAuthorized, Undecodable
from amqp_rpc.message import codec, topology
from amqp_rpc.message.codec import MSGPACK, base_type
from amqp_rpc.message.dead_letter import dead_letter
from amqp_rpc.message.envelope import Message, Properties, pack_names, read_names
from amqp_rpc.message.headers import ITEM_ID, UNREADABLE
from amqp_rpc.message.signature import Gate, NotProved
from amqp_rpc.message.topology import LONGEST_NAME

#: The ``type`` of an item that one of our clients has put, and of a receipt.
ITEM: Final = "item"
DONE: Final = "done"


def item(queue: str, body: bytes, *, identity: str) -> Message:
    """Return the message of an item; its ``reply_to`` is set when it is published."""
    properties = Properties(MSGPACK)
    properties.delivery_mode = 2
    properties.message_id = identity
    properties.timestamp = int(time.time())
    properties.type = ITEM
    return Message(queue, properties, body)


def admit(gate: Gate, queue: str, delivery: Delivery) -> None:
    """Check that an item is signed, and came for the first time.

    Raises:
        NotAuthorized: It is not.
    """
    try:
        gate.admit(delivery.properties, delivery.body, routing_key=queue, redelivered=delivery.redelivered)
    except NotProved as error:
        raise NotAuthorized(f"not allowed: {error}") from None


def value(properties: Properties, body: bytes, *, limit: int) -> Any:
    """Return the value of an item, ours or another program's, by its content type.

    Raises:
        Undecodable, MessageTooLarge: It can't be read.
    """
    try:
        if (lost := (properties.headers or {}).get(UNREADABLE)) is not None:
            raise Undecodable(f"its properties can't be read: {lost}")  # noqa: TRY301 - all others are raised below
        codec.check_encoding(properties.content_encoding)
        return codec.decode(body, base_type(properties.content_type), limit=limit)
    except CodecError:
        raise
    # Another program's properties may be of any type.
    except Exception as error:
        raise Undecodable(f"the item could not be read: {error!r}") from error


def receipt_to(properties: Properties) -> str | None:
    """Return the queue for the receipt of an item; None if no client of ours waits for one."""
    if properties.type != ITEM or not isinstance(properties.message_id, str):
        return None
    reply_to = properties.reply_to
    # Any program may put an item: it must not make us write to any queue that it names.
    return reply_to if isinstance(reply_to, str) and topology.named_by_broker(reply_to) else None


def receipts(reply_to: str, identities: list[str]) -> Iterator[Message]:
    """Yield the messages that report done items."""
    for body in pack_names(identities):
        yield Message(reply_to, Properties(content_type=MSGPACK, type=DONE), body)


def read_receipt(properties: Properties, body: bytes) -> list[str]:
    """Return the ids that a receipt names; none if it can't be read."""
    if properties.content_type != MSGPACK:
        return []
    try:
        return read_names(body)
    except CodecError:
        return []


def token_of(identity: object) -> str:
    """Return the token in an item's id; an empty text for an id of another form."""
    return identity.partition("-")[0] if isinstance(identity, str) and len(identity) <= LONGEST_NAME else ""


def dead(properties: Properties, body: bytes, *, queue: str, reason: str, identity: str) -> Message:
    """Return the dead letter of an item that can't be read; the item's own id may be missing, or another item's."""
    own = properties.message_id
    details = {ITEM_ID: own} if isinstance(own, str) else {}
    return dead_letter(
        properties, body, queue=queue, reason=reason, now=time.time(), details=details, identity=identity
    )


class Unfinished:
    """The items of one `Queue` object that are not done; any thread may call it.

    It takes one byte for each item from the oldest unfinished one on.

    Args:
        token: The object's, without a hyphen.
    """

    def __init__(self, token: str = "") -> None:
        self._token = token
        #: The key of the proofs in its items' ids.
        self._key = os.urandom(16)
        self._lock = Lock()
        #: The number of the oldest unfinished item; a byte for it and each later one: 1 while it is unfinished.
        self._first = 0
        self._open = bytearray()
        self._count = 0
        self._lost = 0
        #: Set when no item is left; then another one takes its place.
        self._over: Outcome[None] = Outcome()

    def add(self) -> int:
        """Count one more item; return its number."""
        with self._lock:
            self._open.append(1)
            self._count += 1
            return self._first + len(self._open) - 1

    def identity(self, number: int) -> str:
        """Return the id of an item."""
        # Made again from the number when its receipt comes: nothing is kept for it.
        proof = blake2b(b"%x" % number, key=self._key, digest_size=16).hexdigest()
        return f"{self._token}-{number:x}-{proof}"

    def received(self, identity: str) -> None:
        """Count the item that a receipt names as done, unless the id was only guessed."""
        _, _, rest = identity.partition("-")
        try:
            number = int(rest.partition("-")[0], 16)
        except ValueError:
            return
        if number >= 0 and compare_digest(self.identity(number).encode(), identity.encode(errors="replace")):
            self.done(number)

    def done(self, number: int) -> None:
        """Count an item as done, or as not put after all; a second time changes nothing."""
        with self._lock:
            at = number - self._first
            if not 0 <= at < len(self._open) or not self._open[at]:
                return
            self._open[at] = 0
            self._count -= 1
            oldest = self._open.find(1) if at == 0 else 0
            self._drop(len(self._open) if oldest < 0 else oldest)
            over = None if self._count else self._renew()
        if over is not None:
            over.tell(None)

    def lose(self) -> int:
        """Wait no longer for receipts of all items so far: none can arrive any more. Return how many had none."""
        with self._lock:
            lost, self._count = self._count, 0
            self._lost += lost
            self._drop(len(self._open))
            over = self._renew()
        over.tell(None)
        return lost

    def lost(self) -> int:
        """Return how many items were lost since this was last asked."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def end(self) -> None:
        """Wake all waiters: the object is closed."""
        with self._lock:
            over = self._renew()
        over.tell(None)

    def outcome(self) -> Outcome[None]:
        """Return an outcome that is set once no item is left."""
        with self._lock:
            if self._count:
                return self._over
            over = self._renew()
        over.tell(None)
        return over

    def __len__(self) -> int:
        return self._count

    def _drop(self, count: int) -> None:
        del self._open[:count]
        self._first += count

    def _renew(self) -> Outcome[None]:
        # In this order: a thread that puts, and waits, before the old one is set gets the new one.
        over, self._over = self._over, Outcome()
        return over


def conflict(queue: str, error: BaseException) -> ConfigurationError:
    """Return the error for a queue that exists with other arguments, or belongs to another connection."""
    passive = "declare='passive', which uses the queue as it is"
    same = f"give client.queue() the same queue_type= and maxsize=, or {passive}; or delete it, or use another name"
    if "'durable'" in str(error):
        same = f"give client.queue() {passive}, delete it, or use another name"
    remedy = f"No item was put or received; {same}"
    return declare.other_arguments(queue, error, than="this object's", remedy=remedy)


def missing(queue: str) -> ConfigurationError:
    """Return the error for a queue that does not exist, and that another program is to declare."""
    return ConfigurationError(
        f"there is no queue {queue!r}, and declare='passive' leaves it to another program to declare it: start that "
        "one first. No item was put or received"
    )


def closed(queue: str) -> ConfigurationError:
    """Return the error for an object that was closed."""
    return ConfigurationError(
        f"this object for queue {queue!r} is closed, or its client is; client.queue() makes another"
    )
