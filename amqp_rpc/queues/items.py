"""Items of queues between processes as messages: written, read, and what says that they are done. Pure.

An item that somebody may wait for carries where its putter hears that it is done (``reply_to``), and an id: the
putter's, and a number. A receipt names the ids of items that are done, many in one message.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from amqp_rpc.errors import CodecError, Undecodable
from amqp_rpc.message import codec, topology
from amqp_rpc.message.codec import MSGPACK, PLAIN, base_type
from amqp_rpc.message.dead_letter import dead_letter
from amqp_rpc.message.envelope import Message, Properties
from amqp_rpc.message.headers import ITEM_ID
from amqp_rpc.message.settings import DEFAULT_MAX_MESSAGE_SIZE

#: What ``type`` says of an item that one of our clients has put, and of a receipt.
ITEM: Final = "item"
DONE: Final = "done"


def item(queue: str, body: bytes, *, putter: str, number: int, reply_to: str, now: float) -> Message:
    """Return the message of an item.

    Args:
        queue: Which it is put into.
        body: Its value, in msgpack.
        putter: Who puts it.
        number: Its number among theirs.
        reply_to: Where they hear that it is done.
        now: Unix time in seconds.
    """
    properties = Properties(
        content_type=MSGPACK,
        delivery_mode=2,
        reply_to=reply_to,
        message_id=f"{putter}-{number:x}",
        timestamp=int(now),
        type=ITEM,
    )
    return Message(queue, properties, body)


def value(properties: Properties, body: bytes, *, limit: int) -> Any:
    """Return the value of an item, ours or another program's; by its content type, as a task's arguments are read.

    Args:
        properties: As they came.
        body: As it came.
        limit: Bytes of it at most.

    Raises:
        Undecodable, MessageTooLarge: It can't be read.
    """
    try:
        if properties.content_encoding not in PLAIN:
            encoding = repr(properties.content_encoding)
            raise Undecodable(f"content encoding {encoding} is not known here; send none")  # noqa: TRY301 - one place
        return codec.decode(body, base_type(properties.content_type), limit=limit)
    except CodecError:
        raise
    # Another program's properties may be of any type.
    except Exception as error:
        raise Undecodable(f"the item could not be read: {error!r}") from error


def receipt_to(properties: Properties) -> str | None:
    """Return where an item's putter hears that it is done; None where nobody asks."""
    if properties.type != ITEM or not isinstance(properties.message_id, str):
        return None
    reply_to = properties.reply_to
    # Anybody may put an item: it must not make us write to any queue that it names.
    return reply_to if isinstance(reply_to, str) and topology.holds_receipts(reply_to) else None


def receipt(reply_to: str, identities: list[str]) -> Message:
    """Return the message that says that items are done."""
    body = codec.encode(identities, MSGPACK, limit=DEFAULT_MAX_MESSAGE_SIZE)
    return Message(reply_to, Properties(content_type=MSGPACK, delivery_mode=2, type=DONE), body)


def read_receipt(properties: Properties, body: bytes) -> list[tuple[str, int]]:
    """Return the putter and the number of each item that a receipt names; none where it can't be read."""
    if properties.type != DONE:
        return []
    try:
        identities = codec.decode(body, base_type(properties.content_type), limit=DEFAULT_MAX_MESSAGE_SIZE)
    except CodecError:
        return []
    return numbered(identities if isinstance(identities, list) else [])


def numbered(identities: Iterable[object]) -> list[tuple[str, int]]:
    """Return the putters and the numbers that items' ids say; nothing for what is no such id."""
    found: list[tuple[str, int]] = []
    for identity in identities:
        putter, _, number = identity.rpartition("-") if isinstance(identity, str) else ("", "", "")
        try:
            found.append((putter, int(number, 16)))
        except ValueError:
            continue
    return found


def dead(properties: Properties, body: bytes, *, queue: str, reason: str, identity: str, now: float) -> Message:
    """Return the dead letter that an item becomes which can't be read.

    Args:
        properties: As they came.
        body: As it came.
        queue: Where it was.
        reason: Why it can't be read.
        identity: Its own id: what anybody has put there may have any, or one that others have.
        now: Unix time in seconds.
    """
    return dead_letter(
        properties,
        body,
        queue=queue,
        reason=reason,
        now=now,
        details={ITEM_ID: properties.message_id} if isinstance(properties.message_id, str) else {},
        identity=identity,
    )
