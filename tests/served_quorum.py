"""A service whose calls are in a quorum queue, in processes that tests start with ``amqp-rpc serve`` and kill."""

import os
import signal

from amqp_rpc import Service
from tests.served import note

service = Service(queue="tserved.quorum", queue_type="quorum")


@service.rpc
def note_and_die_of_it(path: str) -> None:
    """Leave a line, and end the process."""
    note(path, "dying")
    os.kill(os.getpid(), signal.SIGKILL)
