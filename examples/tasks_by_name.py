"""Tasks that are chosen by their names; a name that no worker knows is refused, and reported.

Run ``amqp-rpc serve examples.tasks_by_name`` in one terminal, and ``python -m examples.tasks_by_name`` in another; then
``amqp-rpc dlq list notifications`` shows what was refused, and ``amqp-rpc dlq drop notifications --all`` deletes it.
"""

from amqp_rpc import Client, FunctionNotFound, Service

service = Service()


@service.task(queue="notifications")
def email(to: str, subject: str) -> str:
    """Send an email, or so."""
    return f"an email to {to}: {subject}"


@service.task(queue="notifications")
def message(to: str, text: str) -> str:
    """Send a short message, or so."""
    return f"a message to {to}: {text}"


def main() -> None:
    """Enqueue one of each, and one that there is not."""
    with Client() as client:
        tasks = [
            client.enqueue("email", "ann@example.org", subject="Hello", queue="notifications"),
            client.enqueue("message", "bob", "see you at five", queue="notifications"),
        ]
        for task in tasks:
            print("sent:", task.result(timeout=30))

        # The broker takes it, since it does not know what workers can do; the worker that gets it refuses it.
        unknown = client.enqueue("telegram", "carol", queue="notifications")
        try:
            unknown.result(timeout=30)
        except FunctionNotFound as error:
            print("refused:", error)


if __name__ == "__main__":
    main()
