"""``amqp-rpc publish``: publish one event. One command, one module: a seam."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.options import (
    Broker,
    WithNegativeNumbers,
    broker_options,
    exchange_options,
    header_option,
    no_words_beside_stdin,
    stdin_option,
    timeout_option,
    value_of,
    work_on_lines,
)
from amqp_rpc.client.client import Client
from amqp_rpc.errors import AmqpRpcError, NotAllAccepted

_EPILOG = f"""\
PAYLOAD is JSON if it parses as JSON, otherwise text; several words are one text. JSON is sent as application/json,
text as text/plain, which every program can read. 42 is a number, and '"42"' is a text.

\b
  amqp-rpc publish orders.eu.paid '{{"order": 7}}'
  amqp-rpc publish kern.critical A critical error --exchange logs --transient
  amqp-rpc publish "" Hello --exchange logs --type fanout --transient
  amqp-rpc publish hello Hello! --exchange ""    (straight to queue hello)
  amqp-rpc publish orders.eu.paid --stdin < orders.jsonl

With --stdin, each line is a payload of JSON, and has a line of JSON on standard
output, in order: {{"line": 1, "id": "9f3c…"}}, or {{"line": 2, "error": "…"}}.

--transient is for exchanges that are not durable, such as those of RabbitMQ's tutorials.

Exit codes: {Exit.OK:d} published (its id is printed), {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access \
refused, {Exit.NO_SERVER:d} --mandatory without subscribers,
{Exit.BAD_ARGUMENTS:d} too large, {Exit.REFUSED:d} the broker refused it, {Exit.CONFIGURATION:d} the \
exchange exists otherwise,
{Exit.USAGE:d} wrong command line: a topic that is too long, a header of ours.
"""


@click.command(cls=WithNegativeNumbers, epilog=_EPILOG)
@click.argument("topic")
@click.argument("arguments", nargs=-1, metavar="[PAYLOAD]")
@broker_options
@exchange_options
@header_option("A header of the event; may be given several times.")
@click.option("--expires", type=float, metavar="SECONDS", help="Seconds after which no subscriber starts the event.")
@click.option("--mandatory", is_flag=True, help="Fail if no queue is bound for the event.")
@timeout_option("Seconds until the broker confirms the event.")
@stdin_option("Publish an event for each line of JSON on standard input, the payload.")
def publish(topic: str, arguments: tuple[str, ...], *, broker: Broker, stdin: bool, **options: Any) -> None:
    """Publish an event under TOPIC, and print its id when the broker has confirmed it."""
    no_words_beside_stdin(arguments, stdin=stdin)
    if stdin:
        with Client(**broker) as client:
            work_on_lines(lambda payload: payload, partial(_events, client, topic, options))
        return
    payload = _payload(arguments)
    if not isinstance(payload, str):
        # Subscribers in any language can read JSON.
        options["content_type"] = "application/json"
    with Client(**broker) as client:
        click.echo(client.publish(topic, payload, **options))


def _events(client: Client, topic: str, options: dict[str, Any], payloads: list[Any]) -> Iterator[Any]:
    """Publish events; yield the end of each, in their order."""
    try:
        ids: list[Any] = client.publish_many(
            ((topic, payload) for payload in payloads), content_type="application/json", **options
        )
    except NotAllAccepted as error:
        ids = [identity or error.errors[number] for number, identity in enumerate(error.handles)]
    for each in ids:
        yield each if isinstance(each, AmqpRpcError) else {"id": each}


def _payload(words: tuple[str, ...]) -> Any:
    if not words:
        return None
    return value_of(words[0]) if len(words) == 1 else " ".join(words)
