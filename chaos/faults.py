"""The faults: how each is injected into the stage, how long it lasts, and how it is undone."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from amqp_rpc.broker.node import Node
from amqp_rpc.broker.ports import greet
from chaos.record import FAULTS, Record
from chaos.stage import NODE_TIMEOUT, QUEUE, Stage, until

#: Seconds after the end of a fault within which every server must consume again. RabbitMQ 4.3 itself gives up after 30,
#: when it waits for a node that it can't see.
COMES_BACK = 60.0
#: Seconds between two nodes of a cluster, for faults that hit each node in turn.
IN_TURN = (0.5, 3.0)
#: Seconds without a fault after each, and how much longer or shorter they may be.
PAUSE, JITTER = 5.0, 0.2


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Args:
       name: Its name in the table.
       inject: Injects it, and returns a function that undoes it.
       lasts: The range of seconds until it is undone.
       outage: Whether no server is reachable for a time; otherwise other servers go on.
    """

    name: str
    inject: Callable[[Stage, random.Random], Callable[[], object]]
    lasts: tuple[float, float] = (0.0, 0.0)
    outage: bool = True


def kill_server(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``kill -9`` a server; undone by starting another."""
    stage.kill_server(chance.choice(stage.servers))
    return stage.start_server


def drain_server(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """A rolling restart: start a server, SIGTERM another, for each in turn."""
    olds = list(stage.servers)
    chance.shuffle(olds)
    for old in olds:
        stage.start_server()
        stage.drain_server(old)
    return _nothing


def kill_broker(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``kill -9`` a node; undone by starting it."""
    node = chance.choice(stage.nodes)
    node.kill()
    return lambda: node.start(timeout=NODE_TIMEOUT)


def kill_in_turn(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``kill -9`` and restart each node, one after another."""
    for node in stage.nodes:
        node.kill()
        time.sleep(chance.uniform(*IN_TURN))
        node.start(timeout=NODE_TIMEOUT)
        time.sleep(chance.uniform(*IN_TURN))
    return _nothing


def stop_in_turn(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Stop and restart each node, one after another, as in a rolling upgrade of the cluster."""
    for node in stage.nodes:
        node.stop()
        node.start(timeout=NODE_TIMEOUT)
        time.sleep(chance.uniform(*IN_TURN))
    return _nothing


def drain_in_turn(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Do as `stop_in_turn`, with ``rabbitmq-upgrade drain`` before each stop: leaders move away, clients are closed."""
    for node in stage.nodes:
        node.ctl("eval", "rabbit_maintenance:drain().", timeout=NODE_TIMEOUT)
        node.stop()
        node.start(timeout=NODE_TIMEOUT)
        time.sleep(chance.uniform(*IN_TURN))
    return _nothing


def kill_majority(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``kill -9`` all nodes but one, which is no majority; undone by starting them."""
    killed = chance.sample(stage.nodes, len(stage.nodes) - 1)
    for node in killed:
        node.kill()

    def start() -> None:
        # At the same time: one alone may wait for the other.
        with ThreadPoolExecutor(len(killed)) as pool:
            list(pool.map(lambda node: node.start(timeout=NODE_TIMEOUT), killed))
        _wait_for(stage.nodes)

    return start


def partition(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Cut one node off from all others; undone by connecting them."""
    alone = chance.choice(stage.nodes)
    return _cut_off(alone, [node for node in stage.nodes if node is not alone], stage)


def cut_link(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Cut the connection of two nodes, which both still see the others; undone by connecting them."""
    one, other, *_ = chance.sample(stage.nodes, len(stage.nodes))
    return _cut_off(one, [other], stage)


def rebalance(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``rabbitmq-queues rebalance all``: leaders of queues move, one after another; that may take minutes."""
    moves = 'rabbit_amqqueue:rebalance(all, <<".*">>, <<".*">>)'
    chance.choice(stage.nodes).ctl("eval", f"spawn(fun() -> {moves} end).")
    return _nothing


def stop_broker(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Stop a node as an administrator does; undone by starting it."""
    node = chance.choice(stage.nodes)
    node.stop()
    return lambda: node.start(timeout=NODE_TIMEOUT)


def cut(stage: Stage, _chance: random.Random) -> Callable[[], object]:
    """Reset all TCP connections."""
    for proxy in stage.proxies:
        proxy.cut()
    return _nothing


def freeze(stage: Stage, _chance: random.Random) -> Callable[[], object]:
    """Let no byte through, and close nothing."""
    for proxy in stage.proxies:
        proxy.freeze()

    def thaw() -> None:
        for proxy in stage.proxies:
            proxy.thaw()

    return thaw


def close_connections(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """``rabbitmqctl close_all_connections``."""
    chance.choice(stage.nodes).ctl("close_all_connections", "chaos")
    return _nothing


def delete_queue(stage: Stage, _chance: random.Random) -> Callable[[], object]:
    """Delete the service's queue."""
    stage.ask(lambda channel: channel.queue_delete(QUEUE))
    return _nothing


def alarm(stage: Stage, chance: random.Random) -> Callable[[], object]:
    """Raise a memory alarm: the broker blocks publishers."""
    node = chance.choice(stage.nodes)
    node.ctl("set_vm_memory_high_watermark", "0.0000001")
    return lambda: node.ctl("set_vm_memory_high_watermark", "0.4")


def _nothing() -> None:
    """Do nothing: the fault undoes itself."""


def _cut_off(node: Node, others: Iterable[Node], stage: Stage) -> Callable[[], object]:
    """Cut a node's connections to others, and return a function that connects them again.

    With a wrong cookie for each other, neither side can connect: https://www.erlang.org/doc/system/distributed.html
    """
    names = ", ".join(f"'{other.name}'" for other in others)
    node.ctl("eval", f"[begin erlang:set_cookie(N, wrong), erlang:disconnect_node(N) end || N <- [{names}]].")

    def connect() -> None:
        node.ctl(
            "eval",
            f"[begin erlang:set_cookie(N, erlang:get_cookie()), net_kernel:connect_node(N) end || N <- [{names}]].",
        )
        _wait_for(stage.nodes)

    return connect


def _wait_for(nodes: Iterable[Node]) -> None:
    """Wait until nodes accept clients: those that were a minority had paused."""
    for node in nodes:
        until(lambda node=node: greet(node.port, timeout=1) is not None, timeout=NODE_TIMEOUT, pause=0.1)  # type: ignore[misc] # bound now


SINGLE = (
    Fault("kill -9 a server", kill_server, outage=False),
    Fault("rolling restart", drain_server, outage=False),
    Fault("kill -9 the broker", kill_broker, lasts=(0.0, 5.0)),
    Fault("broker stopped", stop_broker, lasts=(0.0, 5.0)),
    Fault("connections reset", cut),
    Fault("frozen, heartbeat missed", freeze, lasts=(5.0, 16.0)),
    Fault("frozen, shortly", freeze, lasts=(1.0, 3.0)),
    Fault("close_all_connections", close_connections),
    Fault("queue deleted", delete_queue),
    Fault("memory alarm", alarm, lasts=(2.0, 8.0)),
)
CLUSTER = (
    Fault("kill -9 a node", kill_broker, lasts=(2.0, 8.0)),
    Fault("node stopped", stop_broker, lasts=(2.0, 8.0)),
    Fault("kill -9 a server", kill_server, outage=False),
    Fault("each node stopped in turn", stop_in_turn),
    Fault("each node drained in turn", drain_in_turn),
    Fault("two of three nodes killed", kill_majority, lasts=(2.0, 8.0)),
    Fault("a node cut off from the others", partition, lasts=(5.0, 15.0)),
    Fault("the link of two nodes cut", cut_link, lasts=(5.0, 15.0)),
    Fault("leaders rebalanced", rebalance, lasts=(5.0, 15.0)),
)
#: For tasks, without the deletion of queues, which deletes accepted tasks too.
TASKS_SINGLE = tuple(fault for fault in SINGLE if fault.inject is not delete_queue)
TASKS_CLUSTER = (
    *CLUSTER,
    Fault("each node killed in turn", kill_in_turn),
    Fault("rolling restart", drain_server, outage=False),
    Fault("connections reset", cut),
)


def chosen(faults: Iterable[Fault], only: Sequence[str]) -> tuple[Fault, ...]:
    """Return the faults whose names contain one of these texts; all of them without any."""
    return tuple(fault for fault in faults if not only or any(words in fault.name for words in only))


class Injection:
    """Injects faults in random order, each kind once before any kind a second time, and records them.

    Args:
        faults: The kinds.
        seed: The same seed gives the same order, durations and pauses.
        pause: Seconds without a fault after each.
    """

    def __init__(self, stage: Stage, faults: tuple[Fault, ...], seed: int, *, pause: float = PAUSE) -> None:
        self._stage = stage
        self._faults = faults
        self._seconds = pause
        self._chance = random.Random(seed)  # noqa: S311 - repeatable, not a secret
        self._record = Record(stage.folder / FAULTS)
        self._left: list[Fault] = []

    def run(self, seconds: float, say: Callable[[str], object], *, more: Callable[[], bool] = lambda: False) -> None:
        """Inject faults for so many seconds, and while `more` is true; the last fault is complete."""
        end = time.monotonic() + seconds
        self._pause()
        while time.monotonic() < end or more():
            if not self._left:
                self._left = self._chance.sample(self._faults, len(self._faults))
            say(self._one(self._left.pop()))
            self._pause()

    def _one(self, fault: Fault) -> str:
        lasts = self._chance.uniform(*fault.lasts)
        injected = time.monotonic()
        undo = fault.inject(self._stage, self._chance)
        time.sleep(lasts)
        undo()
        undone = time.monotonic()
        self._stage.served(COMES_BACK)
        served = time.monotonic()
        back = self._stage.whole(COMES_BACK)
        over = time.monotonic()
        self._stage.replace_fallen()
        self._record.write(
            fault=fault.name, injected=injected, undone=undone, served=served, over=over, back=back, outage=fault.outage
        )
        again = "" if back else f"; only {self._stage.consumers()} consumers"
        return f"{fault.name}: {undone - injected:.1f} s, all servers there {over - undone:.1f} s later{again}"

    def _pause(self) -> None:
        time.sleep(self._seconds * self._chance.uniform(1 - JITTER, 1 + JITTER))
