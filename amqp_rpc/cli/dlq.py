"""``amqp-rpc dlq``: list, show, replay and drop dead letters. One command, one module: a seam."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import click

from amqp_rpc.cli.exits import Exit, fail, fail_with, one_line_errors
from amqp_rpc.cli.options import Broker, Time, broker_options
from amqp_rpc.cli.output import Reports, as_json, columns, decoded_as_json, local, terminal_width
from amqp_rpc.client.client import Client
from amqp_rpc.errors import AmqpRpcError, BrokerError, BrokerTimeout, NamesAnotherQueue, PublishRefused
from amqp_rpc.message.dead_letter import DeadLetter
from amqp_rpc.message.text import lines, plural, quoted
from amqp_rpc.message.topology import dead_letter_queue
from amqp_rpc.ops.dead_letters import DEFAULT_LIMIT, DeadLetters

F = TypeVar("F", bound=Callable[..., Any])

_TIME = Time(ago=True)
#: Characters of arguments that are shown of one letter, and queues that are named in a question.
_LONGEST_ARGUMENTS, _MOST_NAMED = 50_000, 5

_EPILOG = f"""\
QUEUE is a task queue (thumbnails), the queue of a subscription (events.mail.write), a queue between processes, or the
call queue of a service (rpc_queue); with or without ".dead".

\b
  amqp-rpc dlq list thumbnails --after 1h
  amqp-rpc dlq show thumbnails 9f3c
  amqp-rpc dlq replay thumbnails --function resize
  amqp-rpc dlq drop thumbnails --before 30d

The beginning or the end of an ID is enough if it is unique. A TIME is ISO 8601 (2026-01-31T12:00, local unless it has
a zone), or an age: 90s, 15m, 2h, 7d.

