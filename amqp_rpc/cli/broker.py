"""``amqp-rpc broker``: a throwaway RabbitMQ for development."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import click

from amqp_rpc import broker as throwaway
from amqp_rpc.cli.exits import Exit
from amqp_rpc.errors import AmqpRpcError


@click.group("broker")
def broker() -> None:
    """A throwaway RabbitMQ on this machine, for development."""


@broker.command()
@click.option("--install", is_flag=True, help="Get RabbitMQ with apt-get where there is none (needs root or sudo).")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, metavar="SECONDS",
    help="How long RabbitMQ may take to start.",
)  # fmt: skip
def start(*, install: bool, timeout: float) -> None:
    """Start RabbitMQ in the background and print its URL.

    It uses a Docker engine where one answers, else the rabbitmq-server of this machine as a private node. It listens
    on this machine only, on port 5672 where that is free.
    """
    with _interruptible(), _one_line_errors():
        found = throwaway.start(install=install, timeout=timeout)
    click.echo(found.url)
    if not found.has_default_port:
        click.echo(f"export AMQP_URL={found.url}")
        click.echo("port 5672 was taken: run the export line, so that clients find this one", err=True)


@broker.command()
def stop() -> None:
    """Stop what `start` started, and remove its data."""
    with _interruptible(), _one_line_errors():
        found = throwaway.stop()
    click.echo(f"stopped RabbitMQ {found.version} ({found.url})" if found else "no broker was running", err=True)


@broker.command()
def status() -> None:
    """Print what runs, and exit with 0; with 32 where nothing does."""
    with _one_line_errors():
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
    """End on the first Ctrl-C, SIGTERM or SIGHUP, cleanly; further ones do not disturb the clean-up."""
    caught = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal caught
        if not caught:
            caught = True
            raise _Interrupted

    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except _Interrupted:
        click.echo("interrupted; nothing was left running", err=True)
        sys.exit(Exit.INTERRUPTED)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except throwaway.NotAvailable as error:
        _fail(error, Exit.BROKER_NOT_AVAILABLE)
    except throwaway.StartFailed as error:
        _fail(error, Exit.BROKER_START_FAILED)
    except (AmqpRpcError, OSError) as error:
        _fail(error, Exit.ERROR)


def _fail(error: Exception, code: Exit) -> NoReturn:
    click.echo(f"error: {' '.join(str(error).split())}", err=True)
    sys.exit(code)
