"""How a deadline travels, and which calls are sent again after a failure.

Run ``amqp-rpc serve examples.report`` in one terminal, and ``python -m examples.deadlines_and_retries`` in another.
"""

import logging

from amqp_rpc import CallError, CallTimeout, Client, RemoteError
from examples.report import build, price, time_left


def main() -> None:
    """Make calls with short timeouts, and calls that may run twice."""
    # Each retry is one line of the log.
    logging.basicConfig(format="log: %(message)s")
    logging.getLogger("amqp_rpc").setLevel(logging.INFO)

    with Client() as client:
        # One deadline covers everything: connecting, sending, running and the answer.
        print("a handler sees what is left:", 0 < client.with_options(timeout=5.0).call(time_left) < 5.0)

        # build() calls price(): that call inherits the time that is left, so neither outlives the caller. The first to
        # notice the deadline reports it: CallTimeout is raised here, or RemoteError if build() raised its own first.
        print("within its time:", client.with_options(timeout=5).call(build, ["tea", "milk"]))
        try:
            client.with_options(timeout=0.3).call(build, ["tea"] * 1000)
        except (CallTimeout, RemoteError) as error:
            print(f"not within its time: may have run: {error.may_have_run}")

        # price() is declared idempotent: should its server or the connection die, it is sent again, five times at most
        # and never after its deadline. build() is not: it would end with MaybeExecuted, and may_have_run would be true.
        try:
            print("idempotent:", client.with_options(wait_for_server=True).call(price, "tea"))
        except CallError as error:
            print("it ended with", type(error).__name__, "and may have run:", error.may_have_run)


if __name__ == "__main__":
    main()
