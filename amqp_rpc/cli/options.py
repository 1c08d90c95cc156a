"""Options that several commands share: each has one name, as a flag, a keyword and an ``AMQP_RPC_*`` variable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def option(
    name: str, *, also: tuple[str, ...] = (), show_default: bool | str = True, **attributes: Any
) -> Callable[[F], F]:
    """Return the decorator of an option ``--name``, which is also read from ``AMQP_RPC_NAME``."""
    variable = f"AMQP_RPC_{name.partition('/')[0].upper().replace('-', '_')}"
    return click.option(
        f"--{name}", envvar=[variable, *also], show_envvar=True, show_default=show_default, **attributes
    )


url_option = option(
    "url",
    also=("AMQP_URL",),
    metavar="URL",
    show_default="amqp://guest:guest@localhost:5672/",
    help="The broker: amqp://user:password@host:port/vhost, or amqps:// for TLS.",
)
