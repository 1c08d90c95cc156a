"""The stage for tasks and events: workers that are replaced when they die, producers, and the rest in the queues."""

from __future__ import annotations

import math
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from amqp_rpc.broker.errors import ControlFailed
from amqp_rpc.message import codec
from amqp_rpc.message.topology import bindings_record, dead_letter_queue
from chaos.stage import CLIENTS, PARTITIONS, SERVERS, Server, Stage, until
from chaos.tasks.history import TaskHistory
from chaos.tasks.ledger import Ledger, recorded
from chaos.tasks.served import BOUNDED, CLASSIC, QUEUE, event_key, service

#: The poll interval for workers that died.
_LOOK = 0.2
#: The same for the end of all tasks.
_SETTLED_LOOK = 2.0
#: Seconds after which a queue's count has been taken anew: RabbitMQ's ``quorum_tick_interval``, and a moment.
_OLDEST_COUNT = 6.0
#: Seconds without progress after which tasks that are left count as stuck: longer than any delay, retry or start of a
#: worker. And the most seconds after the last fault, for tasks that run again and again.
STUCK, SETTLE = 60.0, 900.0
#: Seconds after which RabbitMQ sends a task again whose queue was full or away at the end of its delay. The default of
#: three minutes would allow one or two attempts in a run.
AGAIN = 5
#: Bytes of the largest arguments.
_LARGEST = 1024 * 1024


class Patience:
    """The limit on the wait for the last tasks, after the last fault: it ends when there is no progress.

    A busy machine is slow, and loses nothing. A task that "kills its workers" needs eight of them, one after another.
    So there is no limit on the time that the tasks need together, but two others. There is progress when fewer messages
    are left in the queues than ever before, or when an execution has begun or ended. Tasks that are left after `STUCK`
    seconds without progress are stuck. Tasks that are left after `SETTLE` seconds run again and again. Pure.

    Args:
        now: The time of the last fault's end.
    """

    def __init__(self, now: float) -> None:
        self._end = now + SETTLE
        self._moved = now
        self._fewest = math.inf
        self._executions = 0

    def lasts(self, now: float, *, left: float, executions: int) -> bool:
        """Return whether to wait on, with so many messages left and so many begins and ends of executions recorded."""
        if left < self._fewest or executions > self._executions:
            self._moved = now
        self._fewest, self._executions = min(left, self._fewest), executions
        return now < min(self._moved + STUCK, self._end)


class TaskStage(Stage):
    """A `Stage` whose servers are workers; the arguments are those of `Stage`."""

    served_module = "chaos.tasks.served"
    queues = (QUEUE, CLASSIC, BOUNDED, *(each.queue for each in service.subscriptions))
    threads = 6
    parameters = MappingProxyType(
        {"rabbit": {**PARTITIONS, "dead_letter_worker_publisher_confirm_timeout": str(AGAIN * 1000)}}
    )

    def __init__(self, *, nodes: int, seed: int, folder: Path) -> None:
        super().__init__(nodes=nodes, seed=seed, folder=folder)
        #: Workers that ended by themselves, and those that were stopped: process id and exit code.
        self.died: list[tuple[int, int]] = []
        self.ended: list[tuple[int, int]] = []
        self.draining: list[Server] = []
        # Two threads start and end workers: the one that injects faults, and the one that replaces dead workers.
        self._lock = threading.RLock()
        self._keeping = threading.Event()
        self._over = threading.Event()

    def start_server(self) -> Server:
        """Start another worker, and wait until it serves; one that dies before is replaced like any other."""
        with self._lock:
            server = self.launch()
        until(lambda: server.ready or server.process.poll() is not None, timeout=40)
        return server

    def kill_server(self, server: Server) -> None:
        """``kill -9`` a worker, or another one if a task has killed it."""
        with self._lock:
            super().kill_server(server if server in self.servers else self.servers[0])

    def drain_server(self, server: Server) -> None:
        """SIGTERM a worker, or another one if a task has killed it, and wait for its end; none if none is too many."""
        with self._lock:
            # A task has killed one meanwhile, so none is too many.
            if len(self.servers) <= SERVERS:
                return
            if server not in self.servers:
                server = self.servers[0]
            self.servers.remove(server)
            self.draining.append(server)
        server.process.send_signal(signal.SIGTERM)
        if not until(lambda: server.process.poll() is not None, timeout=25):
            self.fallen.append(f"worker {server.number} did not end when it was drained: {server.log}")
            server.kill()
        self.ended.append((server.process.pid, server.process.returncode))

    def replace_fallen(self) -> None:
        """Record each worker that has ended, and start another in its place."""
        with self._lock:
            for server in [each for each in self.servers if each.process.poll() is not None]:
                self.servers.remove(server)
                # Without a broker, a worker that starts reports that and ends.
                if server.ready:
                    self.died.append((server.process.pid, server.process.returncode))
                if len(self.servers) < SERVERS:
                    self.launch()

    def begin(self) -> None:
        """Start replacing workers that die."""
        # Its processes die with the thread that started them, so this thread outlives them.
        threading.Thread(target=self._keep, name="keeper", daemon=True).start()
        self._keeping.set()

    def produce(self, tasks: int, seconds: float) -> None:
        """Start the producers."""
        self.start_programs("chaos.tasks.load", f"--tasks={tasks // CLIENTS}", f"--seconds={seconds}")

    def producing(self) -> bool:
        """Return whether a producer still runs."""
        return any(client.poll() is None for client in self.clients)

    def settle(self) -> bool:
        """Wait until every accepted task has finished or is a dead letter, and the queues are empty.

        Return whether that came true before the end of `Patience`.
        """
        dead = [dead_letter_queue(name) for name in self.queues]

        def accounted() -> bool:
            letters = self.ask(
                lambda channel: sum(channel.queue_declare(name, passive=True).method.message_count for name in dead)
            )
            missing = TaskHistory.read(self.folder).missing()
            return letters is not None and len(missing) <= letters

        def left_later() -> dict[str, str]:
            # A quorum queue's counts are up to five seconds old, and a task on its way from one queue to another may be
            # in neither count.
            time.sleep(_OLDEST_COUNT)
            return self.left()

        patience = Patience(time.monotonic())
        # In this order: to read all records takes long.
        while (left := self.left()) or not accounted() or (left := left_later()):
            messages = sum(int(count) if count.isdecimal() else math.inf for count in left.values())
            if not patience.lasts(time.monotonic(), left=messages, executions=recorded(self.folder)):
                return False
            time.sleep(_SETTLED_LOOK)
        return True

    def left(self) -> dict[str, str]:
        """Return the number of messages of each queue that is not empty, without dead-letter queues, or its failure."""
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
        """Record all dead letters and remove them from their queues; return the queues that could not be read."""
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
        """Stop replacing workers, and drain all of them."""
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
