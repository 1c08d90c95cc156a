"""``amqp-rpc publish``: one event from the shell."""

from __future__ import annotations

from typing import Any

import click

from amqp_rpc.cli.call import WithNegativeNumbers, value
from amqp_rpc.cli.exchange_options import exchange_of, exchange_options, header_option, headers_of
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.client.client import Client
from amqp_rpc.message.settings import DEFAULT_TIMEOUT

_EPILOG = f"""\b
PAYLOAD is JSON where it parses and text where it doesn't; several words are one text. JSON goes as application/json,
and text as text/plain, which every program reads. 42 is a number, and '"42"' a text.
  amqp-rpc publish orders.eu.paid '{{"order": 7}}'
  amqp-rpc publish kern.critical A critical kernel error --exchange topic_logs --transient
  amqp-rpc publish "" Hello --exchange logs --type fanout --transient
  amqp-rpc publish hello Hello World! --exchange ""         (straight to the queue hello)
\b
--transient is for exchanges that are not durable, as those of RabbitMQ's tutorials.
\b
Exit codes: {Exit.OK:d} published (its id is printed), {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access \
refused, {Exit.NO_SERVER:d} --mandatory, and nobody subscribes,
{Exit.BAD_ARGUMENTS:d} too large, {Exit.REFUSED:d} the broker did not take it, {Exit.CONFIGURATION:d} wrong settings: \
a topic that is too long, an exchange of another kind.
"""


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@click.argument("topic")
@click.argument("arguments", nargs=-1, metavar="[PAYLOAD]")
@url_option
@exchange_options
@header_option("What subscribers see beside it; may be given several times.")
@click.option("--expires", type=float, metavar="SECONDS", help="Seconds after which no subscriber begins with it.")
@click.option("--mandatory", is_flag=True, help="Fail where nobody subscribes to it.")
@option("timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="Seconds until the broker has it.")
def publish(
    topic: str,
    arguments: tuple[str, ...],
    *,
    url: str | None,
    exchange: str,
    kind: str,
    transient: bool,
    headers: tuple[str, ...],
    expires: float | None,
    mandatory: bool,
    timeout: float,
) -> None:
    """Publish an event under TOPIC, and print its id once the broker has it safe."""
    payload = _payload(arguments)
    with one_line_errors(), Client(url) as client:
        identity = client.publish(
            topic,
            payload,
            # What was read as JSON here is JSON for whoever gets it, in any language.
            content_type=None if isinstance(payload, str) else "application/json",
            exchange=exchange_of(exchange, kind, transient=transient),
            headers=headers_of(headers),
            expires=expires,
            mandatory=mandatory,
            timeout=timeout,
        )
        click.echo(identity)


def _payload(words: tuple[str, ...]) -> Any:
    if not words:
        return None
    return value(words[0]) if len(words) == 1 else " ".join(words)
