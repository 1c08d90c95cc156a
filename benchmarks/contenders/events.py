"""The contenders with events; all have durable queues at a durable topic exchange, persistent messages and confirms.

Publishing is measured with one queue, fan-out with ten queues, each with a subscriber that acks. All subscribers of a
contender are in one process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.contenders import OURS, Contender

_HERE = __name__.rpartition(".")[0]

AIO_PIKA, KOMBU, FASTSTREAM = "aio-pika", "kombu", "faststream"
#: The types of the queues.
TYPES = ["quorum", "classic"]
SUBSCRIBERS = 10


@dataclass(frozen=True)
class Subscribers:
    """One process with all of a contender's subscribers to one exchange.

    Attributes:
        contender: The name of the contender.
        words: Its arguments of the interpreter.
        queue_type: The type of its queues.
        environment: Additional variables.
    """

    contender: str
    words: tuple[str, ...]
    queue_type: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def exchange(self) -> str:
        """The exchange of its events."""
        return f"bench.fan.{self.contender}.{self.queue_type}"

    @property
    def queues(self) -> list[str]:
        """The queues of its subscribers."""
        return [fan_queue(self.exchange, number) for number in range(SUBSCRIBERS)]


def fan_queue(exchange: str, number: int) -> str:
    """Return the queue of a subscriber."""
    return f"{exchange}.{number}"


def _client(name: str, family: str, folder: str, client: str, **environment: str) -> Contender:
    return Contender(name, family, folder, (), ("-m", f"{_HERE}.{folder}.{client}"), "", environment)


EVENTS = [
    _client(OURS, OURS, "amqp_rpc", "event_client"),
    _client("aio-pika", AIO_PIKA, "aio_pika", "event_client"),
    _client("aio-pika-uvloop", AIO_PIKA, "aio_pika", "event_client", BENCH_LOOP="uvloop"),
    _client(KOMBU, KOMBU, "kombu", "event_client"),
    _client(FASTSTREAM, FASTSTREAM, "faststream", "event_client"),
]


def _ours(queue_type: str) -> Subscribers:
    words = ("-m", "amqp_rpc", "serve", f"{_HERE}.amqp_rpc.events:{queue_type}", "--prefetch=100")
    return Subscribers(OURS, words, queue_type)


def _faststream(queue_type: str) -> Subscribers:
    words = ("-m", f"{_HERE}.faststream.subscribers")
    return Subscribers(FASTSTREAM, words, queue_type, {"BENCH_QUEUE_TYPE": queue_type})


FAN_OUT = {(each.contender, each.queue_type): each for kind in TYPES for each in (_ours(kind), _faststream(kind))}
