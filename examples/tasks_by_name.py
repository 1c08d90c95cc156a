"""Tasks by name; a name that no worker knows is refused and reported.

Run ``amqp-rpc serve examples.tasks_by_name`` in one terminal, and ``python -m examples.tasks_by_name`` in another; then
``amqp-rpc dlq list notifications`` shows the refused one, and ``amqp-rpc dlq drop notifications --all`` deletes it.
"""

from amqp_rpc import Client, FunctionNotFound, Service

service = Service()


@service.task(queue="notifications")
def email(to: str, subject: str) -> str:
    """Pretend to send an email."""
    return f"an email to {to}: {subject}"


@service.task(queue="notifications")
def message(to: str, text: str) -> str:
    """Pretend to send a short message."""
    return f"a message to {to}: {text}"


def main() -> None:
    """Enqueue one of each, and one that does not exist."""
    with Client() as client:
        tasks = [
            client.enqueue("email", "ann@example.org", subject="Hello", queue="notifications"),
            client.enqueue("message", "bob", "see you at five", queue="notifications"),
        ]
        for task in tasks:
            print("sent:", task.result(timeout=30))

        # The broker accepts it, since it does not know the workers' functions. The worker that receives it refuses it.
        unknown = client.enqueue("telegram", "carol", queue="notifications")
        try:
            unknown.result(timeout=30)
        except FunctionNotFound as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
