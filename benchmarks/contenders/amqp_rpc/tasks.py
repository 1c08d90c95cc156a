"""The tasks that the bench enqueues: on a classic queue, as the peers' are, and on a quorum queue, our default.

``note`` has no result, as the peers' tasks; ``told`` has one, our default.
"""

from __future__ import annotations

from collections.abc import Callable

from amqp_rpc import Service
from amqp_rpc.service.policy import QueueType
from benchmarks.tally import TALLY


def tasks(
    queue_type: QueueType,
) -> tuple[Service, Callable[[str], None], Callable[[str], None], Callable[[str], str]]:
    """Return the tasks of a queue of a type."""
    service = Service(f"bench-{queue_type}")
    queue = f"bench.tasks.{queue_type}"

    @service.task(queue=queue, queue_type=queue_type, result=False)
    def note(text: str) -> None:
        TALLY.ran(text)

    @service.task(queue=queue, queue_type=queue_type)
    def told(text: str) -> None:
        TALLY.ran(text)

    @service.task(queue=queue, queue_type=queue_type)
    def echo(text: str) -> str:
        return text

    return service, note, told, echo


classic, note_classic, told_classic, echo_classic = tasks("classic")
quorum, note_quorum, told_quorum, echo_quorum = tasks("quorum")
