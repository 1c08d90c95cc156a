"""Call from asyncio: await a call, many at the same time, and loop over results as they arrive.

Run ``amqp-rpc serve services.fib`` in one terminal, and ``python -m examples.calling_async`` in another.
"""

import asyncio

from amqp_rpc import AsyncClient, CallTimeout
from services.fib import fib, naive_fib


async def main() -> None:
    """Await calls in four ways."""
    async with AsyncClient() as client:
        print("one call:", await client.call(fib, 30))

        results = await asyncio.gather(*(client.call(fib, n) for n in range(10)))
        print("gather:", results)

        print("map:", [result async for result in client.map(fib, range(10))])

        # A call never hangs: it ends by its timeout, and the error says that it may have run.
        try:
            await client.with_options(timeout=0.1).call(naive_fib, 32)
        except CallTimeout as error:
            print("timeout:", error, "| may have run:", error.may_have_run)


if __name__ == "__main__":
    asyncio.run(main())
