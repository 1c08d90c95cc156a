"""Put a number into a queue, and get it back, with asyncio: ``python -m examples.numbers_async``."""

import asyncio

from amqp_rpc import AsyncClient


async def main() -> None:
    """Put a number, get it, and print it."""
    async with AsyncClient() as client, client.queue("numbers") as queue:
        await queue.put(1)
        async for number in queue:
            print(number)
            queue.task_done()  # the oldest unfinished item of this asyncio task
            break


if __name__ == "__main__":
    asyncio.run(main())
