"""``amqp-rpc dlq``: dead letters, listed, shown, replayed and dropped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from amqp_rpc.cli.columns import Time, as_json, columns, local, terminal_width
from amqp_rpc.cli.exits import Exit
from amqp_rpc.cli.failing import fail, one_line_errors
from amqp_rpc.cli.options import option, url_option
from amqp_rpc.client.client import Client
from amqp_rpc.message.dead_letter import DeadLetter
from amqp_rpc.message.settings import DEFAULT_TIMEOUT
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.ops.dead_letters import DEFAULT_LIMIT, DeadLetters

F = TypeVar("F", bound=Callable[..., Any])

_EPILOG = f"""\b
QUEUE is the tasks' queue (thumbnails), a subscription's (events.mail.write), a queue between processes, or a service's
calls' (rpc_queue); with or without ".dead".
  amqp-rpc dlq list thumbnails --after 1h
  amqp-rpc dlq show thumbnails 9f3c
  amqp-rpc dlq replay thumbnails --function resize
  amqp-rpc dlq drop thumbnails --before 30d
\b
An ID may be shortened to its beginning, or its end, where no other has it. A TIME is ISO 8601 (2026-01-31T12:00, of
the local zone unless it names one), or so long ago: 90s, 15m, 2h, 7d.
\b
Exit codes: {Exit.OK:d} done, also where there are none, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access \
refused, {Exit.NO_SERVER:d} no such queue,
{Exit.REFUSED:d} the broker did not take what was replayed, {Exit.NO_DEAD_LETTER:d} no dead letter with that id, \
{Exit.NOT_CONFIRMED:d} drop: not confirmed.
"""


@click.group(epilog=_EPILOG)
def dlq() -> None:
    """Look at dead letters, replay them, drop them.

    A dead letter is a task or an event that failed on its last try, expired, killed its workers, or could not be read.
    """


def _connected(command: F) -> F:
    """Give a command the options that all of them have."""
    timeout = option("timeout", type=float, default=DEFAULT_TIMEOUT, metavar="SECONDS", help="Seconds it may take.")
    return url_option(timeout(command))


def _filters(command: F) -> F:
    """Give a command the options that say which dead letters."""
    decorators = [
        click.option("--function", metavar="NAME", help="Those for this function."),
        click.option("--before", type=Time(ago=True), metavar="TIME", help="Those that died before: 2h is 2 h ago."),
        click.option("--after", type=Time(ago=True), metavar="TIME", help="Those that died then or later."),
    ]
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


@dlq.command("list")
@click.argument("queue")
@_filters
@click.option(
    "--limit", type=click.IntRange(0), default=DEFAULT_LIMIT, show_default=True, help="How many at most; 0 for all."
)
@click.option("--json", "as_lines", is_flag=True, help="Print one JSON object a line.")
@_connected
def list_(queue: str, *, url: str | None, timeout: float, limit: int, as_lines: bool, **filters: Any) -> None:
    """List the dead letters of QUEUE, oldest death first."""
    with one_line_errors(), Client(url) as client:
        dead = _dead_letters(client, queue, timeout)
        letters = dead.list(limit=limit or None, **filters)
        if as_lines:
            for letter in letters:
                click.echo(as_json(dataclasses.asdict(letter)))
        elif letters:
            click.echo(_table(letters))
        more = f" (--limit {limit}: there may be more)" if len(letters) == limit else ""
        some = " that fits" if any(filters.values()) else ""
        said = f"{_plural(len(letters))} of {dead.queue}{more}" if letters else f"{dead.queue} has no dead letter{some}"
        click.echo(said, err=True)


@dlq.command()
@click.argument("queue")
@click.argument("id")
@click.option("--json", "as_lines", is_flag=True, help="Print a JSON object.")
@_connected
def show(queue: str, id: str, *, url: str | None, timeout: float, as_lines: bool) -> None:  # noqa: A002 - as it is said
    """Show all that is known of one dead letter."""
    with one_line_errors(), Client(url) as client:
        dead = _dead_letters(client, queue, timeout)
        (full,) = _resolved(dead, (id,))
        letter = dead.get(full)
        if letter is None:
            fail(f"somebody has just taken {full} away", Exit.NO_DEAD_LETTER)
        click.echo(as_json(dataclasses.asdict(letter)) if as_lines else _description(letter))


@dlq.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@_connected
def replay(
    queue: str, ids: tuple[str, ...], *, url: str | None, timeout: float, everything: bool, **filters: Any
) -> None:
    """Put dead letters back into QUEUE, under the same id; print the ids.

    Each begins again at its first try, and remembers how it died. One whose time was over (--expires) has none then.
    """
    _check_which(ids, everything=everything, **filters)
    with one_line_errors(), Client(url) as client:
        dead = _dead_letters(client, queue, timeout)
        known = _resolved(dead, ids) if ids else None
        replayed = dead.replay(ids=known, all=everything, **filters)
        for each in replayed:
            click.echo(each)
        click.echo(f"replayed {_plural(len(replayed))} of {dead.queue}", err=True)


@dlq.command()
@click.argument("queue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_filters
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@_connected
def drop(
    queue: str, ids: tuple[str, ...], *, url: str | None, timeout: float, everything: bool, yes: bool, **filters: Any
) -> None:
    """Delete dead letters of QUEUE for good; asks before, unless --yes is given."""
    _check_which(ids, everything=everything, **filters)
    with one_line_errors(), Client(url) as client:
        dead = _dead_letters(client, queue, timeout)
        which = {"ids": _resolved(dead, ids) if ids else None, "all": everything, **filters}
        if not yes:
            which = _confirmed(dead, which)
        dropped = dead.drop(**which) if which else []
        click.echo(f"dropped {_plural(len(dropped))} of {dead.queue}", err=True)


def _confirmed(dead: DeadLetters, which: dict[str, Any]) -> dict[str, Any]:
    """Ask whether to drop letters; return which, as far as they were counted: nothing that came meanwhile."""
    letters = dead.list(limit=None, **{name: value for name, value in which.items() if name != "all"})
    if not letters:
        return {}
    question = f"Drop {_plural(len(letters))} of {dead.queue} for good?"
    if not sys.stdin.isatty():
        fail(f"{question} There is no terminal to ask: give --yes. Nothing was dropped", Exit.NOT_CONFIRMED)
    if not click.confirm(question, err=True):
        fail("nothing was dropped", Exit.NOT_CONFIRMED)
    ids = [letter.id for letter in letters]
    # What has no id can't be told from what came meanwhile.
    return which if None in ids else {"ids": ids}


def _check_which(ids: tuple[str, ...], *, everything: bool, **filters: datetime | str | None) -> None:
    some = bool(ids) or any(filters.values())
    if some == everything:
        fail("say which: IDs, --function, --before or --after; or --all, without them", Exit.USAGE)


def _dead_letters(client: Client, queue: str, timeout: float) -> DeadLetters:
    suffix = dead_letter_queue("")
    dead = client.dead_letters(queue.removesuffix(suffix) or queue, timeout=timeout)
    states = client.queue_states([dead.dead_letter_queue, dead.queue], timeout=timeout)
    if not any(states.values()):
        fail(f"there is no queue {dead.queue!r}, and no dead letter of it", Exit.NO_SERVER)
    return dead


def _resolved(dead: DeadLetters, parts: tuple[str, ...]) -> list[str]:
    """Return the ids that are meant by ids, their beginnings or their ends."""
    known = {letter.id for letter in dead.list(limit=None) if letter.id is not None}

    def resolve(part: str) -> str:
        found = [part] if part in known else [each for each in known if each.startswith(part)]
        found = found or [each for each in known if each.endswith(part)]
        if len(found) != 1:
            how_many = f"{len(found)} dead letters have ids like {part!r}" if found else f"no dead letter is {part!r}"
            fail(f"{how_many} in {dead.queue}: `amqp-rpc dlq list {dead.queue}` shows them", Exit.NO_DEAD_LETTER)
        return found[0]

    return [resolve(part) for part in parts]


def _table(letters: list[DeadLetter]) -> str:
    # Events name no function, and tasks have no topic: seldom is there need of both columns.
    what = {"FUNCTION": [each.function for each in letters], "TOPIC": [each.topic for each in letters]}
    shown = {title: cells for title, cells in what.items() if any(cells)} or {"FUNCTION": what["FUNCTION"]}
    titles = ["ID", *shown, "DIED", "TRY", "REASON"]
    rows = [
        [each.id or "-", *(cell or "-" for cell in cells), local(each.died), each.attempt, each.reason or "-"]
        for each, *cells in zip(letters, *shown.values(), strict=True)
    ]
    return columns(titles, rows, width=terminal_width())


def _description(letter: DeadLetter) -> str:
    lines = {
        "id": letter.id or "-",
        **({"topic": letter.topic} if letter.topic and not letter.function else {"function": letter.function or "-"}),
        "queue": letter.queue,
        "arguments": letter.arguments or "none",
        "size": f"{letter.size} bytes",
        "enqueued": local(letter.enqueued),
        "died": local(letter.died),
        "reason": letter.reason,
        "try": str(letter.attempt),
        "crashes": str(letter.crashes),
    }
    text = [f"{name:10} {value}" for name, value in lines.items()]
    text += [f"{'before':10} {local(each.died)}, try {each.attempt}: {each.reason}" for each in letter.history]
    return "\n".join([*text, *(["", letter.traceback.rstrip()] if letter.traceback else [])])


def _plural(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"
