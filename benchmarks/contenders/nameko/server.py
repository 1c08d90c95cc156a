"""A service that echoes what it is sent."""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()  # before all other imports, as `nameko run` does

import os  # noqa: E402

from nameko.rpc import rpc  # noqa: E402
from nameko.runners import ServiceRunner  # noqa: E402

from benchmarks.contenders.nameko.publishing import transient  # noqa: E402


class Bench:
    """The service; its queue is ``rpc-bench``."""

    name = "bench"

    @rpc
    def echo(self, text: str) -> str:
        """Return the text."""
        return text


if __name__ == "__main__":
    transient()
    runner = ServiceRunner({"AMQP_URI": os.environ["AMQP_URL"], "max_workers": int(os.environ["BENCH_PREFETCH"])})
    runner.add_service(Bench)
    runner.start()
    runner.wait()
