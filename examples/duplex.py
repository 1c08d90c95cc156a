"""A pipe with two ends, in two processes on any two machines: one queue for each direction.

Run ``python -m examples.duplex answers`` in one terminal, and ``python -m examples.duplex asks`` in another.
"""

from __future__ import annotations

import sys
from typing import Any

from amqp_rpc import Client


class Pipe:
    """One end of a pipe, with ``send`` and ``recv`` as `multiprocessing.Pipe` has them.

    Args:
        client: The client that connects it.
        name: The same at both ends.
        first: True at one end, False at the other.
    """

    def __init__(self, client: Client, name: str, *, first: bool) -> None:
        there, back = client.queue(f"{name}.there"), client.queue(f"{name}.back")
        self._out, self._in = (there, back) if first else (back, there)

    def send(self, value: Any) -> None:
        """Send a value to the other end, which need not exist yet."""
        self._out.put(value)

    def recv(self) -> Any:
        """Wait for a value of the other end, and return it."""
        value = self._in.get()
        self._in.task_done()
        return value


def main(role: str = "answers") -> None:
    """Ask for squares ("asks"), or answer with them; None is the end."""
    with Client() as client:
        pipe = Pipe(client, "squares", first=role == "asks")
        if role == "asks":
            for number in range(1, 4):
                pipe.send(number)
                print(number, "squared is", pipe.recv())
            pipe.send(None)
        else:
            while (number := pipe.recv()) is not None:
                pipe.send(number * number)
            print("the other end has closed the pipe")


if __name__ == "__main__":
    main(*sys.argv[1:])
