"""Call functions of a server, by name or with the function object, with a timeout, and catch the errors.

Run ``amqp-rpc serve services.fib`` in one terminal, and ``python -m examples.calling`` in another.
"""

import sys

from amqp_rpc import Client, InvalidArguments, NoServer, Unroutable
from services.fib import fib


def main() -> None:
    """Call, and print the results."""
    with Client() as client:
        print("by name:", client.call("fib", 30))
        print("named argument, at most 2.5 seconds:", client.call("fib", n=30, timeout=2.5))

        # With the function object a type checker knows arguments and result. The function still runs on the server.
        number: int = client.call(fib, 300)
        print("by the function object:", number)
        # Beside a function object, options are given first.
        print("the same with options:", client.with_options(timeout=2.5, idempotent=True).call(fib, 30))

        # An exception of the function is raised here too.
        try:
            client.call(fib, -1)
        except ValueError as error:
            print("it raised ValueError:", error)

        # Arguments are checked by the function's type hints before it runs.
        try:
            client.call("fib", "thirty")
        except InvalidArguments as error:
            print("it did not run:", error)

        # A missing server is an error at once: no queue at all is Unroutable, a queue without a server is NoServer.
        try:
            client.call("nobody.home")
        except (NoServer, Unroutable) as error:
            print("nobody there:", error)


if __name__ == "__main__":
    try:
        main()
    except (NoServer, Unroutable):
        sys.exit("There is no server yet. Start one: amqp-rpc serve services.fib")
