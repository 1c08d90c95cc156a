"""The stage for tasks and events: workers that are replaced when they die, producers, and what the queues have left."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amqp_rpc.broker.errors import ControlFailed
from amqp_rpc.message import codec
from amqp_rpc.message.topology import bindings_record, dead_letter_queue
from chaos.stage import CLIENTS, SERVERS, Server, Stage, until
from chaos.tasks.history import TaskHistory
from chaos.tasks.ledger import Ledger
from chaos.tasks.served import BOUNDED, CLASSIC, QUEUE, event_key, service

#: Seconds between two looks for workers that died.
_LOOK = 0.2
#: Seconds for all that was accepted to come to its end once the faults are over, and for the queues to say so.
SETTLE = 300.0
#: Seconds after which RabbitMQ hands on again what a queue that was full, or away, did not take when its delay was
#: over. By default it is three minutes, and a task that finds its queue full would be tried once in a run, or twice.
AGAIN = 5
#: Bytes of the largest arguments.
_LARGEST = 1024 * 1024


class TaskStage(Stage):
    """A `Stage` whose servers are workers; the arguments are those of `Stage`."""

    served_module = "chaos.tasks.served"
    queues = (QUEUE, CLASSIC, BOUNDED, *(each.queue for each in service.subscriptions))
    threads = 6
    parameters = MappingProxyType({"rabbit": {"dead_letter_worker_publisher_confirm_timeout": str(AGAIN * 1000)}})

    def __init__(self, *, nodes: int, seed: int, folder: Path) -> None:
        super().__init__(nodes=nodes, seed=seed, folder=folder)
        #: Workers that ended though nobody told them: process id and exit code; and those that were told, likewise.
        self.died: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.draining: list[Server] = []
        # Two threads start and end workers: who injects, and who replaces the dead.
        self._lock = threading.RLock()
        self._keeping = threading.Event()
        self._over = threading.Event()

    def start_server(self) -> Server:
        """Start one more worker, and wait until it serves; one that dies before is replaced like any other."""
        with self._lock:
            server = self.launch()
        until(lambda: server.ready or server.process.poll() is not None, timeout=40)
        return server

    def kill_server(self, server: Server) -> None:
        """``kill -9`` one, or another where a task was faster."""
        with self._lock:
            super().kill_server(server if server in self.servers else self.servers[0])

    def drain_server(self, server: Server) -> None:
        """SIGTERM one, or another where a task was faster, and wait for its end; none where there is none too many."""
        with self._lock:
            # A task has ended one meanwhile: there is none too many.
            if len(self.servers) <= SERVERS:
                return
            if server not in self.servers:
                server = self.servers[0]
            self.servers.remove(server)
            self.draining.append(server)
        server.process.send_signal(signal.SIGTERM)
        if not until(lambda: server.process.poll() is not None, timeout=25):
            self.fallen.append(f"worker {server.number} was told to drain, and did not end: {server.log}")
            server.kill()
        self.ended.append((server.process.pid, server.process.returncode))

    def replace_fallen(self) -> None:
        """Start a worker for each that has ended, and remember how it did."""
        with self._lock:
            for server in [each for each in self.servers if each.process.poll() is not None]:
                self.servers.remove(server)
                # While there is no broker a worker that starts says so and ends.
                if server.ready:
                    self.died.append((server.process.pid, server.process.returncode))
                if len(self.servers) < SERVERS:
                    self.launch()

    def begin(self) -> None:
        """Begin to replace workers that die."""
        # It starts processes that die with the thread that did: it ends after them.
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()
        self._keeping.set()

    def produce(self, tasks: int, seconds: float) -> None:
        """Start the producers."""
        self.start_programs("chaos.tasks.load", f"--tasks={tasks // CLIENTS}", f"--seconds={seconds}")

    def producing(self) -> bool:
        """Return whether some are not done yet."""
        return any(client.poll() is None for client in self.clients)

    def settle(self) -> bool:
        """Wait until all that was accepted has ended or is a dead letter, and the queues are empty."""
        dead = [dead_letter_queue(name) for name in self.queues]

        def accounted() -> bool:
            letters = self.ask(
                lambda channel: sum(channel.queue_declare(name, passive=True).method.message_count for name in dead)
            )
            missing = TaskHistory.read(self.folder).missing()
            return letters is not None and len(missing) <= letters

        return until(lambda: accounted() and not self.left(), timeout=SETTLE, pause=2)

    def left(self) -> dict[str, str]:
        """Return the messages that the queues have, those of dead letters apart; a queue that is broken says so."""
        for node in self.nodes:
            with suppress(ControlFailed):
                lines = node.ctl("list_queues", "name", "messages", "--no-table-headers").splitlines()
                counts = dict(line.split("\t", 1) for line in lines if "\t" in line)
                return {
                    name: count
                    for name, count in counts.items()
                    if count != "0"
                    and not name.endswith(dead_letter_queue(""))
                    and not name.startswith(("amq.", bindings_record("")))
                }
        return {"all": "no node answers"}

    def read_dead(self) -> list[str]:
        """Take all dead letters out of their queues, and record them; return the queues where that could not be."""
        ledger = Ledger(self.folder, "dead")
        subscriptions = {each.queue: each.name for each in service.subscriptions}

        def take(channel: Any, queue: str) -> bool:
            while True:
                method, properties, body = channel.basic_get(dead_letter_queue(queue))
                if method is None:
                    return True
                headers = properties.headers
                content = codec.decode(body, properties.content_type, limit=_LARGEST)
                if function := subscriptions.get(queue):
                    key = event_key(content["key"], function)
                else:
                    (key, *_), _named = content
                ledger.add(
                    "dead", key=key, id=properties.message_id, queue=queue, reason=headers["reason"],
                    attempt=headers["attempt"], crashes=headers["crashes"],
                )  # fmt: skip
                channel.basic_ack(method.delivery_tag)

        def taken(queue: str) -> bool:
            return until(lambda: self.ask(lambda channel: take(channel, queue)), timeout=30, pause=1)

        return [queue for queue in self.queues if not taken(queue)]

    def finish(self) -> None:
        """Drain all workers; none is replaced any more."""
        self._keeping.clear()
        with self._lock:
            self.replace_fallen()
        until(lambda: all(each.ready for each in self.servers), timeout=20)
        self.stop_servers()

    def _keep(self) -> None:
        while not self._over.wait(_LOOK):
            if self._keeping.is_set():
                self.replace_fallen()

    def _end_programs(self) -> None:
        self._keeping.clear()
        with self._lock:
            super()._end_programs()
            for server in self.draining:
                server.kill()
        self._over.set()
