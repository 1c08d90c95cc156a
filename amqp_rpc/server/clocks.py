"""The clocks of a server's services, and the connection that they share. The owner's, but for `start` and `close`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from amqp_rpc.amqp.connection import Connection
from amqp_rpc.amqp.loop import IOThread
from amqp_rpc.errors import BrokerError
from amqp_rpc.message.settings import Addresses
from amqp_rpc.server.clock import Clock
from amqp_rpc.server.state import State
from amqp_rpc.service.schedules import Schedule


class Clocks:
    """The clocks of a server's services, and the connection that they share.

    Args:
        schedules: Of each clock, by its queue.
        addresses: Where the broker is.
        state: The server's.
        name: What the broker's tools show for the connection.
        heartbeat: Seconds.
        owner: The thread that owns the connection.
    """

    def __init__(
        self,
        schedules: Mapping[str, Iterable[Schedule]],
        addresses: Addresses,
        state: State,
        *,
        name: str,
        heartbeat: float,
        owner: IOThread,
    ) -> None:
        self.connection = Connection(addresses, self, name=name, heartbeat=heartbeat, owner=owner, persistent=True)
        self._clocks = [Clock(queue, each, self.connection, state) for queue, each in schedules.items()]
        self._started = False

    def start(self) -> None:
        """Connect, where there is a schedule."""
        if self._clocks:
            self._started = True
            self.connection.start()

    def end(self) -> None:
        """Give the clocks up, so that other servers take them."""
        waiting = set(self._clocks)

        def ended(clock: Clock) -> None:
            if clock in waiting:
                waiting.discard(clock)
                if not waiting:
                    self.connection.begin_close()

        for clock in self._clocks:
            clock.end(lambda clock=clock: ended(clock))  # type: ignore[misc] # bound now

    def close(self, timeout: float) -> None:
        """Close the connection; any thread but its owner's.

        Args:
            timeout: Seconds to wait for the broker's good-bye.
        """
        if self._started:
            self.connection.close(timeout)

    def on_open(self) -> None:
        """Stand by for every clock."""
        for clock in self._clocks:
            clock.begin()

    def on_unblocked(self) -> None:
        """Do nothing: what waits to be confirmed will be."""

    def on_lost(self, _error: BrokerError) -> None:
        """Hold no clock any more."""
        for clock in self._clocks:
            clock.lost()
