"""A service with a schedule, for processes of their own; the environment says where it leaves lines."""

from __future__ import annotations

import os

from amqp_rpc import Service, context

service = Service(os.environ.get("TICKING", "ticking"))


@service.every(0.2)
@service.task
def tick() -> None:
    """Leave a line with the task's id, its tick and the process; one write, so that processes don't mix."""
    now = context()
    with open(os.environ["TICKED"], "a", encoding="utf-8") as lines:  # noqa: PTH123 - appending one line at once
        lines.write(f"{now.message_id} {now.tick} {os.getpid()}\n")
