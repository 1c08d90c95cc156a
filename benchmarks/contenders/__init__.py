"""Who is measured: each contender is a folder here, with its server, its client and its pinned requirements.

How each is set for speed is said in its folder, in ``__init__.py``. It runs with these variables: ``AMQP_URL``,
``BENCH_QUEUE``, ``BENCH_PREFETCH``, and those that stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: How many messages every server takes at once, and how many calls are in flight.
PREFETCH = 100

OURS = "amqp_rpc"
FLOOR = "c-floor"


@dataclass(frozen=True)
class Contender:
    """A way to make calls.

    Attributes:
        name: What ``--only`` and the tables call it.
        family: What the targets call it, and its other variants.
        folder: Its folder here.
        server: Its server's words after the interpreter; in C, the program.
        client: Its client's words.
        queue: The queue that its server consumes; it is ready when somebody does.
        environment: Variables of its own.
    """

    name: str
    family: str
    folder: str
    server: tuple[str, ...]
    client: tuple[str, ...]
    queue: str
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_peer(self) -> bool:
        """Whether it is neither ours nor the floor."""
        return self.family not in (OURS, FLOOR)


def _module(folder: str, name: str) -> tuple[str, str]:
    return "-m", f"{__name__}.{folder}.{name}"


def serve(*options: str) -> tuple[str, ...]:
    """Return the words that serve our functions."""
    return "-m", "amqp_rpc", "serve", f"{__name__}.amqp_rpc.service:service", *options


def ours(name: str, service: str, *options: str) -> Contender:
    """Return ours, served under a name with options of ``amqp-rpc serve``."""
    client = _module("amqp_rpc", "client")
    return Contender(name, OURS, "amqp_rpc", serve(*options), client, f"rpc_queue.{service}", {"BENCH_NAME": service})


def _python(name: str, family: str, folder: str, *, queue: str = "", **environment: str) -> Contender:
    queue = queue or f"bench.{name}"
    return Contender(name, family, folder, _module(folder, "server"), _module(folder, "client"), queue, environment)


def _celery(pool: str, threads: int) -> Contender:
    name = f"celery-{pool}"
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING")
    words = ("-m", "celery", "-A", f"{__name__}.celery.app", "worker", "-P", pool, "-c", str(threads), *quiet)
    environment = {"BENCH_THREADS": str(threads)}
    return Contender(name, "celery", "celery", words, _module("celery", "client"), f"bench.{name}", environment)


ALL = [
    ours(OURS, "bench", f"--prefetch={PREFETCH}"),
    ours("amqp_rpc-defaults", "bench-defaults"),
    Contender(FLOOR, FLOOR, "c", ("server",), ("client",), "bench.c"),
    _python("raw-pika", "raw-pika", "raw_pika"),
    _python("aio-pika", "aio-pika", "aio_pika"),
    _python("aio-pika-uvloop", "aio-pika", "aio_pika", BENCH_LOOP="uvloop"),
    _python("faststream", "faststream", "faststream"),
    _celery("solo", 1),
    _celery("threads", 8),
    _python("nameko", "nameko", "nameko", queue="rpc-bench"),
]
