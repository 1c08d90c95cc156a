"""The broker's refusals: what a reply code and its text say together. Pure: no socket, no channel.

One code stands for many reasons. 406 is a queue with other arguments, a limit on queues, and a message that is too
large; 530 is a virtual host that does not exist, and a limit on connections. The texts are RabbitMQ's, 3.10 to 4.3.

403 says which queue or exchange, and before RabbitMQ 4 not which right: `Rights` knows what was asked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from amqp_rpc.errors import AccessRefused, BrokerError, MessageTooLarge, NotConnected
from amqp_rpc.message.settings import Address
from amqp_rpc.message.text import quoted
from amqp_rpc.message.topology import DEFAULT_EXCHANGE, NAMED_BY_BROKER, pattern


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


#: The rights of a user: https://www.rabbitmq.com/docs/access-control#authorisation
CONFIGURE: Final = "configure"
WRITE: Final = "write"
READ: Final = "read"
#: A right, and the name of the queue or the exchange that it is about.
Need = tuple[str, str]

#: What separates the words of a name in a pattern; and the most characters of a command in an error.
_DOT = "\\."
_LONGEST_COMMAND = 1000

_NOT_ALLOWED = re.compile(
    r"(?:(configure|write|read) )?access to (?:topic '(.*?)' in )?(queue|exchange) '(.*?)' in vhost '(.*?)' refused "
    r"for user '(.*?)'"
)


def permissions(user: str, vhost: str, needs: Iterable[Need]) -> str:
    r"""Return the command that gives a user these rights, and no others.

    Example:
        >>> print(permissions("ann", "/", [("write", "amqp_rpc.events")]))
        rabbitmqctl set_permissions -p / ann '^$' '^amqp_rpc\.events$' '^$'
    """
    patterns = [shlex.quote(each) for each in three_patterns(needs)]
    return f"rabbitmqctl set_permissions -p {shlex.quote(vhost)} {shlex.quote(user)} {' '.join(patterns)}"


def three_patterns(needs: Iterable[Need]) -> tuple[str, str, str]:
    """Return the regular expressions of what may be configured, written and read."""
    needs = set(needs)
    configure, write, read = (
        _any_of({pattern(name or DEFAULT_EXCHANGE) for right, name in needs if right == each})
        for each in (CONFIGURE, WRITE, READ)
    )
    return configure, write, read


def _any_of(patterns: Iterable[str]) -> str:
    return f"^{_joined([each.split(_DOT) for each in sorted(patterns)])}$"


def _joined(names: list[list[str]]) -> str:
    """Return one regular expression of names, each in its words, with their common beginnings once."""
    first = dict.fromkeys(name[0] for name in names if name)
    each = []
    for word in first:
        rest = [name[1:] for name in names if name and name[0] == word]
        longer = [name for name in rest if name]
        more = _DOT + _joined(longer) if longer else ""
        each.append(word + (f"({more})?" if more and [] in rest else more))
    return f"({'|'.join(each)})" if len(each) > 1 else "".join(each)


class Rights:
    """The rights that a program has used as one user: for the command that gives it those, and the one that it lacks.

    The command replaces all patterns of the user, so it names what worked as well.
    """

    def __init__(self) -> None:
        self._used: set[Need] = set()
        #: The exchanges to which messages were published, by their names.
        self.written: set[str] = set()

    def use(self, needs: Iterable[Need]) -> None:
        """Note rights that a request needed which the broker has served."""
        self._used.update((right, _alike(name)) for right, name in needs)

    def missing(self, text: str, needs: Iterable[Need]) -> str:
        """Return the words for the text of a refusal: the missing right, and the command that gives it.

        Args:
            text: The broker's.
            needs: The rights that the request needs; none if it was a message.
        """
        found = _NOT_ALLOWED.search(text)
        if found is None:
            return ""
        said, topic, kind, name, vhost, user = found.groups()
        asked = [(right, _alike(each)) for right, each in needs]
        likely = WRITE if kind == "exchange" else READ
        if said == CONFIGURE and not asked:
            # A question whether something exists, which from RabbitMQ 4.2.6 on needs a right to it, whichever it is:
            # https://github.com/rabbitmq/rabbitmq-server/pull/16272
            said = likely
        rights = [said] if said else [right for right, each in asked if each == _alike(name)] or [likely]
        lacking = f". User {user!r} lacks the right to {' or '.join(rights)}"
        if topic is not None:
            write, read = (f"^{pattern(topic)}$" if each in rights else ".*" for each in (WRITE, READ))
            words = "-p", vhost, user, name, write, read
            return f"{lacking} topic {topic!r}: rabbitmqctl set_topic_permissions {' '.join(map(shlex.quote, words))}"
        used = {*self._used, *asked, *((right, name) for right in rights), *((WRITE, each) for each in self.written)}
        if any(right == CONFIGURE and each.startswith(NAMED_BY_BROKER) for right, each in used):
            # It will be consumed.
            used.add((READ, NAMED_BY_BROKER))
        command = permissions(user, vhost, used)
        if len(command) > _LONGEST_COMMAND:
            of = f"--vhost {shlex.quote(vhost)} --user {shlex.quote(user)}"
            return (
                f"{lacking} {kind} {name!r}. All that it needs is printed by: amqp-rpc permissions server MODULE {of}"
            )
        return f"{lacking} {kind} {name!r}. What this program has done so far, and this, needs: {command}"


def _alike(name: str) -> str:
    """Return a name as the broker's refusals have it; the same for all that the broker chooses."""
    return NAMED_BY_BROKER if name.startswith(NAMED_BY_BROKER) else name or DEFAULT_EXCHANGE
