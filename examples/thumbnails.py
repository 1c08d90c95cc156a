"""A task in six lines: work that can wait and is never lost. Serve it with ``amqp-rpc serve examples.thumbnails``."""

from amqp_rpc import Service

service = Service()


@service.task(queue="thumbnails", retries=5)
def resize(path: str, size: int = 128) -> str:
    """Make a small picture of a large one."""
    return f"{path} in {size} x {size}"
