"""``amqp-rpc broker``: a throwaway RabbitMQ for development. One command, one module: a seam."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

from amqp_rpc import broker as throwaway
from amqp_rpc.cli.exits import Exit, one_line_errors
from amqp_rpc.cli.options import Seconds


@click.group("broker")
def broker() -> None:
    """A throwaway RabbitMQ on this machine, for development."""


@broker.command()
@click.option("--install", is_flag=True, help="If RabbitMQ is missing, install it with apt-get (needs root or sudo).")
@click.option(
    "--timeout", type=Seconds(min_open=True), default=60.0, show_default=True, metavar="SECONDS",
    help="How long RabbitMQ may take to start.",
)  # fmt: skip
def start(*, install: bool, timeout: float) -> None:
    """Start RabbitMQ in the background and print its URL.

    It runs in a container if a Docker engine answers, otherwise as a private node of this machine's rabbitmq-server.
    It listens on this machine only, on port 5672 if that is free.
    """
    with _interruptible(), one_line_errors():
        found = throwaway.start(install=install, timeout=timeout)
    click.echo(found.url)
    if not found.has_default_port:
        click.echo(f"export AMQP_URL={found.url}")
        click.echo("port 5672 was in use: run the export line, so that clients find this broker", err=True)


@broker.command()
def stop() -> None:
    """Stop the broker that `start` started, and remove its data."""
    with _interruptible(), one_line_errors():
        found = throwaway.stop()
    click.echo(f"stopped RabbitMQ {found.version} ({found.url})" if found else "no broker was running", err=True)


@broker.command()
def status() -> None:
    """Print the running broker and exit with 0; exit with 32 if none is running."""
    with one_line_errors():
        found = throwaway.status()
    if found is None:
        click.echo("no broker is running; `amqp-rpc broker start` starts one", err=True)
        sys.exit(Exit.BROKER_NOT_RUNNING)
    process = f", pid {found.pid}" if found.pid else ""
    click.echo(f"{found.url} RabbitMQ {found.version} ({found.way}{process})")


class _Interrupted(BaseException):
    """Ctrl-C, or a signal like it."""


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """End cleanly on the first Ctrl-C, SIGTERM or SIGHUP; further ones do not disturb the clean-up."""
    caught = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal caught
        if not caught:
            caught = True
            raise _Interrupted

    # Windows has no SIGHUP.
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except _Interrupted:
        click.echo("interrupted; nothing was left running", err=True)
        sys.exit(Exit.INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