Exit codes: {Exit.OK:d} done, also if there were none, {Exit.NO_BROKER:d} no broker, {Exit.ACCESS_REFUSED:d} access \
refused, {Exit.NO_SERVER:d} no such queue, {Exit.TIMEOUT:d} --timeout is over,
{Exit.REFUSED:d} the broker refused a replayed message, {Exit.NO_DEAD_LETTER:d} no dead letter with that id,
{Exit.NOT_CONFIRMED:d} drop: not confirmed; replay: some name another queue, and stay,
{Exit.INTERRUPTED:d} Ctrl-C: what is under way is finished first, and a second Ctrl-C ends at once.
"""


@click.group(epilog=_EPILOG)
def dlq() -> None:
    """List, show, replay and drop dead letters.

    A dead letter is a task or an event that failed at its last attempt, expired, crashed its workers, or could not be
    read.
    """


def _connected(command: F) -> F:
    """Give a command the queue and the options of all commands here."""
    # Without a variable: AMQP_RPC_TIMEOUT is for calls, and must not cut off hours of work.
    timeout = click.option(
        "--timeout", type=float, metavar="SECONDS", show_default="no limit",
        help="Seconds that each way through the dead letters may take.",
    )  # fmt: skip
    return click.argument("queue")(broker_options(timeout(command)))


def _filters(command: F) -> F:
    """Give a command the options that filter dead letters."""
    function = click.option("--function", metavar="NAME", help="Those of this function.")
    before = click.option("--before", type=_TIME, metavar="TIME", help="Those that died before; 2h is 2 h ago.")
    after = click.option("--after", type=_TIME, metavar="TIME", help="Those that died at this time or later.")
    return function(before(after(command)))


def _selection(command: F) -> F:
    """Give a command the arguments and options that select dead letters."""
    everything = click.option("--all", is_flag=True, help="All of them.")
    return _connected(click.argument("ids", nargs=-1, metavar="[ID]...")(_filters(everything(command))))


@dlq.command("list")
@_connected
@_filters
@click.option("--limit", type=click.IntRange(0), default=DEFAULT_LIMIT, show_default=True,
              help="The most to list; 0 for all.")  # fmt: skip
@click.option("--json", "as_lines", is_flag=True, help="Print one JSON object per line.")
def list_(queue: str, *, broker: Broker, timeout: float | None, limit: int, as_lines: bool, **filters: Any) -> None:
    """List the dead letters of QUEUE, oldest death first."""
    with _dead_letters(broker, queue, timeout) as dead:
        with Reports("read") as reports:
            letters = dead.list(limit=limit or None, progress=reports, **filters)
        if as_lines:
            for letter in letters:
                click.echo(_json(letter))
        elif letters:
            click.echo(_table(letters, dead.queue))
        more = f" (--limit {limit}: there may be more)" if len(letters) == limit else ""
        fits = " that fits" if any(filters.values()) else ""
        some, none = f"{_plural(len(letters))} of {dead.queue}{more}", f"{dead.queue} has no dead letter{fits}"
        click.echo(some if letters else none, err=True)


@dlq.command()
@_connected
@click.argument("id")
@click.option("--json", "as_lines", is_flag=True, help="Print a JSON object.")
def show(queue: str, id: str, *, broker: Broker, timeout: float | None, as_lines: bool) -> None:  # noqa: A002 - as users write it
    """Show everything about one dead letter."""
    with _dead_letters(broker, queue, timeout) as dead:
        (full,) = _resolved(dead, (id,))
        with Reports("read") as reports:
            letter = dead.get(full, progress=reports)
        if letter is None:
            fail(f"dead letter {full} is no longer there", Exit.NO_DEAD_LETTER)
        click.echo(_json(letter) if as_lines else _description(letter, dead.queue))


@dlq.command()
@_selection
@click.option("--to", metavar="QUEUE", help="Put them into this queue, whichever they name.")
def replay(
    queue: str, ids: tuple[str, ...], *, broker: Broker, timeout: float | None, to: str | None, **filters: Any
) -> None:
    """Put dead letters back into QUEUE, under the same id; print the ids.

    Each starts again at its first attempt, and keeps the history of its deaths. One that had expired (--expires) no
    longer expires. One that names another queue needs --to, or a yes at a terminal: any program may write it.
    """
    _check_which(ids, **filters)
    if to == "":
        fail("--to is the name of a queue", Exit.USAGE)
    with _dead_letters(broker, queue, timeout) as dead:
        elsewhere = _done(dead, "replayed", {"ids": _resolved(dead, ids) if ids else None, **filters}, to)
        if elsewhere and _agreed(dead, elsewhere):
            for there, theirs in elsewhere.items():
                _done(dead, "replayed", {"ids": theirs}, there)


@dlq.command()
@_selection
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
def drop(queue: str, ids: tuple[str, ...], *, broker: Broker, timeout: float | None, yes: bool, **filters: Any) -> None:
    """Delete dead letters of QUEUE for good; print the ids. Ask first, unless --yes is given."""
    _check_which(ids, **filters)
    with _dead_letters(broker, queue, timeout) as dead:
        which = {"ids": _resolved(dead, ids) if ids else None, **filters}
        if not yes:
            which = _confirmed(dead, which)
        _done(dead, "dropped", which)


def _done(dead: DeadLetters, verb: str, which: dict[str, Any], to: str | None = None) -> dict[str, list[str]]:
    """Replay or drop letters, print their ids as they are confirmed, and say how many they were, however it ends.

    Return the ids of those that name another queue, and stay, by that queue.
    """
    method = partial(dead.replay, to=to) if verb == "replayed" else dead.drop
    elsewhere: dict[str, list[str]] = {}
    failure: BrokerError | None = None
    with Reports(verb, ids=True) as reports, _first_interrupt_stops(reports):
        try:
            done = len(method(progress=reports, **which)) if which else 0
        except NamesAnotherQueue as error:
            done, elsewhere = len(error.ids), error.queues
        except (BrokerTimeout, PublishRefused) as error:
            # Its text has the numbers; it is printed after the ids.
            failure = error
        except BrokerError as error:
            failure = error
            failure.args = (f"{error}; {_plural(len(error.ids))} of {dead.queue} were {verb} before",)
        except KeyboardInterrupt:
            reports.stopped, done = True, reports.done
    if failure is not None:
        fail_with(failure)
    total = len(which["ids"]) if which.get("ids") else reports.total if which.get("all") else None
    if reports.stopped and done != total:
        of = "" if total is None else f" of {total}"
        fail(
            f"interrupted: {done}{of} dead letters of {dead.queue} were {verb}; the others stay as they are",
            Exit.INTERRUPTED,
        )
    click.echo(f"{verb} {_plural(done)} of {dead.queue}", err=True)
    return elsewhere


@contextlib.contextmanager
def _first_interrupt_stops(reports: Reports) -> Iterator[None]:
    """Let the first Ctrl-C finish what is in flight, and the second end at once."""
    usual = signal.getsignal(signal.SIGINT)

    def stop(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, usual)
        reports.stopped = True

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)


def _confirmed(dead: DeadLetters, which: dict[str, Any]) -> dict[str, Any]:
    """Ask whether to drop letters; return the selection of those that were counted, without later ones."""
    with Reports("read") as reports:
        letters = dead.list(
            limit=None, progress=reports, **{name: value for name, value in which.items() if name != "all"}
        )
    if not letters:
        return {}
    question = f"Drop {_plural(len(letters))} of {dead.queue} for good?"
    _ask(question, "--yes", "Nothing was dropped")
    ids = [letter.id for letter in letters]
    # A letter without an id can't be told from a later one.
    return which if None in ids else {"ids": ids}


def _agreed(dead: DeadLetters, elsewhere: dict[str, list[str]]) -> bool:
    """Ask whether to replay letters to the queues that they name; without a yes, end the program."""
    named = [f"{queue!r} ({len(ids)})" for queue, ids in elsewhere.items()]
    shown = ", ".join(named[:_MOST_NAMED]) + (f" and {len(named) - _MOST_NAMED} more" if named[_MOST_NAMED:] else "")
    count = sum(len(ids) for ids in elsewhere.values())
    _ask(
        quoted(f"{_plural(count)} of {dead.queue} {'names' if count == 1 else 'name'} another queue: {shown}. Replay "
               f"{'it' if count == 1 else 'each'} there?"),
        "--to QUEUE",
        "What names another queue stays",
    )  # fmt: skip
    if any("" in ids for ids in elsewhere.values()):
        fail("letters without an id can't be replayed one by one: give --to QUEUE", Exit.NOT_CONFIRMED)
    return True


def _ask(question: str, otherwise: str, refused: str) -> None:
    """Ask at a terminal; end the program without a yes, or without a terminal.

    Args:
        question: The question.
        otherwise: The flag that answers it.
        refused: What became of the letters.
    """
    if not sys.stdin.isatty():
        fail(f"{question} There is no terminal to ask: give {otherwise}. {refused}", Exit.NOT_CONFIRMED)
    _forget_typed()
    if not click.confirm(question, err=True):
        fail(f"{refused[0].lower()}{refused[1:]}", Exit.NOT_CONFIRMED)


def _forget_typed() -> None:
    """Drop what was typed before the question was asked: it answers something else."""
    # Windows has no termios.
    with contextlib.suppress(ImportError):
        import termios  # noqa: PLC0415 - as above

        termios.tcflush(sys.stdin, termios.TCIFLUSH)


def _check_which(ids: tuple[str, ...], *, all: bool, **filters: datetime | str | None) -> None:  # noqa: A002 - the option
    some = bool(ids) or any(filters.values())
    if some == all:
        fail("say which: IDs, --function, --before or --after; or --all, without them", Exit.USAGE)


@contextlib.contextmanager
def _dead_letters(broker: Broker, queue: str, timeout: float | None) -> Iterator[DeadLetters]:
    """Connect and give the dead letters of an existing queue; turn errors into one line."""
    with one_line_errors(), Client(**broker) as client:
        limit = {} if timeout is None else {"timeout": timeout}
        dead = client.dead_letters(queue.removesuffix(dead_letter_queue("")) or queue, **limit)
        states = client.queue_states([dead.dead_letter_queue, dead.queue], **limit)
        if not any(states.values()):
            fail(f"there is no queue {dead.queue!r}, and no dead letter of it", Exit.NO_SERVER)
        yield dead


def _resolved(dead: DeadLetters, parts: tuple[str, ...]) -> list[str]:
    """Return the full ids of ids, their beginnings or their ends."""
    with Reports("read") as reports:
        known = {letter.id for letter in dead.list(limit=None, progress=reports) if letter.id is not None}

    def resolve(part: str) -> str:
        # As a narrow terminal shows it.
        part = part.removesuffix("…")
        found = [part] if part in known else [each for each in known if each.startswith(part)]
        found = found or [each for each in known if each.endswith(part)]
        if len(found) != 1:
            how_many = (
                f"{len(found)} dead letters have ids like {part!r}" if found else f"no dead letter has id {part!r}"
            )
            fail(f"{how_many} in {dead.queue}: `amqp-rpc dlq list {dead.queue}` shows them", Exit.NO_DEAD_LETTER)
        return found[0]

    return [resolve(part) for part in parts]


def _table(letters: list[DeadLetter], queue: str) -> str:
    # Events have no function and tasks have no topic: both columns are rarely needed.
    what = {"FUNCTION": [each.function for each in letters], "TOPIC": [each.topic for each in letters]}
    shown = {title: cells for title, cells in what.items() if any(cells)} or {"FUNCTION": what["FUNCTION"]}
    if any(each.queue != queue for each in letters):
        shown["QUEUE"] = [each.queue for each in letters]
    titles = ["ID", *shown, "DIED", "ATTEMPT", "REASON"]
    rows = [
        [each.id or "-", *(cell or "-" for cell in cells), local(each.died), each.attempt, each.reason or "-"]
        for each, *cells in zip(letters, *shown.values(), strict=True)
    ]
    return columns(titles, rows, width=terminal_width())


def _json(letter: DeadLetter) -> str:
    """Return a letter as JSON; its arguments are JSON too if they can be, otherwise text."""
    body = letter.body
    shown = dataclasses.asdict(dataclasses.replace(letter, body=None))
    del shown["body"]
    # A payload of None is JSON; a body that can't be decoded is another text.
    if (body is not None and not isinstance(body, bytes)) or letter.arguments == "None":
        with contextlib.suppress(AmqpRpcError, ValueError, RecursionError):
            shown["arguments"] = json.loads(decoded_as_json(body))
    return as_json(shown)


def _description(letter: DeadLetter, queue: str) -> str:
    other = "" if letter.queue == queue else f" (another queue than {queue}: a replay needs --to)"
    fields = {
        "id": letter.id or "-",
        **({"topic": letter.topic} if letter.topic and not letter.function else {"function": letter.function or "-"}),
        "queue": f"{letter.queue}{other}",
        "arguments": letter.arguments or "none",
        "size": f"{letter.size} bytes",
        "enqueued": local(letter.enqueued),
        "died": local(letter.died),
        "reason": letter.reason,
        "attempt": str(letter.attempt),
        "crashes": str(letter.crashes),
    }
    text = [f"{name:10} {quoted(value, _LONGEST_ARGUMENTS)}" for name, value in fields.items()]
    text += [
        f"{'before':10} {local(each.died)}, attempt {each.attempt}: {quoted(each.reason)}" for each in letter.history
    ]
    return "\n".join([*text, *(["", lines(letter.traceback.rstrip(), "  ")] if letter.traceback else [])])


def _plural(count: int) -> str:
    return plural(count, "dead letter", "dead letters")
