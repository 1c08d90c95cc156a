"""The contenders with tasks, and their workers: each worker is one process with one set of options.

The queue is durable and classic and its messages are persistent for all; ours has a quorum queue beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.contenders import FLOOR, OURS, Contender

_HERE = __name__.rpartition(".")[0]
#: Our queues, by type; `contenders.amqp_rpc.tasks` declares them.
OUR_QUEUES = {kind: f"bench.tasks.{kind}" for kind in ("classic", "quorum")}


@dataclass(frozen=True)
class Worker:
    """One process that runs a contender's tasks.

    Attributes:
        contender: The contender's name.
        variant: How it is set, as the tables say it.
        words: Its words after the interpreter.
        queue_type: The queue's.
        environment: Variables of its own.
        late: Whether a task is acknowledged after it ran, so that none is lost with its worker.
        results: Whether its tasks have results.
    """

    contender: str
    variant: str
    words: tuple[str, ...]
    queue_type: str = "classic"
    environment: Mapping[str, str] = field(default_factory=dict)
    late: bool = True
    results: bool = False


def _contender(name: str, folder: str, client: str, queue: str) -> Contender:
    return Contender(name, name, folder, (), ("-m", f"{_HERE}.{folder}.{client}"), queue)


TASKS = [
    _contender(OURS, "amqp_rpc", "task_client", OUR_QUEUES["classic"]),
    Contender(FLOOR, FLOOR, "c", (), ("task_client",), "bench.tasks.c"),
    _contender("raw-pika", "raw_pika", "task_client", "bench.tasks.pika"),
    _contender("dramatiq", "dramatiq", "client", "bench.tasks.dramatiq"),
    _contender("celery", "celery", "task_client", "bench.tasks.celery"),
]
#: Those that say of themselves that they run tasks; pika is shown beside.
PEERS = ["dramatiq", "celery"]


def _ours(variant: str, queue_type: str, *options: str, results: bool = False) -> Worker:
    words = ("-m", "amqp_rpc", "serve", f"{_HERE}.amqp_rpc.tasks:{queue_type}", *options)
    return Worker(OURS, variant, words, queue_type, results=results)


def _dramatiq(threads: int) -> Worker:
    words = ("-m", "dramatiq", "-p", "1", "-t", str(threads), f"{_HERE}.dramatiq.tasks")
    variant = f"{threads} thread{'s' if threads > 1 else ''}"
    return Worker("dramatiq", variant, words, environment={"dramatiq_queue_prefetch": "100"})


def _celery(pool: str, threads: int, *, late: bool) -> Worker:
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
    words = ("-m", "celery", "-A", f"{_HERE}.celery.tasks", "worker", "-P", pool, "-c", str(threads), *quiet)
    variant = f"{pool}{'' if late else ', acknowledges before it runs'}"
    environment = {"BENCH_THREADS": str(threads), "BENCH_ACKS": "late" if late else "early"}
    return Worker("celery", variant, words, environment=environment, late=late)


#: Ours as it is compared with the peers: the same queue type and prefetch, and no results.
_CLASSIC = _ours("", "classic", "--prefetch=100")
#: Ours with its defaults, except for the prefetch: on a quorum queue.
QUORUM = _ours("quorum", "quorum", "--prefetch=100")
WORKERS = [
    _CLASSIC,
    _ours("with results", "classic", "--prefetch=100", results=True),
    QUORUM,
    _ours("quorum, with results, default prefetch", "quorum", results=True),
    *(_dramatiq(threads) for threads in (1, 4, 8)),
    _celery("solo", 1, late=True),
    _celery("threads", 8, late=True),
    _celery("solo", 1, late=False),
]


def worker(contender: str, variant: str) -> Worker:
    """Return the worker of a name and a variant."""
    return next(each for each in WORKERS if (each.contender, each.variant) == (contender, variant))
