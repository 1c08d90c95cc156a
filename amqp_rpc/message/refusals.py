"""The broker's refusals: what a reply code and its text say together. Pure: no socket, no channel.

One code stands for many reasons. 406 is a queue with other arguments, a limit on queues, and a message that is too
large; 530 is a virtual host that does not exist, and a limit on connections. The texts are RabbitMQ's, 3.10 to 4.3.
"""

from __future__ import annotations

import re
from enum import IntEnum

from amqp_rpc.errors import AccessRefused, BrokerError, MessageTooLarge, NotConnected
from amqp_rpc.message.settings import Address
from amqp_rpc.message.text import quoted


class ReplyCode(IntEnum):
    """Why the broker closed a channel, or the connection: AMQP 0-9-1, section 1.1."""

    CONNECTION_FORCED = 320
    ACCESS_REFUSED = 403
    NOT_FOUND = 404
    RESOURCE_LOCKED = 405
    PRECONDITION_FAILED = 406
    NOT_ALLOWED = 530


_LIMIT = re.compile(r"\blimit\b.* is reached|has reached the (maximum|negotiated)|connection limit", re.DOTALL)
_TOO_LARGE = re.compile(r"message size \d+ (?:is )?larger than (?:configured )?max size (\d+)")
_TIMED_OUT = re.compile(
    r"delivery acknowledgement on channel .*timed out(?:\. Timeout value used: (\d+) ms)?", re.DOTALL
)
#: The first is of a queue or an exchange, the second of a queue, the third of an exchange whose kind differs.
_OTHERWISE = ("inequivalent arg", "exclusive access", "cannot redeclare exchange")


def is_limit(text: str) -> bool:
    """Return whether a bound on connections, channels, queues or exchanges is reached: of the user, host or node."""
    return _LIMIT.search(text) is not None


def is_access(code: int, text: str) -> bool:
    """Return whether the same request would be refused again: a right is missing, or a bound is reached."""
    return code in (ReplyCode.ACCESS_REFUSED, ReplyCode.NOT_ALLOWED) or is_limit(text)


def is_conflict(text: str) -> bool:
    """Return whether a queue or an exchange exists, and is declared otherwise, or is another connection's."""
    return any(words in text for words in _OTHERWISE)


def body_too_large(size: int, limit: int) -> MessageTooLarge:
    """Return the error for a body that is larger than the broker takes."""
    return MessageTooLarge(
        f"its body has {size} bytes, and the broker's limit is {limit} (max_message_size in rabbitmq.conf)"
    )


def largest_body(text: str) -> int | None:
    """Return the broker's limit on the bytes of a body, where it has refused a larger one."""
    found = _TOO_LARGE.search(text)
    return int(found[1]) if found else None


def connection_refused(code: int, text: str, address: Address) -> BrokerError:
    """Return the error for an attempt to connect that the broker refused: its code alone does not say why."""
    broker = f"the broker at {address}"
    by_certificate = address.auth_mechanism == "external"
    user = "the user that the client's certificate names" if by_certificate else f"user {address.user!r}"
    if not is_access(code, text):
        return NotConnected(f"{broker} closed the connection while it was being opened: {code} {text}")
    if is_limit(text):
        return AccessRefused(f"{broker} refused the connection, since a limit is reached: {code} {text}")
    if "vhost" in text:
        return AccessRefused(
            f"{broker} refused virtual host {address.vhost!r}: "
            f"it does not exist, or {user} may not use it ({code} {text})"
        )
    if code == ReplyCode.ACCESS_REFUSED:
        why = "it has no such user" if by_certificate else "wrong user name or password"
        return AccessRefused(f"{broker} refused {user}: {why} ({code} {text})")
    return AccessRefused(f"{broker} refused the connection: {code} {text}")


def login_not_offered(wanted: str, offered: list[str], address: Address) -> AccessRefused:
    """Return the error for a broker that does not offer the kind of login that is wanted."""
    others = quoted(", ".join(offered), 200) or "nothing"
    if wanted == "EXTERNAL":
        advice = "auth_mechanisms in its rabbitmq.conf must list it; the plugin is rabbitmq_auth_mechanism_ssl"
    elif "EXTERNAL" in offered:
        advice = "auth_mechanism=external, with certfile= and keyfile=, is the login by certificate"
    else:
        advice = "auth_mechanisms in its rabbitmq.conf must list it"
    return AccessRefused(f"the broker at {address} does not offer the login {wanted}, but {others}: {advice}")


def consumer_timeout(text: str) -> str | None:
    """Return the text for a delivery that was unacked for too long, with advice; None for other refusals.

    https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
    """
    found = _TIMED_OUT.search(text)
    if found is None:
        return None
    seconds = f" of {int(found[1]) / 1000:g} s" if found[1] else ""
    return (
        f"a delivery was unacked for longer than the broker's consumer_timeout{seconds}. Its handler goes on, and the "
        "broker delivers it again. Give it less to do, or raise consumer_timeout in rabbitmq.conf"
    )
