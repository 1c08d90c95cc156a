"""``amqp-rpc listen``: print events as they arrive, until Ctrl-C. One command, one module: a seam."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

import click

from amqp_rpc.amqp.channel import AddressedDelivery
from amqp_rpc.amqp.dial import checked
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.options import Broker, broker_options, exchange_options, header_option, heartbeat_option
from amqp_rpc.cli.output import decoded_as_json, set_up_log
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Request, mark, read_event
from amqp_rpc.message.exchanges import Exchange, bindings
from amqp_rpc.message.settings import broker_addresses, positive
from amqp_rpc.message.signature import keys_of
from amqp_rpc.message.text import quoted
from amqp_rpc.ops.listen import EventTap

_EPILOG = f"""\
TOPIC is a pattern: '*' stands for one word and '#' for any number of words. Without a TOPIC every event is shown. Quote
it, because the shell expands '*'.

\b
  amqp-rpc listen 'kern.*' '*.critical'
  amqp-rpc listen '#' --json
  amqp-rpc listen --exchange logs --type fanout --transient
  amqp-rpc listen info error --exchange logs --type direct --transient
  amqp-rpc listen --exchange documents --type headers --header format=pdf

Each event is one line: its topic, and its payload as text or JSON. Unprintable characters are escaped. Events that are
published before "Listening" is printed, or while the connection is lost, are missed. The queue is deleted at the end;
an exchange that was declared here stays.

Exit codes: {Exit.OK:d} Ctrl-C, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.CONFIGURATION:d} an exchange of another type, {Exit.USAGE:d} wrong command line: a pattern that never matches.
"""


#: No limit: the broker has one, and who listens wants all of an event.
_WHOLE = 2**62


@click.command(epilog=_EPILOG)
@click.argument("topics", nargs=-1, metavar="[TOPIC...]")
@broker_options
@exchange_options
@header_option("A header that an event must have, for a headers exchange; if several are given, all of them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON objects: topic, payload, headers, id, time.")
@heartbeat_option
def listen(
    topics: tuple[str, ...], *, broker: Broker, exchange: Exchange, headers: dict[str, Any], as_json: bool,
    heartbeat: float,
) -> None:  # fmt: skip
    """Print events as they arrive, until Ctrl-C."""
    # A lost connection is a line there.
    set_up_log(None, None)
    heartbeat = positive("heartbeat", heartbeat, most=60_000)
    if exchange.kind == "topic" and not topics:
        topics = ("#",)
    bound = bindings(exchange, topics, headers if headers or exchange.kind == "headers" else None)
    name = f"amqp-rpc listen {socket.gethostname()}:{os.getpid()}"
    keys = keys_of(broker.pop("keys"))
    tap = _Tap(checked(broker_addresses(**broker)), exchange, bound, name=name, heartbeat=heartbeat, keys=keys)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: tap.stop())
    with tap:
        try:
            for event in tap:
                print(_line(event, as_json=as_json), flush=True)  # noqa: T201 - click.echo hides a broken pipe
        except BrokenPipeError:
            # `| head` has ended.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Tap(EventTap):
    def ready(self) -> None:
        click.echo(f"Listening to {self}. Ctrl-C to stop.", err=True)


def _line(delivery: AddressedDelivery, *, as_json: bool) -> str:
    mark(delivery.properties, delivery.exchange, delivery.routing_key)
    request = Request.read(delivery.properties, delivery.body, redelivered=delivery.redelivered)
    event = read_event(request, delivery.properties)
    try:
        payload = codec.decode(delivery.body, request.content_type, limit=_WHOLE)
        if isinstance(payload, bytes):
            payload = str(payload)
        text = payload if isinstance(payload, str) else decoded_as_json(payload)
    except AmqpRpcError:
        # Any program may publish any bytes: show them too.
        payload = text = str(delivery.body)
    if not as_json:
        return quoted(f"{event.topic} {text}" if event.topic else text, _WHOLE)
    shown: dict[str, Any] = {
        "topic": event.topic,
        "payload": payload,
        "headers": {n: v if isinstance(v, bool | int | float) else str(v) for n, v in event.headers.items()},
        "id": event.id,
        "time": event.time,
    }
    try:
        return decoded_as_json(shown)
    except AmqpRpcError:
        # JSON cannot express it.
        headers = {name: str(value) for name, value in event.headers.items()}
        return decoded_as_json(shown | {"payload": str(delivery.body), "headers": headers})
