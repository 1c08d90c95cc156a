"""Fibonacci numbers: the service that RabbitMQ's tutorials call, exact and fast, and the slow one beside it."""

from __future__ import annotations

from amqp_rpc import Service

service = Service()

#: The largest n of `fib`: its result has 2 090 digits.
LARGEST = 10_000
#: The largest n of `naive_fib`: about 0.3 s of one core for 27, and 1.6 times as much for each further one.
LARGEST_NAIVE = 32


# It is pure: running it twice does no harm, so a call whose server died may be sent to another.
@service.rpc(idempotent=True, default=True)
def fib(n: int) -> int:
    """Return the n-th Fibonacci number, for n from 0 to 10 000: 55 for 10."""
    if not 0 <= n <= LARGEST:
        msg = f"n must be from 0 to {LARGEST}, not {n}"
        raise ValueError(msg)
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


@service.rpc(idempotent=True)
def naive_fib(n: int) -> int:
    """Return the n-th Fibonacci number the slow way, as the tutorials do, for n from 0 to 32: it keeps a core busy."""
    if not 0 <= n <= LARGEST_NAIVE:
        msg = f"n must be from 0 to {LARGEST_NAIVE}, not {n}"
        raise ValueError(msg)
    return _recurse(n)


def _recurse(n: int) -> int:
    return n if n < 2 else _recurse(n - 1) + _recurse(n - 2)  # noqa: PLR2004 - fib(0) is 0 and fib(1) is 1
