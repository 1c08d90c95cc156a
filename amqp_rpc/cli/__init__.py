"""The command line ``amqp-rpc``: each failure is one line and a named exit code, never a traceback.

The only package that uses click. It may import every other package, and none imports it.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from amqp_rpc import __version__
from amqp_rpc.cli.broker import broker
from amqp_rpc.cli.call import call
from amqp_rpc.cli.dlq import dlq
from amqp_rpc.cli.enqueue import enqueue
from amqp_rpc.cli.exits import Exit, fail
from amqp_rpc.cli.listen import listen
from amqp_rpc.cli.publish import publish
from amqp_rpc.cli.queues import permissions, queues, schedules
from amqp_rpc.cli.serve import serve

_EPILOG = """\
\b
Examples:
  amqp-rpc broker start              start a RabbitMQ for development
  amqp-rpc serve services.fib        run the functions of services/fib.py
  amqp-rpc call fib 30               call one of them
  amqp-rpc enqueue resize a.png      enqueue a task for a worker
  amqp-rpc publish orders.eu.paid 7  publish an event to all its subscribers
  amqp-rpc listen 'orders.#'         print events as they arrive
  amqp-rpc queues thumbnails         show a queue's messages and consumers
  amqp-rpc schedules services.fib    show when its tasks are enqueued
  amqp-rpc dlq list thumbnails       list the tasks that failed for good
"""


class _Main(click.Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; where its output can't be written, end quietly."""
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except OSError:
            # A full disk. Python would try once more at its end, and print a traceback.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(Exit.ERROR)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Return the words that are left; each is text, since nothing else can be sent."""
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:
                fail(f"the argument {os.fsencode(word)!r} is not text in UTF-8", Exit.USAGE)
        return super().parse_args(ctx, args)


@click.group(cls=_Main, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="amqp-rpc")
def main() -> None:
    """Call Python functions in other processes through RabbitMQ as simply as local ones."""


for _command in (serve, call, enqueue, publish, listen, queues, schedules, dlq, permissions, broker):
    main.add_command(_command)
