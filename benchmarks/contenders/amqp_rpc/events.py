"""The subscribers that the bench serves: ten to one exchange, with queues of one type or the other."""

from __future__ import annotations

from collections.abc import Callable

from amqp_rpc import Service
from amqp_rpc.service.policy import QueueType
from benchmarks.contenders import OURS
from benchmarks.contenders.events import FAN_OUT
from benchmarks.tally import TALLY


def subscribers(queue_type: QueueType) -> Service:
    """Return a service with all of them."""
    service = Service(f"bench-fan-{queue_type}")
    its = FAN_OUT[OURS, queue_type]

    def handler(number: int) -> Callable[[str], None]:
        def note(text: str) -> None:
            TALLY.ran(f"{number} {text}")

        return note

    for number, queue in enumerate(its.queues):
        service.subscribe("#", exchange=its.exchange, name=f"note_{number}", queue=queue, queue_type=queue_type)(
            handler(number)
        )
    return service


classic = subscribers("classic")
quorum = subscribers("quorum")
