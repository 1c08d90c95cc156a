"""A server that is stopped while it starts: both end at once, whatever has been reached by then."""

from __future__ import annotations

import random
import threading
from contextlib import suppress

from amqp_rpc import Server, Service
from amqp_rpc.errors import AmqpRpcError
from tests.waiting import until


def test_a_stop_in_the_middle_of_a_start_waits_for_no_drain_timeout(url: str) -> None:
    service = Service("tstopped")

    @service.rpc
    def quick() -> int:
        return 1

    chance = random.Random(1)
    for _ in range(40):
        server = Server(service, url=url, threads=1)

        def start(server: Server = server) -> None:
            with suppress(AmqpRpcError):
                server.start()

        starting = threading.Thread(target=start)
        starting.start()
        # At any moment of a start, which takes some ten milliseconds.
        threading.Event().wait(chance.uniform(0, 0.05))
        stopping = threading.Thread(target=server.stop, kwargs={"drain_timeout": 600.0}, daemon=True)
        stopping.start()
        until(lambda: not starting.is_alive() and not stopping.is_alive(), what="both to end")  # noqa: B023 - now
