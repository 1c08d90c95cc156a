"""``amqp-rpc listen``: events on the terminal as they come, until Ctrl-C; no queue of it stays in the broker."""

from __future__ import annotations

import os
import queue
import signal
import socket
import sys
from typing import Any

import click

from amqp_rpc.amqp.transport import AddressedDelivery
from amqp_rpc.cli.exchange_options import exchange_of, exchange_options, header_option, headers_of, shown
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import exit_code, fail, one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.errors import AmqpRpcError
from amqp_rpc.message import codec
from amqp_rpc.message.envelope import Request
from amqp_rpc.message.events import mark, read
from amqp_rpc.message.exchanges import bindings
from amqp_rpc.message.settings import DEFAULT_HEARTBEAT, broker_addresses
from amqp_rpc.ops.listen import Listening, Source

_EPILOG = f"""\b
TOPIC is a pattern: '*' stands for one word and '#' for any number of them. Without one everything is shown. Quote it:
the shell has a meaning of its own for '*'.
  amqp-rpc listen 'kern.*' '*.critical'
  amqp-rpc listen '#' --json
  amqp-rpc listen --exchange logs --type fanout --transient
  amqp-rpc listen info warning error --exchange direct_logs --type direct --transient
  amqp-rpc listen --exchange documents --type headers --header format=pdf
\b
Each event is a line: its topic, and its payload as text or JSON; line breaks and other characters that can't be printed
are escaped. What is published before "Listening" is said, or while the connection is lost, is not shown. The queue ends
with it; an exchange that it declared stays.
Exit codes: {Exit.OK:d} Ctrl-C, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access refused, \
{Exit.CONFIGURATION:d} wrong settings: a pattern that never matches, an exchange of another kind.
"""
#: Seconds for saying good-bye to the broker.
_CLOSE_TIMEOUT = 5.0


@click.command(epilog=_EPILOG)
@click.argument("topics", nargs=-1, metavar="[TOPIC...]")
@url_option
@exchange_options
@header_option("What events' headers must have, for a headers exchange; several: all of them.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print each event as a JSON object: topic, payload, headers, id, time."
)
@option("heartbeat", type=float, default=DEFAULT_HEARTBEAT, metavar="SECONDS", help="Seconds between heartbeats.")
def listen(
    topics: tuple[str, ...],
    *,
    url: str | None,
    exchange: str,
    kind: str,
    transient: bool,
    headers: tuple[str, ...],
    as_json: bool,
    heartbeat: float,
) -> None:
    """Print events as they come until Ctrl-C."""
    with one_line_errors():
        source_exchange = exchange_of(exchange, kind, transient=transient)
        if kind == "topic" and not topics:
            topics = ("#",)
        bound = bindings(source_exchange, topics, headers_of(headers) if headers or kind == "headers" else None)
        told: queue.SimpleQueue[AddressedDelivery | AmqpRpcError | str | None] = queue.SimpleQueue()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: told.put(None))
        what = ", ".join(binding.key for binding in bound if binding.key) or "everything"
        listening = Listening(
            broker_addresses(url),
            Source(source_exchange, bound),
            name=f"amqp-rpc listen {socket.gethostname()}:{os.getpid()}",
            heartbeat=heartbeat,
            heard=told.put,
            ready=lambda: told.put(f"Listening to {what} of the {source_exchange}. Ctrl-C to stop."),
            failed=told.put,
        )
        listening.start()
        try:
            while (news := told.get()) is not None:
                if isinstance(news, AmqpRpcError):
                    fail(str(news), exit_code(news))
                if isinstance(news, str):
                    click.echo(news, err=True)
                    continue
                print(_line(news, as_json=as_json), flush=True)  # noqa: T201 - click.echo hides a broken pipe
                listening.let_go(news)
        except BrokenPipeError:
            # `| head` has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        finally:
            listening.close(_CLOSE_TIMEOUT)


def _line(delivery: AddressedDelivery, *, as_json: bool) -> str:
    mark(delivery.properties, delivery.exchange, delivery.routing_key)
    request = Request.read(delivery.properties, delivery.body, redelivered=delivery.redelivered)
    event = read(request, delivery.properties)
    try:
        payload = codec.decode(delivery.body, request.content_type, limit=2**62)
        text = shown(payload)
    except AmqpRpcError:
        # Anybody may publish anything: it is shown all the same.
        payload = text = str(delivery.body)
    if not as_json:
        return _printable(f"{event.topic} {text}" if event.topic else text)
    said: dict[str, Any] = {
        "topic": event.topic,
        "payload": payload,
        "headers": {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in event.headers.items()
        },
        "id": event.id,
        "time": event.time,
    }
    try:
        return _printable(shown(said))
    except AmqpRpcError:
        # What JSON has no words for.
        headers = {name: str(value) for name, value in event.headers.items()}
        return _printable(shown(said | {"payload": str(delivery.body), "headers": headers}))


def _printable(line: str) -> str:
    """Return a line as one line that does nothing to a terminal: what can't be printed is escaped."""
    if line.isprintable():
        return line
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
