"""Make many calls at the same time: with futures, with map, and from several threads with one client.

Run ``amqp-rpc serve services.fib`` in one terminal, and ``python -m examples.calling_many`` in another.
"""

import itertools
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from amqp_rpc import Client
from services.fib import fib, naive_fib


def main() -> None:
    """Make many calls in four ways."""
    with Client() as client:
        # submit() sends a call and returns at once.
        futures = [client.submit(fib, n) for n in range(10)]
        print("submit:", [future.result() for future in futures])

        # Results in the order in which they arrive: quick calls overtake the slow one sent before them.
        numbers: dict[Future[int], int] = {client.submit(naive_fib, n): n for n in (24, 1, 2, 3)}
        print("as_completed:", sum(1 for future in as_completed(numbers) if future.result() >= 0), "calls")

        # map() yields the results in the items' order. It reads items as calls end, so they may be endless.
        even = (result for result in client.map(fib, itertools.count(1)) if result % 2 == 0)
        print("map: the first even ones are", list(itertools.islice(even, 5)))

        # For tiny functions: 100 calls travel in one message, and run and fail one by one all the same.
        print("map with chunksize:", sum(client.map(fib, range(1000), chunksize=100)) % 1_000_000)

        # One client is enough for all threads of a program.
        with ThreadPoolExecutor(max_workers=4) as threads:
            print("threads:", list(threads.map(lambda n: client.call(fib, n), range(10))))


if __name__ == "__main__":
    main()
