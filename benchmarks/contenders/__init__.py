"""The contenders: each is a folder here, with its server, its client and its pinned requirements.

The docstring of each folder's ``__init__.py`` has its settings for speed. Each runs with ``AMQP_URL``, ``BENCH_QUEUE``,
``BENCH_PREFETCH``, and the variables here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

#: The prefetch of every server, and the number of calls in flight.
PREFETCH = 100

OURS = "amqp_rpc"
#: Ours, with signed messages on both sides: in one case alone.
SIGNED = "amqp_rpc-signed"
FLOOR = "c-floor"


@dataclass(frozen=True)
class Contender:
    """A way to make calls.

    Attributes:
        name: Its name in ``--only`` and in the tables.
        family: The name that it shares with its other variants, for the targets.
        folder: Its folder.
        server: The arguments of the interpreter for its server; in C, the program.
        client: The same for its client.
        queue: The queue of its server, which is ready when the queue has a consumer.
        environment: Additional variables.
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
        """It is neither ours nor the floor."""
        return self.family not in (OURS, FLOOR)


def _module(folder: str, name: str) -> tuple[str, str]:
    return "-m", f"{__name__}.{folder}.{name}"


def serve(*options: str) -> tuple[str, ...]:
    """Return the arguments of the interpreter that serve our functions."""
    return "-m", "amqp_rpc", "serve", f"{__name__}.amqp_rpc.service:service", *options


def ours(name: str, service: str, *options: str, **environment: str) -> Contender:
    """Return ours, served under a name with options of ``amqp-rpc serve``."""
    client, variables = _module("amqp_rpc", "client"), {"BENCH_NAME": service, **environment}
    return Contender(name, OURS, "amqp_rpc", serve(*options), client, f"rpc_queue.{service}", variables)


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
    ours(
        SIGNED, "bench-signed", f"--prefetch={PREFETCH}", AMQP_RPC_KEYS=str(Path(__file__).parent / OURS / "bench.keys")
    ),
    Contender(FLOOR, FLOOR, "c", ("server",), ("client",), "bench.c"),
    _python("raw-pika", "raw-pika", "raw_pika"),
    _python("aio-pika", "aio-pika", "aio_pika"),
    _python("aio-pika-uvloop", "aio-pika", "aio_pika", BENCH_LOOP="uvloop"),
    _python("faststream", "faststream", "faststream"),
    _celery("solo", 1),
    _celery("threads", 8),
    _python("nameko", "nameko", "nameko", queue="rpc-bench"),
]
