"""Many messages for the broker, each sent without waiting for the confirm of the one before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from amqp_rpc.errors import AmqpRpcError, ConfigurationError, NotAllAccepted

if TYPE_CHECKING:
    from amqp_rpc.amqp.outbox import Publication
    from amqp_rpc.client.caller import Caller

#: Messages that wait for the broker's confirm at the same time.
_UNCONFIRMED = 1000
#: Seconds that the broker has to answer for what was published before Ctrl-C.
_ANSWER = 1.0


def publish_all(
    caller: Caller,
    things: Iterable[Any],
    publish: Callable[[int, Any], Publication],
    *,
    note: Callable[[int], str],
) -> tuple[int, dict[int, AmqpRpcError]]:
    """Publish all; return, once the broker has answered for each, how many there were, and why it did not take some.

    Args:
        caller: The client's.
        things: What is published; it is read as the broker keeps up.
        publish: Publishes one, by its number from 0.
        note: Returns what is said of so many that were accepted, where an error ends it.

    Raises:
        ConfigurationError: Something among them makes no sense; what came before it was published.
    """
    count = sent = accepted = refused = 0
    errors: dict[int, AmqpRpcError] = {}
    waiting: deque[tuple[int, Publication]] = deque()

    def confirm(left: int) -> None:
        nonlocal accepted, refused
        while len(waiting) > left:
            number, publication = waiting.popleft()
            try:
                caller.confirmed(publication)
                accepted += 1
            except AmqpRpcError as error:
                errors[number] = error
                refused += not error.may_have_run

    try:
        for number, each in enumerate(things):
            count += 1
            try:
                waiting.append((number, publish(number, each)))
                sent += 1
            except ConfigurationError:
                raise
            except AmqpRpcError as error:
                errors[number] = error
            # Half of them at once: else each confirm that comes would wake this thread for one message.
            if len(waiting) >= _UNCONFIRMED:
                confirm(_UNCONFIRMED // 2)
    except BaseException as error:
        if not isinstance(error, Exception):
            _hurry(publication for _, publication in waiting)
        confirm(0)
        unknown = sent - accepted - refused
        error.add_note(note(accepted) + (f"; of {unknown} more it is not known" if unknown else ""))
        raise
    confirm(0)
    return count, errors


def _hurry(publications: Iterable[Publication]) -> None:
    """Have the broker's answer awaited for a moment only: Ctrl-C was pressed."""
    for publication in publications:
        publication.expires_at = min(publication.expires_at, time.monotonic() + _ANSWER)


def not_all(
    errors: dict[int, AmqpRpcError], *, of: str, others: str, handles: list[Any] | None = None
) -> NotAllAccepted:
    """Return what is raised where some were not accepted.

    Args:
        errors: Why, by their numbers.
        of: What all of them are: "7 events".
        others: What became of the others.
        handles: As for `NotAllAccepted`.
    """
    first, why = next(iter(sorted(errors.items())))
    return NotAllAccepted(
        f"{len(errors)} of {of} {'was' if len(errors) == 1 else 'were'} not accepted; the others {others}. "
        f"The first of them, number {first}: {why}",
        handles,
        errors,
    )
