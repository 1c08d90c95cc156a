"""The stage of a run: RabbitMQ nodes behind proxies, server processes and client processes.

Closing it ends every process that it started, in any state.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pika
import pika.exceptions

from amqp_rpc.broker.node import Node
from chaos.load import LONG, PATIENCE, SETTLE
from chaos.proxy import Proxy
from tests.nodes import START_TIMEOUT, Nodes

ROOT = Path(__file__).resolve().parent.parent
QUEUE = "rpc_queue.chaos"
SERVERS, CLIENTS = 3, 2
#: Seconds that a server has to finish its calls, more than the longest call takes.
DRAIN_TIMEOUT = 10
#: Seconds in which a node must accept clients, after its start or a partition: more than it needs on a busy machine.
NODE_TIMEOUT = START_TIMEOUT
#: Of a cut-off part of a cluster, the minority pauses: https://www.rabbitmq.com/docs/partitions (4.3 ignores it).
PARTITIONS = MappingProxyType({"cluster_partition_handling": "pause_minority"})


class Server:
    """An `amqp-rpc serve` process and its log."""

    def __init__(self, number: int, urls: list[str], folder: Path, *, served: str, threads: int) -> None:
        self.number = number
        self.log = folder / f"server-{number}.log"
        command = ["serve", served, "--processes=1", f"--threads={threads}", "--heartbeat=2", "--log-level=info"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "amqp_rpc", *command, f"--drain-timeout={DRAIN_TIMEOUT}"],
                env={**os.environ, "AMQP_URL": ",".join(urls), "CHAOS_FOLDER": str(folder)},
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def ready(self) -> bool:
        """Its log says that it serves."""
        return b"Ready." in self.log.read_bytes()

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


class Stage:
    """Nodes, proxies, servers and clients of one run.

    Args:
        nodes: The number of RabbitMQ nodes; several are a cluster.
        seed: The seed of the clients' load.
        folder: The folder of records and logs.
    """

    #: The module that the servers serve, the queues that it consumes, and the threads of each server.
    served_module = "chaos.served"
    queues: tuple[str, ...] = (QUEUE,)
    threads = 16
    #: Parameters of the nodes' applications: see `Node`.
    parameters: Mapping[str, Mapping[str, str]] = MappingProxyType({"rabbit": PARTITIONS})

    def __init__(self, *, nodes: int, seed: int, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Node] = []
        self.proxies: list[Proxy] = []
        self.servers: list[Server] = []
        #: Exit codes of servers that were drained, and servers that ended by themselves.
        self.drained: list[int] = []
        self.fallen: list[str] = []
        self.clients: list[subprocess.Popen[str]] = []
        self.seed = seed
        self._node_count = nodes
        self._numbers = 0
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            made = ends.enter_context(closing(Nodes()))
            ends.callback(self._end_programs)
            self.nodes += made.cluster(self._node_count, parameters=self.parameters)
            for node in self.nodes:
                ends.callback(node.close)
                self.proxies.append(ends.enter_context(closing(Proxy(node.port))))
            for _ in range(SERVERS):
                self.start_server()
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    @property
    def urls(self) -> list[str]:
        """The URLs of the nodes through the proxies."""
        return [proxy.url for proxy in self.proxies]

    @property
    def version(self) -> str:
        """The version of RabbitMQ."""
        return self.nodes[0].version

    def start_server(self) -> Server:
        """Start another server, and wait until it serves."""
        server = self.launch()
        until(lambda: server.ready or server.process.poll() is not None, timeout=40)
        if not server.ready:
            raise RuntimeError(f"server {server.number} did not start: {server.log.read_text()}")
        return server

    def launch(self) -> Server:
        """Start another server."""
        self._numbers += 1
        server = Server(self._numbers, self.urls, self.folder, served=self.served_module, threads=self.threads)
        self.servers.append(server)
        return server

    def kill_server(self, server: Server) -> None:
        """``kill -9`` a server."""
        server.kill()
        self.servers.remove(server)

    def drain_server(self, server: Server) -> None:
        """SIGTERM a server, and wait for its end."""
        server.process.send_signal(signal.SIGTERM)
        try:
            self.drained.append(server.process.wait(DRAIN_TIMEOUT + 15))
        except subprocess.TimeoutExpired:
            server.kill()
            self.drained.append(-signal.SIGKILL)
        self.servers.remove(server)

    def replace_fallen(self) -> None:
        """Record each server that ended by itself, and start another in its place."""
        for server in [each for each in self.servers if each.process.poll() is not None]:
            self.servers.remove(server)
            self.fallen.append(f"server {server.number} ended with {server.process.returncode}: {server.log}")
            self.start_server()

    def start_clients(self) -> None:
        """Start the clients, and wait until they call."""
        self.start_programs("chaos.load")
        for client in self.clients:
            assert client.stdout is not None
            if client.stdout.readline() != "ready\n":
                raise RuntimeError(f"a client did not start; see {self.folder}")

    def start_programs(self, module: str, *options: str) -> None:
        """Start the sending processes."""
        for number in range(1, CLIENTS + 1):
            urls = [f"--url={url}" for url in self.urls]
            with (self.folder / f"client-{number}.log").open("wb") as log:
                self.clients.append(subprocess.Popen(
                    [sys.executable, "-m", module, *urls, f"--number={number}", f"--seed={self.seed}",
                     f"--folder={self.folder}", *options],
                    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    start_new_session=True,
                ))  # fmt: skip

    def stop_clients(self) -> None:
        """Make the clients finish the calls in flight, and end."""
        for client in self.clients:
            assert client.stdin is not None
            client.stdin.close()
        for client in self.clients:
            with suppress(subprocess.TimeoutExpired):  # the verdict finds the calls that hang
                client.wait(LONG + PATIENCE + SETTLE + 10)

    def stop_servers(self) -> None:
        """Drain all servers."""
        for server in list(self.servers):
            self.drain_server(server)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Ask the nodes on an AMQP channel, and return the first answer; None if no node answers."""
        for node in self.nodes:
            parameters = pika.URLParameters(node.url)
            parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = 3
            with suppress(pika.exceptions.AMQPError, OSError, IndexError):
                connection = pika.BlockingConnection(parameters)
                try:
                    return question(connection.channel())
                finally:
                    with suppress(pika.exceptions.AMQPError):
                        connection.close()
        return None

    def consumers(self) -> int:
        """Return the number of servers that consume the queues, according to the broker."""
        counts = self.ask(
            lambda channel: [channel.queue_declare(name, passive=True).method.consumer_count for name in self.queues]
        )
        return min(counts) if counts else 0

    def served(self, timeout: float) -> bool:
        """Wait until a server consumes; return whether one does in time."""
        return until(self.consumers, timeout=timeout)

    def whole(self, timeout: float) -> bool:
        """Wait until all servers consume again, and no dead one; return whether they do in time."""
        return until(lambda: self.consumers() == SERVERS, timeout=timeout, pause=0.1)

    def _end_programs(self) -> None:
        for server in self.servers:
            server.kill()
        for client in self.clients:
            client.kill()
            client.wait()
            for pipe in (client.stdin, client.stdout):
                if pipe is not None:
                    pipe.close()


def until(condition: Callable[[], object], *, timeout: float, pause: float = 0.02) -> bool:
    """Poll a condition; return whether it came true in time."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True
