"""A task that is retried, one that is rejected, and one that enqueues the next as its last act.

Run ``amqp-rpc serve examples.steps`` in one terminal, and ``python -m examples.steps`` in another; then ``amqp-rpc dlq
list task_queue.steps`` shows the rejected one.
"""

from __future__ import annotations

from functools import cache

from amqp_rpc import Client, Reject, Retry, Service, context

service = Service("steps")


@cache
def client() -> Client:
    """Return the one client of this process, made at the first task."""
    return Client()


@service.task(retries=3, backoff=(0.2, 60.0), retry_for=(OSError,))
def fetch(address: str) -> str:
    """Get a page; it works at the third attempt, as things do."""
    if not address.startswith("https://"):
        raise Reject(f"{address} is no address")  # dead-lettered at once
    if context().attempt == 1:
        raise Retry("they are busy", after=0.5)  # retried in half a second
    if context().attempt == 2:
        raise ConnectionError("they hung up")  # an OSError: retried with backoff; others would be dead-lettered
    client().enqueue(keep, address, f"<p>This is {address}")  # the last act: enqueue the next step
    return f"got it at attempt {context().attempt}"


pages: dict[str, str] = {}


@service.task
def keep(address: str, page: str) -> None:
    """Keep the page. The task may run twice, so it sets a value and adds nothing to it."""
    pages[address] = page
    print("kept:", pages[address], flush=True)


def main() -> None:
    """Enqueue a good one and a bad one, and print both outcomes."""
    with Client() as client:
        good, bad = client.enqueue(fetch, "https://example.org"), client.enqueue(fetch, "nowhere")
        try:
            bad.result(timeout=30)
        except Reject as error:
            print("rejected:", error)
        print("good:", good.result(timeout=30))


if __name__ == "__main__":
    main()
