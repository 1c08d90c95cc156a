"""Delays that the broker keeps: which levels a message passes, and by which routing key. Pure.

A message that is to come later passes a chain of queues, one for each bit of its delay: level k holds what has that bit
set for 2^k units, by a time to live that is the same for all of its messages, and hands it to the next lower level;
what has not passes at once. So no message ever waits behind one that waits longer, as it would in one queue with a time
to live for each message, which expire only at a queue's head (https://www.rabbitmq.com/docs/ttl); any delay works
without a plugin, and survives restarts. NServiceBus and Celery delay in the same way:
https://docs.particular.net/transports/rabbitmq/delayed-delivery
"""

from __future__ import annotations

import math

from amqp_rpc.errors import ConfigurationError
from amqp_rpc.message.topology import LONGEST_NAME

#: Seconds of level 0: delays are rounded up to a multiple of it, and a task comes no earlier.
UNIT = 0.1
#: Levels: the longest delay is 2^28 - 1 units, 310 days.
LEVELS = 28
#: Bytes of the name of a queue that can have delays: the rest of a routing key is bits and dots.
LONGEST_DELAYED_NAME = LONGEST_NAME - 2 * LEVELS
#: The longest delay in seconds.
LONGEST_DELAY = (2**LEVELS - 1) * UNIT


def units(seconds: float) -> int:
    """Return a delay in units: never less than was asked for.

    Raises:
        ConfigurationError: It is negative, no number, or longer than `LONGEST_DELAY`.

    Example:
        >>> units(0.25), units(30)
        (3, 300)
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_DELAY:
        raise ConfigurationError(
            f"a delay is a number of seconds from 0 to {LONGEST_DELAY:.0f} (310 days), not {seconds!r}"
        )
    # Rounded first: 0.3 / 0.1 is a little more than 3 in binary.
    return math.ceil(round(seconds / UNIT, 6))


def highest_level(count: int) -> int:
    """Return the level at which a delay of so many units begins."""
    return max(0, count.bit_length() - 1)


def delayed_key(count: int, queue: str) -> str:
    """Return the routing key of a message for ``queue`` in so many units: its bits, from the highest, and the name.

    Raises:
        ConfigurationError: The queue's name is too long for it.

    Example:
        >>> delayed_key(5, "thumbnails")[-20:]
        '.0.1.0.1.thumbnails'
    """
    bits = ".".join(str(count >> level & 1) for level in reversed(range(LEVELS)))
    key = f"{bits}.{queue}"
    if len(key.encode()) > LONGEST_NAME:
        raise ConfigurationError(
            f"queue {queue[:40]!r}… can't have delays: its name has more than {LONGEST_DELAYED_NAME} bytes"
        )
    return key


def held(level: int) -> str:
    """Return the binding of what a level holds: its bit is set."""
    return _binding(level, "1")


def passed(level: int) -> str:
    """Return the binding of what passes a level at once: its bit is not set."""
    return _binding(level, "0")


def arrived(queue: str) -> str:
    """Return the binding of what has passed all levels and is for ``queue``."""
    return ".".join(["*"] * LEVELS) + f".{queue}"


def _binding(level: int, bit: str) -> str:
    return ".".join([*["*"] * (LEVELS - 1 - level), bit, "#"])
